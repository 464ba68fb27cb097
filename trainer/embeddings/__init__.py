"""Tables of vectors spread over the ranks, and their optimisers."""
