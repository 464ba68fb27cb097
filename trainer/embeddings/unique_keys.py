"""The distinct keys of a step: what torch.unique gives with inverse, in a few passes over bits
where a kernel is there."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.kernels import build

WORD = 64
"""Keys of a word of bits."""


class Distinct:
    """Finds distinct keys in [0, size). Compiled, it holds 1.5 bits a key."""

    def __init__(self, size: int, kernel: Callable[..., int] | None = None) -> None:
        """kernel: `bindings.bind_distinct()`; none: PyTorch sorts."""
        self._size = size
        words = -(-size // WORD) if kernel else 0
        # A bit for each key, and before each word how many keys come in the words below it.
        self._bits = torch.zeros(words, dtype=torch.int64)
        self._below = torch.empty(words, dtype=torch.int32)
        self._kernel = kernel

    def __call__(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(distinct keys in ascending order, where each of `keys` [reads] stands among them);
        int64.

        The compiled kernel raises IndexError for what is no key.
        """
        if self._kernel is None:
            distinct, index = torch.unique(keys, return_inverse=True)
            return distinct, index
        # Room for all of them to be distinct; what is not written takes no memory.
        distinct = torch.empty_like(keys)
        index = torch.empty_like(keys)
        reads = build.pointer(keys)
        words = map(build.pointer, (self._bits, self._below))
        written = map(build.pointer, (distinct, index))
        count = self._kernel(reads, len(keys), *words, self._size, *written)
        if count < 0:
            # -1 - i: the i-th of `keys` is none.
            raise IndexError(f"{int(keys[-1 - count])} is no key: there are {self._size}")
        return distinct[:count], index
