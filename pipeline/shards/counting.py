"""What written Parquet files hold, counted where Spark's tasks run. Needs no Spark, so that Python
on an executor can import it."""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage.files import sha256
from pipeline.storage.locations import Location, parquet, size


class Contents(NamedTuple):
    """Of one file."""

    rows: int
    tokens: int
    """windows: nodes; pairs: centres (= rows); other files: 0."""
    pairs: int
    """Positive pairs; other files: 0."""
    bytes: int
    sha256: str


def of_file(where: Location) -> Contents:
    """Rows, bytes and checksum of any Parquet file."""
    return Contents(parquet(where).metadata.num_rows, 0, 0, size(where), sha256(where))


def of_stream_file(where: Location, window: int | None) -> Contents:
    """What a file of a stream holds; `window` is none for the `pairs` encoding. A row group is in
    memory at a time."""
    file = parquet(where)
    tokens = pairs = 0
    for group in range(file.num_row_groups):
        lists = file.read_row_group(group).column("contexts" if window is None else "nodes")
        # [rows]
        lengths = pc.list_value_length(lists).to_numpy()
        if window is None:
            tokens += len(lengths)
            pairs += int(lengths.sum())
        else:
            tokens += int(lengths.sum())
            pairs += _window_pairs(lengths, window)
    return of_file(where)._replace(tokens=tokens, pairs=pairs)


def _window_pairs(lengths: NDArray[np.int32], window: int) -> int:
    """Pairs of sequences of these lengths. One of n nodes has n - distance pairs in each direction
    at every distance up to the window."""
    pairs = 0
    for distance in range(1, window + 1):
        one_way = (lengths - distance).clip(min=0).sum()
        pairs += 2 * int(one_way)
    return pairs
