"""The contract between the pipeline and the trainer: what a folder of training shards holds.

The manifest is written last. A folder without one holds nothing, and a reader opens exactly the
files that it lists. No module of Spark or torch is needed to read it.

A *stream* is a set of Parquet files whose rows train one task. It has one of two encodings:

- ``windows``: one row per node sequence, ``nodes: list<int32>``. Its pairs are all ordered (i, j)
  with 0 < |i - j| <= window.
- ``pairs``: one row per centre, ``centre: int32, contexts: list<int32>``. Its pairs are (centre,
  each context). The edges of a graph, each as often as it weighs, and the links of a relation
  (centre = item, contexts = all values linked to it) are always written like this.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pipeline.contracts.sealed import FrozenRecord, ListedFile, Seal
from pipeline.storage.files import write_text
from pipeline.storage.locations import Location, names

SET_OF_SHARDS = "set of shards"
"""Key of a run record: the checksum of the manifest of the shards that were trained on."""


class ShardFile(FrozenRecord):
    """One Parquet file."""

    path: str
    """Relative to the manifest's folder."""
    rows: int
    tokens: int
    """windows: nodes; pairs: centres (= rows)."""
    pairs: int
    bytes: int
    sha256: str


class Stream(FrozenRecord):
    """Rows that train one task. Both encodings of one task hold the same multiset of pairs."""

    encoding: Literal["windows", "pairs"]
    source: Literal["sessions", "walks", "edges", "links", "clicks"]
    centre_view: str
    context_view: str
    window: int | None
    """Context window of the `windows` encoding; none for `pairs`."""
    files: tuple[ShardFile, ...]
    """In their order: the i-th file of the same input is the same to the byte."""

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def tokens(self) -> int:
        """Tokens of all files."""
        return sum(file.tokens for file in self.files)

    @property
    def pairs(self) -> int:
        """Positive pairs of all files."""
        return sum(file.pairs for file in self.files)


class Vocabulary(FrozenRecord):
    """Parquet with ``row: int32, id: string, count: int64, title: string (nullable)``, sorted by
    row 0 .. nodes - 1.

    `count` is the number of occurrences in the training sequences: the base of the noise
    distribution.
    """

    path: str
    nodes: int
    bytes: int
    sha256: str
    version: int
    """Version of the vocabulary's Delta table."""


class ViewShards(FrozenRecord):
    """What trains a view."""

    vocabulary: Vocabulary
    streams: tuple[Stream, ...]
    """One per encoding written."""


class RelationShards(FrozenRecord):
    """What trains a relation."""

    view: str
    """The view whose nodes are linked to the items."""
    links: int
    """Distinct links."""
    streams: tuple[Stream, ...]


class Manifest(Seal):
    """All of a shard folder."""

    job: ClassVar[str] = "jobs/preprocess.py"
    absent: ClassVar[str] = "the shards are absent or were not finished"

    format: Literal["m2grl-shards"] = "m2grl-shards"
    version: int = 1
    name: str
    seed: int
    window: int
    views: dict[str, ViewShards]
    """The instance view is called `item`."""
    relations: dict[str, RelationShards]
    config: dict[str, Any]
    """The configuration of the pipeline that wrote the shards."""
    config_hash: str
    code_version: str
    inputs: dict[str, int]
    """Delta table -> version it was read at."""

    @property
    def streams(self) -> dict[str, tuple[Stream, ...]]:
        """The streams of every task, by the name of its view or relation."""
        views = {name: view.streams for name, view in self.views.items()}
        return views | {name: relation.streams for name, relation in self.relations.items()}

    @property
    def listed(self) -> dict[str, ListedFile]:
        """Every vocabulary and every file of a stream."""
        vocabularies = [view.vocabulary for view in self.views.values()]
        streams = [stream for encodings in self.streams.values() for stream in encodings]
        shards = [file for stream in streams for file in stream.files]
        files: list[Vocabulary | ShardFile] = [*vocabularies, *shards]
        return {file.path: ListedFile(bytes=file.bytes, sha256=file.sha256) for file in files}

    def keep(self, folder: Location) -> None:
        """Writes a copy, named by this moment and its own checksum, that outlives the shards; where
        the same one is there, nothing."""
        digest = hashlib.sha256(self.text.encode("utf-8")).hexdigest()[:12]
        if not names(folder, rf".*-{digest}\.json"):
            moment = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            write_text(folder / f"{moment}-{digest}.json", self.text)
