"""Checkpoints: their files, and how they are written while steps go on."""
