"""Clicks -> vocabularies, node sequences, graphs and links of every view."""
