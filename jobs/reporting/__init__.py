"""The page at the end of a run, from a project's files alone."""
