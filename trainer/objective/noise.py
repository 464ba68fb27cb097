"""The noise distribution P_n of negative sampling (paper eq. 3)."""

import ctypes

import numpy as np

from trainer.arrays import Float64s, Int64s
from trainer.data import counter_rng
from trainer.kernels import build


class Noise:
    """Draws rows of one view with probability proportional to count^exponent.

    Rows whose count is 0 (ids that stay in the vocabulary but were not clicked) are never drawn,
    unless the exponent is 0.
    """

    def __init__(self, counts: Int64s, exponent: float) -> None:
        weights = np.power(counts.astype(np.float64), exponent)
        if not len(weights) or weights.sum() <= 0:
            raise ValueError("a view without clicked nodes has no noise distribution")
        keep, alias = alias_table(weights)
        # Half the memory, on every rank for all nodes; a probability is rounded by less than 6e-8.
        self.keep, self.alias = keep.astype(np.float32), alias.astype(np.int32)

    def draw(self, *key: counter_rng.Key) -> Int64s:
        """Rows for the keys, shaped as they broadcast; int64."""
        place = counter_rng.uniform(*key) * len(self.keep)
        column = np.minimum(place.astype(np.int64), len(self.keep) - 1)
        return np.where(
            place - column < self.keep[column].astype(np.float64), column, self.alias[column]
        )


class DrawKernel:
    """The draws of a step's chunks in C++: the very numbers that `Noise.draw` gives."""

    def __init__(self) -> None:
        """Raises KernelError where it cannot be compiled."""
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self._draw = build.load_library("keys").draw
        self._draw.restype = None
        self._draw.argtypes = [
            ctypes.c_uint64,
            pointer,
            pointer,
            whole,
            whole,
            pointer,
            pointer,
            whole,
            pointer,
        ]

    def __call__(
        self,
        noise: Noise,
        key: tuple[int, ...],
        lanes: Int64s,
        numbers: Int64s,
        count: int,
    ) -> Int64s:
        """noise.draw(*key, lane, number, position) for the lane and number of each chunk and for
        `count` positions; [chunks, count]."""
        drawn = np.empty((len(lanes), count), np.int64)
        state, table = (
            int(counter_rng.bits(*key)[0]),
            (noise.keep.ctypes.data, noise.alias.ctypes.data, len(noise.keep)),
        )
        self._draw(
            state,
            lanes.ctypes.data,
            numbers.ctypes.data,
            len(lanes),
            count,
            *table,
            drawn.ctypes.data,
        )
        return drawn


def alias_table(
    weights: Float64s,
) -> tuple[Float64s, Int64s]:
    """(keep, alias), each [n]: a column drawn evenly, kept with probability `keep`, else exchanged
    for its alias, is distributed as the weights (Walker, 1977). A draw then looks at two places of
    memory, however many columns there are.

    Columns that need more than their share, in order, fill up those that need less, in order; what
    one of them has left when the next begins is filled up by that next one. So both orders are
    cumulative sums, and no column waits for another.
    """
    share = weights * (len(weights) / weights.sum())
    # The largest is never below its share but for rounding.
    share[np.argmax(share)] = max(1.0, share.max())
    small, large = np.flatnonzero(share < 1), np.flatnonzero(share >= 1)
    keep, alias = np.minimum(share, 1.0), np.arange(len(weights))
    lacking, spare = np.cumsum(1 - share[small]), np.cumsum(share[large] - 1)
    begun = np.concatenate(([0.0], lacking))[:-1]
    # The one that still has something to spare when a small column begins; the last, where rounding
    # leaves none.
    filler = np.minimum(np.searchsorted(spare, begun, side="right"), len(large) - 1)
    alias[small] = large[filler]
    # What a large column gave beyond its spare part: up to the end of the last small one that it
    # began to fill.
    last = np.searchsorted(filler, np.arange(len(large)), side="right")
    given = np.concatenate(([0.0], lacking))[last]
    beyond = np.where(np.arange(len(large)) < len(large) - 1, np.maximum(given - spare, 0.0), 0.0)
    keep[large] = 1 - np.minimum(beyond, 1.0)
    alias[large[:-1]] = large[1:]
    return keep, alias
