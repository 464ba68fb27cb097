"""The noise distribution P_n of negative sampling (paper eq. 3)."""

import numpy as np

from trainer.arrays import Float64s, Int64s
from trainer.data import counter_rng
from trainer.kernels import bindings


class Noise:
    """Draws rows of one view with probability proportional to count^exponent (eq. 3: 0.75).

    Rows whose count is 0 (ids that stay in the vocabulary but were not clicked) are never drawn,
    unless the exponent is 0. Four nodes, of which the last has 81^0.75 = 27 shares of 36:

    >>> noise = Noise(np.array([1, 0, 16, 81]), exponent=0.75)
    >>> rows = noise.draw(1, np.arange(36_000))
    >>> (np.bincount(rows, minlength=4) / 1000).round().astype(int).tolist()
    [1, 0, 8, 27]
    """

    def __init__(self, counts: Int64s, exponent: float) -> None:
        """counts: occurrences of each node, by row. Raises ValueError where none was clicked."""
        weights = np.power(counts.astype(np.float64), exponent)
        if not len(weights) or weights.sum() <= 0:
            raise ValueError("a view without clicked nodes has no noise distribution")
        keep, alias = alias_table(weights)
        # Half the memory, on every rank for all nodes; a probability is rounded by less than 6e-8.
        self.keep = keep.astype(np.float32)
        self.alias = alias.astype(np.int32)

    def draw(self, *key: counter_rng.Key) -> Int64s:
        """Rows for the keys, shaped as they broadcast; int64."""
        # One number gives both: its whole part the column, its fraction the coin.
        columns = len(self.keep)
        position = counter_rng.uniform(*key) * columns
        column = np.minimum(position.astype(np.int64), columns - 1)
        coin = position - column
        is_kept = coin < self.keep[column].astype(np.float64)
        return np.where(is_kept, column, self.alias[column])


class DrawKernel:
    """The draws of a step's chunks in C++: the very numbers that `Noise.draw` gives."""

    def __init__(self) -> None:
        """Raises KernelError where it cannot be compiled."""
        self._draw = bindings.bind_draw()

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
        chunks = len(lanes)
        nodes = len(noise.keep)
        drawn = np.empty((chunks, count), np.int64)
        # What is the same for all chunks is hashed once.
        state = int(counter_rng.bits(*key)[0])
        keep = noise.keep.ctypes.data
        alias = noise.alias.ctypes.data
        of_chunks = (lanes.ctypes.data, numbers.ctypes.data, chunks)
        self._draw(state, *of_chunks, count, keep, alias, nodes, drawn.ctypes.data)
        return drawn


def alias_table(weights: Float64s) -> tuple[Float64s, Int64s]:
    """(keep, alias), each [n]: a column drawn evenly, kept with probability `keep`, else exchanged
    for its alias, is distributed as the weights (Walker, 1977). A draw then looks at two places of
    memory, however many columns there are.

    Columns that need more than their share, in order, fill up those that need less, in order; what
    one of them has left when the next begins is filled up by that next one. So both orders are
    cumulative sums, and no column waits for another.

    Of weights 1, 1, 1, 5 the last column fills up half of each other one:

    >>> keep, alias = alias_table(np.array([1.0, 1.0, 1.0, 5.0]))
    >>> keep.tolist(), alias.tolist()
    ([0.5, 0.5, 0.5, 1.0], [3, 3, 3, 3])
    """
    columns = len(weights)
    share = weights * (columns / weights.sum())
    # The largest is never below its share but for rounding.
    share[np.argmax(share)] = max(1.0, share.max())
    small = np.flatnonzero(share < 1)
    large = np.flatnonzero(share >= 1)
    keep = np.minimum(share, 1.0)
    alias = np.arange(columns)
    # What small columns lack and large ones have to spare, up to and with each.
    lacking = np.cumsum(1 - share[small])
    spare = np.cumsum(share[large] - 1)
    before = np.concatenate(([0.0], lacking))
    begun = before[:-1]
    # The one that still has something to spare when a small column begins; the last, where rounding
    # leaves none.
    filler = np.searchsorted(spare, begun, side="right")
    filler = np.minimum(filler, len(large) - 1)
    alias[small] = large[filler]
    # What a large column gave beyond its spare part: up to the end of the last small one that it
    # began to fill.
    numbers = np.arange(len(large))
    last = np.searchsorted(filler, numbers, side="right")
    given = before[last]
    beyond = np.maximum(given - spare, 0.0)
    # The last large column has nobody after it to fill it up.
    has_next = numbers < len(large) - 1
    beyond = np.where(has_next, beyond, 0.0)
    keep[large] = 1 - np.minimum(beyond, 1.0)
    alias[large[:-1]] = large[1:]
    return keep, alias
