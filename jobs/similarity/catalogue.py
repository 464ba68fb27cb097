"""One row number for every item that the evaluation meets, and what is known of the item."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.common.arrays import Int32Array, Int64Array
from pipeline.config import ITEM_VIEW
from pipeline.contracts import heldout
from pipeline.contracts.sealed import check_file
from pipeline.contracts.shards import Manifest
from pipeline.storage.locations import Location, read_table


class EvaluationError(Exception):
    """An input that cannot be judged; the message names the file and what to do."""


@dataclass(frozen=True)
class Catalogue:
    """Items by row: first the vocabulary in its own order (row = the row of training), then all
    others."""

    ids: pa.StringArray
    """[size] raw ids."""
    titles: pa.StringArray
    """[size] readable names; null where there is none."""
    counts: Int64Array
    """[size] occurrences in the training sequences: the counts of the scores. 0 outside the
    vocabulary."""
    clicks: Int64Array
    """[size] clicks in the training part before any limit of the vocabulary: popularity, and what
    makes an item rare. 0: never seen."""
    vocabulary: int
    """Rows of the vocabulary."""

    @property
    def size(self) -> int:
        """Number of items."""
        return len(self.ids)

    def rows(self, ids: pa.Array | pa.ChunkedArray) -> Int32Array:
        """Row of each id, -1 where it is unknown; int32 [len(ids)]."""
        found = pc.index_in(ids.cast(pa.string()), value_set=self.ids)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int32)

    def extended(self, ids: pa.Array | pa.ChunkedArray) -> "Catalogue":
        """The same items in the same rows, then those of `ids` that are not yet among them."""
        ids = ids.cast(pa.string())
        new = pc.unique(ids.filter(pc.is_null(pc.index_in(ids, value_set=self.ids))))
        return replace(
            self,
            ids=pa.concat_arrays([self.ids, new]),
            titles=pa.concat_arrays([self.titles, pa.nulls(len(new), pa.string())]),
            counts=np.pad(self.counts, (0, len(new))),
            clicks=np.pad(self.clicks, (0, len(new))),
        )

    def name(self, row: int) -> str:
        """An item's title, or its id where it has none."""
        return str(self.titles[row].as_py() or self.ids[row].as_py())


def read_vocabulary(shards: Location, view: str = ITEM_VIEW) -> Catalogue:
    """The items, or the nodes of another view, that were trained. Raises ManifestError where the
    shards are absent or damaged."""
    listed = Manifest.read(shards).views[view].vocabulary
    check_file(shards, listed.path, listed.bytes, listed.sha256)
    table = read_table(shards / listed.path, columns=["id", "count", "title"]).combine_chunks()
    ids, titles = (
        table.column(name).cast(pa.string()).combine_chunks() for name in ("id", "title")
    )
    counts = table.column("count").to_numpy().astype(np.int64)
    return Catalogue(ids, titles, counts, np.zeros_like(counts), len(counts))


def find_item(catalogue: Catalogue, text: str) -> int:
    """Row of an item by its id, by its title, or by a part of one title; of items with the same
    title the most clicked. Raises EvaluationError naming what the text could mean."""
    by_id = int(catalogue.rows(pa.array([text], pa.string()))[0])
    if by_id >= 0:
        return by_id
    exact = pc.equal(catalogue.titles, text)
    partial = pc.match_substring(catalogue.titles, text, ignore_case=True)
    for matches in (exact, partial):
        rows = np.flatnonzero(np.asarray(pc.fill_null(matches, False)))
        if not len(rows):
            continue
        by_count = rows[np.argsort(-catalogue.counts[rows], kind="stable")]
        titles = list(dict.fromkeys(catalogue.name(row) for row in by_count.tolist()))
        if len(titles) == 1:
            return int(by_count[0])
        examples = "; ".join(titles[:5])
        raise EvaluationError(
            f"'{text}' is a part of {len(titles)} titles, such as {examples}: give one of them, or "
            "an id"
        )
    raise EvaluationError(
        f"'{text}' is neither an id nor a part of a title in the vocabulary; ids are those of the "
        "click log, kept by [views.item]"
    )


def with_held_out(catalogue: Catalogue, folder: Location) -> Catalogue:
    """Adds the items and clicks of the training part, and the items of the held-out part. Raises
    ManifestError where it is not whole."""
    heldout.check(folder)
    table = read_table(folder / heldout.COUNTS)
    catalogue = catalogue.extended(table.column("item_id"))
    clicks = catalogue.clicks.copy()
    clicks[catalogue.rows(table.column("item_id"))] = table.column("clicks").to_numpy()
    for name in (heldout.HISTORY, heldout.SESSIONS):
        catalogue = catalogue.extended(
            pc.list_flatten(read_table(folder / name, columns=["item_ids"]).column("item_ids"))
        )
    return replace(catalogue, clicks=np.pad(clicks, (0, catalogue.size - len(clicks))))


def distinct(numbers: Int64Array) -> Int64Array:
    """The distinct numbers, ascending. By sorting: np.unique hashes integers first, which took five
    times as long."""
    ordered = np.sort(numbers)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]
