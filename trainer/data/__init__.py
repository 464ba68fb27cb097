"""Rows of the shards, in an order that is a pure function of the seed, and counter-based random
draws."""
