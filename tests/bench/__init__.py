"""Benchmarks, and independent counts of what the pipeline writes: targets of their own, which
pytest does not collect."""
