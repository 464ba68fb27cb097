"""The distinct keys of a step: what torch.unique gives with inverse, in a few passes over bits
where a kernel is there."""

import ctypes

import torch
from torch import Tensor

from trainer.kernels import build

WORD = 64
"""Keys of a word of bits."""


class Distinct:
    """Finds distinct keys in [0, size). Compiled, it holds 1.5 bits a key."""

    def __init__(self, size: int, kernel: "KeyKernel | None" = None) -> None:
        """kernel: none: PyTorch sorts."""
        self._size = size
        words = -(-size // WORD) if kernel else 0
        self._bits, self._below = (
            torch.zeros(words, dtype=torch.int64),
            torch.empty(words, dtype=torch.int32),
        )
        self._kernel = kernel

    def __call__(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(distinct keys in ascending order, where each of `keys` [reads] stands among them);
        int64.

        The compiled kernel raises IndexError for what is no key.
        """
        if self._kernel is None:
            found, index = torch.unique(keys, return_inverse=True)
            return found, index
        found, index = torch.empty_like(keys), torch.empty_like(keys)
        places = map(build.pointer, (self._bits, self._below))
        into = map(build.pointer, (found, index))
        count = self._kernel.distinct(build.pointer(keys), len(keys), *places, self._size, *into)
        if count < 0:
            raise IndexError(f"{int(keys[-1 - count])} is no key: there are {self._size}")
        return found[:count], index


class KeyKernel:
    """The compiled part."""

    def __init__(self) -> None:
        """Raises KernelError where it cannot be compiled."""
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self.distinct = build.load_library("keys").distinct
        self.distinct.restype, self.distinct.argtypes = (
            whole,
            [pointer, whole, pointer, pointer, whole, pointer, pointer],
        )
