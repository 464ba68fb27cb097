"""Checking a shard folder against its manifest: is every listed file there, unchanged, and does it
hold what the manifest says?"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.contracts.sealed import MANIFEST, ManifestError, check_file
from pipeline.contracts.shards import Manifest, ShardFile, Stream
from pipeline.storage.locations import Location, names, parquet, read_table

Rows = npt.NDArray[np.int32]


class StreamCheck:
    """Counts what the files of one stream hold, and sums up its pairs independently of their
    order."""

    def __init__(self, folder: Location, stream: Stream, centres: int, contexts: int) -> None:
        self.folder, self.stream, self.sizes = folder, stream, (centres, contexts)
        self.fingerprint = np.uint64(0)
        """Sum of a hash of each pair, modulo 2^64: the same for two encodings of one multiset of
        pairs."""

    def file(self, listed: ShardFile) -> None:
        """Checks one file. Raises ManifestError naming it and what is wrong."""
        check_file(self.folder, listed.path, listed.bytes, listed.sha256)
        path, rows, tokens, pairs = self.folder / listed.path, 0, 0, 0
        for centres, contexts, held in self._pairs(path):
            rows, tokens, pairs = rows + held[0], tokens + held[1], pairs + len(centres)
            self._check_range(path, centres, self.sizes[0])
            self._check_range(path, contexts, self.sizes[1])
            with np.errstate(over="ignore"):
                self.fingerprint += _mixed(
                    centres.astype(np.uint64) << np.uint64(32) | contexts.astype(np.uint64)
                ).sum(dtype=np.uint64)
        for what, found, said in (
            ("rows", rows, listed.rows),
            ("tokens", tokens, listed.tokens),
            ("pairs", pairs, listed.pairs),
        ):
            if found != said:
                raise ManifestError(
                    f"{path} holds {found} {what}, {MANIFEST} says {said}; run "
                    "jobs/preprocess.py again"
                )

    def _pairs(self, path: Location) -> Iterator[tuple[Rows, Rows, tuple[int, int]]]:
        """Blocks of (centres, contexts, (rows, tokens) that they come from)."""
        for batch in parquet(path).iter_batches(batch_size=4096):
            if self.stream.window is None:
                lists = batch.column("contexts")
                yield (
                    _numbers(batch.column("centre")).repeat(_lengths(lists)),
                    _numbers(lists.flatten()),
                    (len(batch), len(batch)),
                )
            else:
                lists = batch.column("nodes")
                nodes, lengths = _numbers(lists.flatten()), _lengths(lists)
                yield *_window_pairs(nodes, lengths, self.stream.window), (len(batch), len(nodes))

    def _check_range(self, path: Location, rows: Rows, size: int) -> None:
        outside = rows[(rows < 0) | (rows >= size)]
        if len(outside):
            raise ManifestError(
                f"{path} holds node {outside[0]}, its vocabulary has rows 0 to {size - 1}; run "
                "jobs/preprocess.py again"
            )


def verify(folder: Location, manifest: Manifest) -> Iterator[str]:
    """Checks a whole folder, file by file, and yields the name of each checked file. Raises
    ManifestError at the first thing that is wrong.

    Beyond checksums: rows, tokens and pairs are counted anew; nodes lie within their vocabularies;
    a task's two encodings hold the same multiset of pairs; vocabularies number their rows without a
    gap and name no id twice; no file lies in the folder that is not listed.
    """
    _check_nothing_else(folder, manifest)
    for name, view in manifest.views.items():
        _check_vocabulary(folder, name, manifest)
        yield view.vocabulary.path
    for name, streams in manifest.streams.items():
        checks = [StreamCheck(folder, stream, *_sizes(manifest, stream)) for stream in streams]
        for check in checks:
            for file in check.stream.files:
                check.file(file)
                yield file.path
        if len({int(check.fingerprint) for check in checks}) > 1:
            raise ManifestError(
                f"{folder}: the encodings of '{name}' hold different pairs; run "
                "jobs/preprocess.py again"
            )


def _sizes(manifest: Manifest, stream: Stream) -> tuple[int, int]:
    return manifest.views[stream.centre_view].vocabulary.nodes, manifest.views[
        stream.context_view
    ].vocabulary.nodes


def _check_nothing_else(folder: Location, manifest: Manifest) -> None:
    strange = set(names(folder, r".*\.parquet", recursive=True)) - manifest.listed.keys()
    if strange:
        raise ManifestError(
            f"{folder / min(strange)} is not listed in {MANIFEST}; remove it, or run "
            "jobs/preprocess.py again"
        )


def _check_vocabulary(folder: Location, view: str, manifest: Manifest) -> None:
    listed = manifest.views[view].vocabulary
    check_file(folder, listed.path, listed.bytes, listed.sha256)
    table = read_table(folder / listed.path)
    if not np.array_equal(_numbers(table.column("row")), np.arange(listed.nodes)):
        raise ManifestError(
            f"{folder / listed.path} does not number its rows 0 to {listed.nodes - 1}; run "
            "jobs/preprocess.py again"
        )
    if table.column("id").null_count or len(table.column("id").unique()) != listed.nodes:
        raise ManifestError(
            f"{folder / listed.path} holds an id twice or none; run jobs/preprocess.py again"
        )


def _window_pairs(nodes: Rows, lengths: npt.NDArray[np.int64], window: int) -> tuple[Rows, Rows]:
    """All ordered pairs at most a window apart within the sequences that lie one after the other in
    `nodes`."""
    session = np.arange(len(lengths)).repeat(lengths)
    ahead = [
        np.flatnonzero(session[distance:] == session[:-distance])
        for distance in range(1, window + 1)
    ]
    left = np.concatenate(ahead)
    right = np.concatenate([at + distance for distance, at in enumerate(ahead, start=1)])
    return nodes[np.concatenate([left, right])], nodes[np.concatenate([right, left])]


def _mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A hash of 64-bit numbers (the finaliser of splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _numbers(column: pa.Array | pa.ChunkedArray) -> Rows:
    return np.asarray(column.to_numpy())


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(lists.value_lengths().to_numpy()).astype(np.int64)
