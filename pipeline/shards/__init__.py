"""Sequences, edges and links -> the Parquet files that training reads, and the held-out cases."""
