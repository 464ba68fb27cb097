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
import json
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.storage.files import sha256, write_text
from pipeline.storage.locations import Location, names, size

FORMAT: Literal["m2grl-shards"] = "m2grl-shards"
VERSION = 1
MANIFEST = "manifest.json"
SET_OF_SHARDS = "set of shards"
"""Key of a run record: the checksum of the manifest of the shards that were trained on."""


class ManifestError(Exception):
    """The shards are not there, not whole, or not of a kind this version reads."""


class Part(BaseModel):
    """Base of the manifest's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardFile(Part):
    """One Parquet file."""

    path: str
    """Relative to the manifest's folder."""
    rows: int
    tokens: int
    """windows: nodes; pairs: centres (= rows)."""
    pairs: int
    bytes: int
    sha256: str


class Stream(Part):
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


class Vocabulary(Part):
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


class ViewShards(Part):
    """What trains a view."""

    vocabulary: Vocabulary
    streams: tuple[Stream, ...]
    """One per encoding written."""


class RelationShards(Part):
    """What trains a relation."""

    view: str
    """The view whose nodes are linked to the items."""
    links: int
    """Distinct links."""
    streams: tuple[Stream, ...]


class Manifest(Part):
    """All of a shard folder."""

    format: Literal["m2grl-shards"] = FORMAT
    version: int = VERSION
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

    def write(self, folder: Location) -> None:
        """Writes the manifest; the last thing done in `folder`."""
        write_text(folder / MANIFEST, self._text)

    def keep(self, folder: Location) -> None:
        """Writes a copy, named by this moment and its own checksum, that outlives the shards; where
        the same one is there, nothing."""
        digest = hashlib.sha256(self._text.encode("utf-8")).hexdigest()[:12]
        if not names(folder, rf".*-{digest}\.json"):
            write_text(folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}.json", self._text)

    @property
    def _text(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(folder: Location) -> Manifest:
    """Reads the manifest of a shard folder. Raises ManifestError naming the file and what to do;
    see read_manifest_file."""
    return read_manifest_file(folder / MANIFEST)


def read_manifest_file(path: Location) -> Manifest:
    """Reads a manifest, or a kept one. Raises ManifestError where it is absent, unreadable or of
    another version."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(
            f"{path} is not there: the shards are absent or were not finished; run "
            "jobs/preprocess.py"
        ) from None
    try:
        raw = json.loads(text)
        found = (raw.get("format"), raw.get("version"))
        if found != (FORMAT, VERSION):
            raise ManifestError(
                f"{path} is of format and version {found}, this code reads {(FORMAT, VERSION)}; "
                "run jobs/preprocess.py again"
            )
        return Manifest.model_validate(raw)
    except (json.JSONDecodeError, AttributeError, ValidationError) as error:
        raise ManifestError(
            f"{path} is not a manifest: {error}; run jobs/preprocess.py again"
        ) from None


def check_file(folder: Location, path: str, bytes_: int, digest: str) -> None:
    """Compares one listed file with its size and checksum; raises ManifestError naming it."""
    full = folder / path
    if not full.is_file():
        raise ManifestError(
            f"{full} is listed in {MANIFEST} but not there; run jobs/preprocess.py again"
        )
    if size(full) != bytes_:
        raise ManifestError(
            f"{full} has {size(full)} bytes, {MANIFEST} says {bytes_}; run jobs/preprocess.py again"
        )
    if sha256(full) != digest:
        raise ManifestError(
            f"{full} is not the file that {MANIFEST} lists (its SHA-256 differs); run "
            "jobs/preprocess.py again"
        )
