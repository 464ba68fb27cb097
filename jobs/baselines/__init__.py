"""Rivals that need no vectors: popularity and Item-CF."""
