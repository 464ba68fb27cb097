"""The order of a run, as pure functions of a few integers: which rows of a stream which lane serves
in which step.

Nothing here reads a file or knows about ranks. *Lanes* are equal slices of a stream; lane l is
served by rank l mod N, so the number of ranks decides only who computes. A *pass* visits each row
of a lane exactly once. The position of a run is its step: resuming needs no other state.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.arrays import Int64s
from trainer.data import counter_rng


@dataclass(frozen=True)
class Rate:
    """How fast a stream is served: of n rows, floor(step * n * numerator / denominator) are served
    before `step`."""

    numerator: int
    denominator: int

    def rows_before(self, step: int, rows: int) -> int:
        """Rows of a lane of `rows` rows that all steps before `step` have served, over all passes
        together."""
        return step * rows * self.numerator // self.denominator


def once_an_epoch(steps: int) -> Rate:
    """Every stream is passed over once in `steps` steps: step s serves rows floor(s n / S) to
    floor((s + 1) n / S)."""
    return Rate(1, steps)


def pairs_a_step(batch_pairs: int, pairs: int) -> Rate:
    """`batch_pairs` of the stream's `pairs` pairs in every step, on average; a short stream repeats
    (the paper's batches)."""
    return Rate(batch_pairs, pairs)


def steps_an_epoch(pairs: int, batch_pairs: int) -> int:
    """Steps in which a stream of `pairs` pairs is passed over once."""
    return max(1, -(-pairs // batch_pairs))


def lane_slice(rows: int, lanes: int, lane: int) -> tuple[int, int]:
    """First and one past the last row of a lane."""
    return lane * rows // lanes, (lane + 1) * rows // lanes


@dataclass(frozen=True)
class Span:
    """Consecutive positions [start, stop) of one pass over a lane."""

    number: int
    """Of the pass."""
    start: int
    stop: int


def spans(rate: Rate, step: int, rows: int) -> Iterator[Span]:
    """The positions that a lane of `rows` rows serves in `step`, pass by pass.

    Ten rows, of which a step serves seven: the second step ends the first pass and begins the next.

    >>> list(spans(Rate(7, 10), step=1, rows=10))
    [Span(number=0, start=7, stop=10), Span(number=1, start=0, stop=4)]
    """
    at = rate.rows_before(step, rows)
    end = rate.rows_before(step + 1, rows)
    while at < end:
        # `at` counts over all passes together.
        number, start = divmod(at, rows)
        stop = min(rows, start + end - at)
        yield Span(number, start, stop)
        at += stop - start


@dataclass(frozen=True)
class Block:
    """Rows [first, first + len(order)) of a lane, visited in `order` at the positions from
    `position` on."""

    position: int
    first: int
    order: Int64s


def blocks_of_pass(rows: int, shuffle_rows: int, *key: int) -> list[tuple[int, int]]:
    """The blocks of a lane in the order in which a pass visits them: (first row, rows).

    A block is what a lane holds in memory at a time: `shuffle_rows` consecutive rows, the last one
    of the lane fewer.
    """
    starts = range(0, rows, shuffle_rows)
    order = counter_rng.permutation(len(starts), *key)
    firsts = [starts[i] for i in order]
    return [(first, min(shuffle_rows, rows - first)) for first in firsts]


def block_at(position: int, rows: int, shuffle_rows: int, *key: int) -> Block:
    """The block that holds `position` of the pass keyed by `key`, with the order of its rows."""
    at = 0
    for first, size in blocks_of_pass(rows, shuffle_rows, *key):
        if position < at + size:
            return Block(at, first, counter_rng.permutation(size, *key, first))
        at += size
    raise IndexError(f"position {position} of {rows} rows")
