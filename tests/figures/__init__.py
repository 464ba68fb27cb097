"""Pictures of the docs, drawn from the code and from a run's output."""
