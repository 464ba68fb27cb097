"""The rows of a rank as they were at one moment, read piece by piece while steps go on to change
them.

Few rows are copied at once: that costs less than to look after them. Of many nothing is copied
beforehand: before a step changes rows that were not read yet, they are kept aside (`keep`), and
whoever reads puts them back in their places. What is kept aside has a bound: from there on a step
waits until all is read.
"""

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from trainer.arrays import Array, Int64s

KEPT_BYTES = 64 << 20
"""Memory for rows that are kept aside, from which on a step waits; the one that comes to it may go
beyond by its own rows."""
COPIED_BYTES = 64 << 20
"""Most memory for rows that are copied at once."""


class Snapshot:
    """A rank's tensors, all with the same first axis, as they stand when this is made.

    One thread reads them once, in order; another changes them, and calls `keep` before it does.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], copied_bytes: int, kept_bytes: int = KEPT_BYTES
    ) -> None:
        """copied_bytes: tensors of at most so many are copied here and now."""
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
        self._copied = sum(sizes) <= copied_bytes
        self._tensors = dict(tensors)
        if self._copied:
            self._tensors = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        self._left = dict.fromkeys(self._tensors, 0)
        """Name -> first row that was not read yet."""
        rows = len(next(iter(self._tensors.values())))
        self._kept = np.zeros(rows, np.bool_)
        self._aside: list[tuple[Int64s, dict[str, Array]]] = []
        self.kept_bytes = 0
        self._most = kept_bytes
        self._turn = threading.Condition()
        self._over = self._copied

    def keep(self, rows: Tensor) -> None:
        """`rows` [any] of distinct numbers are about to change: those that are still to be read are
        kept aside."""
        if self._over:
            return
        with self._turn:
            self._turn.wait_for(lambda: self._over or self.kept_bytes < self._most)
            if self._over:
                return
            # Rows before this one have been read of every tensor.
            unread = min(self._left.values())
            numbers = rows.cpu().numpy()
            is_new = (numbers >= unread) & ~self._kept[numbers]
            # Sorted, so that a piece finds its own by bisection.
            new = np.sort(numbers[is_new])
            chosen = torch.from_numpy(new).to(rows.device)
            copies: dict[str, Array] = {}
            self.kept_bytes += new.nbytes
            for name, tensor in self._tensors.items():
                copy = tensor.index_select(0, chosen).cpu().numpy()
                copies[name] = copy
                self.kept_bytes += copy.nbytes
            self._kept[new] = True
            self._aside.append((new, copies))

    def read(self, name: str, piece_rows: int) -> Iterator[Array]:
        """A tensor's rows as they were, `piece_rows` at a time, each piece the reader's own. Every
        tensor is read once."""
        tensor = self._tensors[name]
        for first in range(0, len(tensor), piece_rows):
            stop = min(len(tensor), first + piece_rows)
            if self._copied:
                yield tensor[first:stop].numpy()
                continue
            with self._turn:
                piece: Array = tensor[first:stop].to("cpu", copy=True).numpy()
                # Each row is kept aside once, as it was: the order of these does not matter.
                for rows, copies in self._aside:
                    begin, end = np.searchsorted(rows, (first, stop))
                    positions = rows[begin:end] - first
                    piece[positions] = copies[name][begin:end]
                self._left[name] = stop
            yield piece
        if all(left == len(tensor) for left in self._left.values()):
            self.close()

    def close(self) -> None:
        """All is read, or nobody wants it any more: nothing is kept aside from now on."""
        with self._turn:
            self._over = True
            self._aside.clear()
            self._turn.notify_all()
