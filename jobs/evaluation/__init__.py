"""Judging vectors and item-to-item maps, from exported files alone."""
