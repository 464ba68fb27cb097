"""Reading a stream's rows from its shards, lane by lane, in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts.sealed import ManifestError, check_file
from pipeline.contracts.shards import ShardFile, Stream
from pipeline.storage.locations import Location, parquet
from trainer.arrays import Int64s
from trainer.data import counter_rng, order


@dataclass(frozen=True)
class StreamRows:
    """Rows of a stream: row i holds values[offsets[i]:offsets[i + 1]], and for the `pairs` encoding
    its centre.

    Nodes are int64; in blocks that are held for many steps int32, as in the files.

    Four rows, of which one is empty:

    >>> rows = StreamRows(None, np.array([5, 6, 7, 8, 9, 5]), np.array([0, 2, 3, 3, 6]))
    >>> rows.lengths.tolist()
    [2, 1, 0, 3]
    >>> rows.take(np.array([3, 0])).values.tolist()
    [8, 9, 5, 5, 6]
    """

    centres: Int64s | None
    """[rows] or none (windows)."""
    values: Int64s
    """[total] nodes of the sequences, or contexts of the centres."""
    offsets: Int64s
    """[rows + 1]"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Int64s:
        """Values of each row; [rows]."""
        return self.offsets[1:] - self.offsets[:-1]

    def part(self, first: int, stop: int) -> "StreamRows":
        """A copy of rows [first, stop), in int64, which does not hold on to the others."""
        begin = self.offsets[first]
        end = self.offsets[stop]
        centres = self.centres
        if centres is not None:
            centres = centres[first:stop].astype(np.int64)
        values = self.values[begin:end].astype(np.int64)
        offsets = self.offsets[first : stop + 1] - begin
        return StreamRows(centres, values, offsets)

    def take(self, rows: Int64s) -> "StreamRows":
        """The given rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        # [total]: each value's number within its row, then where it stands in `values`.
        begins = np.repeat(offsets[:-1], lengths)
        within = np.arange(offsets[-1]) - begins
        positions = np.repeat(self.offsets[rows], lengths) + within
        centres = None if self.centres is None else self.centres[rows]
        return StreamRows(centres, self.values[positions], offsets)


LaneRows = list[tuple[int, StreamRows]]
"""What a step reads of a stream on one rank: (lane, rows)."""


def concatenate(parts: list[StreamRows]) -> StreamRows:
    """Rows one after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    # All of a stream have centres, or none has.
    centre_parts = [part.centres for part in parts if part.centres is not None]
    centres = np.concatenate(centre_parts) if centre_parts else None
    values = np.concatenate([part.values for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return StreamRows(centres, values, offsets)


class StreamFiles:
    """The files of a stream as one long run of rows. A file's checksum is verified once, when it is
    first opened."""

    def __init__(self, folder: Location, stream: Stream) -> None:
        self.stream = stream
        self._folder = folder
        self._ends = np.cumsum([file.rows for file in stream.files])
        self._open: dict[str, pq.ParquetFile] = {}
        self.reading: Location | None = None
        """The file whose bytes are awaited right now."""

    def read(self, first: int, stop: int) -> StreamRows:
        """Rows [first, stop). Raises ManifestError naming a file that is missing or is not the one
        listed."""
        return concatenate([self._read_file(*part) for part in self._parts(first, stop)])

    def verify(self, first: int, stop: int) -> None:
        """Opens the files of rows [first, stop). Raises ManifestError naming a file that is missing
        or is not the one listed."""
        for file, _, _ in self._parts(first, stop):
            with self._awaited(file):
                self._parquet(file)

    def _parts(self, first: int, stop: int) -> Iterator[tuple[ShardFile, int, int]]:
        """(file, its first row, one past its last row) of the files that hold rows [first,
        stop)."""
        for file, end in zip(self.stream.files, self._ends, strict=True):
            begin = int(end) - file.rows
            is_touched = begin < stop and end > first
            if is_touched:
                first_row = max(0, first - begin)
                yield file, first_row, min(file.rows, stop - begin)

    def _read_file(self, file: ShardFile, first: int, stop: int) -> StreamRows:
        with self._awaited(file):
            return self._rows(file, first, stop)

    @contextmanager
    def _awaited(self, file: ShardFile) -> Iterator[None]:
        self.reading = self._folder / file.path
        try:
            yield
        finally:
            self.reading = None

    def _rows(self, file: ShardFile, first: int, stop: int) -> StreamRows:
        opened = self._parquet(file)
        metadata = opened.metadata
        row_groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        sizes = np.array([row_group.num_rows for row_group in row_groups])
        ends = np.cumsum(sizes)
        begins = ends - sizes
        # Row groups are the least that Parquet reads: those that touch [first, stop).
        is_touched = (ends > first) & (begins < stop)
        groups = np.flatnonzero(is_touched).tolist()
        skipped = int(begins[groups[0]])
        table = opened.read_row_groups(groups, use_threads=False)
        return _to_rows(table.slice(first - skipped, stop - first))

    def _parquet(self, file: ShardFile) -> pq.ParquetFile:
        if file.path not in self._open:
            check_file(self._folder, file.path, file.bytes, file.sha256)
            path = self._folder / file.path
            opened = parquet(path)
            rows = opened.metadata.num_rows
            if rows != file.rows:
                raise ManifestError(f"{path} has {rows} rows, the manifest says {file.rows}")
            self._open[file.path] = opened
        return self._open[file.path]


def _to_rows(table: pa.Table) -> StreamRows:
    """windows: `nodes`; pairs: `centre`, `contexts` (pipeline/contracts/shards.py)."""
    paired = "contexts" in table.column_names
    lists = table.column("contexts" if paired else "nodes").combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    # A slice of a table shares the values of the whole: its own begin at the first offset.
    begin, end = offsets[0], offsets[-1]
    values = lists.values.to_numpy(zero_copy_only=False)
    centres = table.column("centre").to_numpy() if paired else None
    return StreamRows(centres, values[begin:end], offsets - begin)


class Lane:
    """One lane of a stream: serves the rows of any step, holding one block of `shuffle_rows` rows
    in memory."""

    def __init__(
        self,
        files: StreamFiles,
        name: str,
        number: int,
        lanes: int,
        rate: order.Rate,
        shuffle_rows: int,
        seed: int,
    ) -> None:
        self.number = number
        self._files = files
        self._rate = rate
        self._first, stop = order.lane_slice(files.stream.rows, lanes, number)
        self._rows = stop - self._first
        self._shuffle_rows = shuffle_rows
        self._key = (seed, counter_rng.purpose(f"order of {name}"), number)
        self._held: tuple[int, order.Block, StreamRows] | None = None

    @property
    def reading(self) -> Location | None:
        """The file whose bytes are awaited right now."""
        return self._files.reading

    def verify(self) -> None:
        """Opens the files of this lane. Raises ManifestError naming one that is missing or is not
        the one listed."""
        self._files.verify(self._first, self._first + self._rows)

    def read(self, step: int) -> StreamRows | None:
        """The rows that this lane serves in `step`; none where it serves nothing."""
        parts: list[StreamRows] = []
        if self._rows:
            for span in order.spans(self._rate, step, self._rows):
                parts += self._read_span(span)
        return concatenate(parts) if parts else None

    def _read_span(self, span: order.Span) -> list[StreamRows]:
        parts = []
        at = span.start
        while at < span.stop:
            block, rows = self._hold(span.number, at)
            # As far as the block reaches; the next turn holds the one after it.
            begin = block.position
            stop = min(span.stop, begin + len(rows))
            parts.append(rows.part(at - begin, stop - begin))
            at = stop
        return parts

    def _hold(self, number: int, position: int) -> tuple[order.Block, StreamRows]:
        """The shuffled block that holds `position` of pass `number`."""
        if self._held is not None:
            held, block, rows = self._held
            end = block.position + len(rows)
            if held == number and block.position <= position < end:
                return block, rows
        # Before the next is read: never two blocks at a time.
        self._held = None
        block = order.block_at(position, self._rows, self._shuffle_rows, *self._key, number)
        first = self._first + block.first
        in_file_order = self._files.read(first, first + len(block.order))
        rows = in_file_order.take(block.order)
        self._held = (number, block, rows)
        return block, rows
