"""The commands that a user types: thin entry points, their configuration, and what reads exported
files alone."""
