"""Whole runs: preprocess, take in a day, renew, rebuild, maintain, preview."""
