"""The figures of a model, one a file; `registry` lists them."""
