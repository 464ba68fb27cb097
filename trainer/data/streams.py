"""Reading a stream's rows from its shards, lane by lane, in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts.shards import ManifestError, ShardFile, Stream, check_file
from pipeline.storage.locations import Location, parquet
from trainer.data import counter_rng as draws
from trainer.data import order

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows of a stream: row i holds values[offsets[i]:offsets[i + 1]], and for the `pairs` encoding
    its centre.

    Nodes are int64; in blocks that are held for many steps int32, as in the files.
    """

    centres: Ints | None
    """[rows] or none (windows)."""
    values: Ints
    """[total] nodes of the sequences, or contexts of the centres."""
    offsets: Ints
    """[rows + 1]"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Ints:
        """Values of each row; [rows]."""
        return self.offsets[1:] - self.offsets[:-1]

    def part(self, first: int, stop: int) -> "Rows":
        """A copy of rows [first, stop), in int64, which does not hold on to the others."""
        begin, end = self.offsets[first], self.offsets[stop]
        centres = None if self.centres is None else self.centres[first:stop].astype(np.int64)
        return Rows(
            centres, self.values[begin:end].astype(np.int64), self.offsets[first : stop + 1] - begin
        )

    def take(self, rows: Ints) -> "Rows":
        """The given rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        values = self.values[np.repeat(self.offsets[rows], lengths) + within]
        return Rows(None if self.centres is None else self.centres[rows], values, offsets)


LaneRows = list[tuple[int, Rows]]
"""What a step reads of a stream on one rank: (lane, rows)."""


def concatenate(parts: list[Rows]) -> Rows:
    """Rows one after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    centres = (
        None
        if parts[0].centres is None
        else np.concatenate([part.centres for part in parts if part.centres is not None])
    )
    lengths = np.concatenate([part.lengths for part in parts])
    return Rows(
        centres,
        np.concatenate([part.values for part in parts]),
        np.concatenate(([0], np.cumsum(lengths))),
    )


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

    def read(self, first: int, stop: int) -> Rows:
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
            if begin < stop and end > first:
                yield file, max(0, first - begin), min(file.rows, stop - begin)

    def _read_file(self, file: ShardFile, first: int, stop: int) -> Rows:
        with self._awaited(file):
            return self._rows(file, first, stop)

    @contextmanager
    def _awaited(self, file: ShardFile) -> Iterator[None]:
        self.reading = self._folder / file.path
        try:
            yield
        finally:
            self.reading = None

    def _rows(self, file: ShardFile, first: int, stop: int) -> Rows:
        opened = self._parquet(file)
        sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = [i for i, end in enumerate(ends) if end > first and end - sizes[i] < stop]
        skipped = int(ends[groups[0]]) - sizes[groups[0]]
        return _to_rows(
            opened.read_row_groups(groups, use_threads=False).slice(first - skipped, stop - first)
        )

    def _parquet(self, file: ShardFile) -> pq.ParquetFile:
        if file.path not in self._open:
            check_file(self._folder, file.path, file.bytes, file.sha256)
            opened = parquet(self._folder / file.path)
            if opened.metadata.num_rows != file.rows:
                raise ManifestError(
                    f"{self._folder / file.path} has {opened.metadata.num_rows} rows, the "
                    f"manifest says {file.rows}"
                )
            self._open[file.path] = opened
        return self._open[file.path]


def _to_rows(table: pa.Table) -> Rows:
    """windows: `nodes`; pairs: `centre`, `contexts` (pipeline/contracts/shards.py)."""
    paired = "contexts" in table.column_names
    lists = table.column("contexts" if paired else "nodes").combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0) if lists.num_chunks else pa.array([], lists.type)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    centres = table.column("centre").to_numpy() if paired else None
    return Rows(centres, values, offsets - offsets[0])


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
        self._key = (seed, draws.purpose(f"order of {name}"), number)
        self._held: tuple[int, order.Block, Rows] | None = None

    @property
    def reading(self) -> Location | None:
        """The file whose bytes are awaited right now."""
        return self._files.reading

    def verify(self) -> None:
        """Opens the files of this lane. Raises ManifestError naming one that is missing or is not
        the one listed."""
        self._files.verify(self._first, self._first + self._rows)

    def read(self, step: int) -> Rows | None:
        """The rows that this lane serves in `step`; none where it serves nothing."""
        parts: list[Rows] = []
        if self._rows:
            for span in order.spans(self._rate, step, self._rows):
                parts += self._read_span(span)
        return concatenate(parts) if parts else None

    def _read_span(self, span: order.Span) -> list[Rows]:
        parts, at = [], span.start
        while at < span.stop:
            block, rows = self._hold(span.number, at)
            stop = min(span.stop, block.position + len(rows))
            parts.append(rows.part(at - block.position, stop - block.position))
            at = stop
        return parts

    def _hold(self, number: int, position: int) -> tuple[order.Block, Rows]:
        """The shuffled block that holds `position` of pass `number`."""
        if self._held is not None:
            held, block, rows = self._held
            if held == number and block.position <= position < block.position + len(rows):
                return block, rows
        self._held = None  # before the next is read: never two blocks at a time
        block = order.block_at(position, self._rows, self._shuffle_rows, *self._key, number)
        first = self._first + block.first
        rows = self._files.read(first, first + len(block.order)).take(block.order)
        self._held = (number, block, rows)
        return block, rows
