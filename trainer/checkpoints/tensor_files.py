"""Writing and reading safetensors files a piece at a time. The library's own writer wants whole,
contiguous tensors: a copy of all rows of a rank; its reader maps files into memory, where all that
was read stays.

The format: 8 bytes with the length of a JSON header, the header, and the tensors' numbers one after
the other, little-endian.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.storage.files import whole_file
from trainer.arrays import Array

PIECE_ROWS = 65536
"""Rows copied at a time."""
_ALIGNED = 8
"""The header's length is a multiple of this, so that the numbers after it can be read where they
lie."""
_LENGTH = 8
"""Bytes that tell the header's length."""
_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
_KINDS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
}

Pieces = Callable[[str, int], Iterable[Array]]
"""(name of a tensor, rows) -> its numbers, so many rows at a time."""


class TensorFile:
    """A safetensors file whose rows are read from the disk when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be read."""
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            self._entries = json.loads(file.read(length))
        self._begin = _LENGTH + length

    def rows(self, name: str, first: int, stop: int) -> Tensor:
        """Rows [first, stop) of a tensor, a copy. Raises KeyError where there is no such tensor."""
        entry = self._entries[name]
        _, *others = entry["shape"]
        kind = _KINDS[entry["dtype"]]
        width = math.prod(others)
        of_tensor, _ = entry["data_offsets"]
        begin = self._begin + of_tensor + first * width * kind.itemsize
        count = (stop - first) * width
        # Read, and not mapped: pages of a map would stay in this process's memory.
        numbers = np.fromfile(self._path, kind, count, offset=begin)
        # [rows * width] -> [rows, ...]
        return torch.from_numpy(numbers).reshape(stop - first, *others)


class Written(NamedTuple):
    """A file on the disk."""

    bytes: int
    sha256: str


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], pieces: Pieces | None = None
) -> Written:
    """Writes a whole file, flushed: tensors of these shapes and types, with the numbers they hold
    or those that `pieces` gives.

    Raises OSError where the disk does not take it.
    """
    digest = hashlib.sha256()
    size = 0
    contents = _file(tensors, pieces or _their_own(tensors))
    with whole_file(path) as part, part.open("wb") as file:
        # The checksum is of what is written, in the same pass.
        for piece in contents:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return Written(size, digest.hexdigest())


def _file(tensors: Mapping[str, Tensor], pieces: Pieces) -> Iterator[bytes | memoryview]:
    entries: dict[str, Any] = {}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % _ALIGNED)
    yield len(header).to_bytes(_LENGTH, "little") + header
    for name in tensors:
        for piece in pieces(name, PIECE_ROWS):
            # [rows, ...] -> [bytes], the same memory
            yield piece.reshape(-1).view(np.uint8).data


def _their_own(tensors: Mapping[str, Tensor]) -> Pieces:
    def pieces(name: str, piece_rows: int) -> Iterator[Array]:
        tensor = tensors[name]
        # A number has no first axis: [] -> [1]
        rows = tensor if tensor.dim() else tensor.reshape(1)
        for first in range(0, len(rows), piece_rows):
            piece = rows[first : first + piece_rows]
            yield piece.contiguous().numpy()

    return pieces
