"""Vectors -> similarity maps: catalogue, scores, search."""
