"""The tasks: losses, gradients, negatives, relational spaces, task weights."""
