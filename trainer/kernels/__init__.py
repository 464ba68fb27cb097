"""The arithmetic of the fast step in C++, for one core. Each function has a twin in PyTorch, which
computes where no compiler is there."""
