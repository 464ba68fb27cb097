"""Item-to-item maps: for each trigger its nearest items with their scores. Whatever is judged is
judged as such a map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from jobs.common.arrays import AnyIntArray, BoolArray, Float32Array, Int32Array
from jobs.common.blocks import in_blocks
from jobs.similarity.catalogue import Catalogue, EvaluationError
from pipeline.contracts.sealed import MANIFEST
from pipeline.storage.files import sha256, whole_file

SCHEMA = pa.schema(
    [
        ("trigger_id", pa.string()),
        ("item_id", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
    ]
)
COLUMNS = SCHEMA.names
EMBEDDINGS = "embeddings"
"""Key of a map's metadata: the checksum of the manifest of the vectors that it was made from."""
NONE = -1
"""Stands where a list has no more items, and for a trigger without a list."""
_NOTHING = np.iinfo(np.uint64).max
_HALF, _LOWER = np.uint64(32), np.uint64(0xFFFFFFFF)
"""Bits of a key below its score, and the mask of those."""
_TRIGGERS = 4096
"""Triggers written in one go."""


@dataclass(frozen=True)
class ItemMap:
    """Ranked lists of items and the triggers they belong to."""

    items: Int32Array
    """[T, N] catalogue rows, best first, then NONE."""
    scores: Float32Array
    """[T, N] score of each; 0 beside NONE."""
    list_of: Int32Array
    """[size of the catalogue] list of each trigger; NONE where it has none."""

    def lists_of(self, recent: csr_array[Any]) -> csr_array[Any]:
        """How often each list speaks for each user, [users, T], where `recent` [users, size] marks
        the users' triggers."""
        pairs = recent.tocoo()
        # The column of a pair, an item, becomes its list; users stay in the rows.
        lists = self.list_of[pairs.col]
        known = lists != NONE
        places = pairs.row[known], lists[known]
        shape = (recent.shape[0], len(self.items))
        return csr_array((pairs.data[known], places), shape=shape)

    def candidates(self) -> BoolArray:
        """[size] whether an item stands in any list."""
        listed = self.items[self.items != NONE]
        is_candidate = np.zeros(len(self.list_of), bool)
        is_candidate[listed] = True
        return is_candidate


def best_columns(scores: csr_array[Any], k: int) -> tuple[Int32Array, Float32Array]:
    """The k columns of each row with the largest positive scores, best first, ties by column:
    [rows, k] columns and scores.

    A positive float32 orders like its bits. Score and column together make one number, so that no
    two are equal and the k smallest of the complements are the same whatever the order of the
    input.
    """
    # One key for each stored score: the complement of its bits above, its column below.
    positive = np.maximum(scores.data, 0).astype(np.float32)
    complements = (~positive.view(np.uint32)).astype(np.uint64)
    stored_keys = complements << _HALF | scores.indices.astype(np.uint64)
    stored_keys = np.where(scores.data > 0, stored_keys, _NOTHING)
    # From one run of keys to [rows, longest row], filled up with the largest key there is.
    lengths = np.diff(scores.indptr)
    longest = max(k, int(lengths.max(initial=0)))
    keys = np.full((len(lengths), longest), _NOTHING)
    filled = np.arange(longest) < lengths[:, None]
    keys[filled] = stored_keys
    smallest = np.partition(keys, k - 1, axis=1)[:, :k]
    top = np.sort(smallest, axis=1)  # [rows, k]
    is_nothing = top == _NOTHING
    columns = np.where(is_nothing, NONE, (top & _LOWER).astype(np.int64)).astype(np.int32)
    values = (~(top >> _HALF).astype(np.uint32)).view(np.float32)
    return columns, np.where(is_nothing, np.float32(0), values)


def write_map(
    path: Path, similar: ItemMap, catalogue: Catalogue, identity: Mapping[str, str]
) -> None:
    """Writes a map as Parquet, one row a trigger and item, triggers by row, ranks from 1; whole or
    not at all.

    `identity` says what it was made from, under EMBEDDINGS and other keys of the schema's metadata.
    """
    triggers = np.flatnonzero(similar.list_of != NONE).astype(np.int32)
    schema = SCHEMA.with_metadata(dict(identity))
    with whole_file(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for block in in_blocks(len(triggers), _TRIGGERS, f"writing {path.name}"):
            writer.write_table(_table(triggers[block], similar, catalogue))


def _table(triggers: Int32Array, similar: ItemMap, catalogue: Catalogue) -> pa.Table:
    lists = similar.list_of[triggers]
    # [triggers, N] each
    items, scores = similar.items[lists], similar.scores[lists]
    listed = np.nonzero(items != NONE)
    trigger, place = listed
    columns = [
        catalogue.ids.take(triggers[trigger]),
        catalogue.ids.take(items[listed]),
        (place + 1).astype(np.int32),
        scores[listed],
    ]
    return pa.table(columns, schema=SCHEMA)


def read_map_table(path: Path) -> pa.Table:
    """The four columns of a map in a Parquet file. Raises EvaluationError where it is not one."""
    try:
        present = pq.read_schema(path).names
        if missing := [name for name in COLUMNS if name not in present]:
            raise EvaluationError(
                f"{path} has no column {', '.join(missing)} (it has {', '.join(present)}); a map "
                f"has {', '.join(COLUMNS)}"
            )
        table = pq.read_table(path, columns=list(COLUMNS)).select(COLUMNS).cast(SCHEMA)
    except FileNotFoundError:
        raise EvaluationError(
            f"{path} is not there; name a Parquet file with the columns {', '.join(COLUMNS)}"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise EvaluationError(
            f"{path} cannot be read as a map (ids as text, rank as a whole number, score as a "
            f"number): {error}"
        ) from None
    if nulls := [name for name in COLUMNS if table.column(name).null_count]:
        raise EvaluationError(
            f"{path}: column {', '.join(nulls)} has nulls; every row of a map is whole"
        )
    return table


def read_current_lists(
    path: Path, triggers: Sequence[str], length: int, embeddings: Path, again: str
) -> pa.Table:
    """The first `length` rows of some triggers in a written map, by rank, without reading the
    others.

    Raises EvaluationError where there is no such map, or it is of other vectors than those of
    `embeddings`; `again` says what to do.
    """
    shown = [("trigger_id", "in", triggers), ("rank", "<=", length)]
    try:
        made_from = (pq.read_schema(path).metadata or {}).get(EMBEDDINGS.encode(), b"").decode()
        table = pq.read_table(path, columns=COLUMNS, filters=shown)
    except FileNotFoundError:
        raise EvaluationError(f"{path} is not there; {again}") from None
    except (pa.ArrowException, OSError) as error:
        raise EvaluationError(f"{path} cannot be read as a map ({error}); {again}") from None
    if made_from != sha256(embeddings / MANIFEST):
        raise EvaluationError(
            f"{path} is not a map of the vectors that {embeddings} holds now; {again}"
        )
    return table.sort_by("rank")


def given_map(path: Path, table: pa.Table, catalogue: Catalogue, neighbours: int) -> ItemMap:
    """A map's first `neighbours` items of each trigger by rank; the catalogue knows all its ids.

    Raises EvaluationError naming `path` where an item stands twice in a list or a score is not
    finite.
    """
    trigger, item = (catalogue.rows(table.column(name)) for name in ("trigger_id", "item_id"))
    rank, score = table.column("rank").to_numpy(), table.column("score").to_numpy()
    pairs = trigger.astype(np.int64) << 32 | item
    if len(np.unique(pairs)) != len(pairs):
        raise EvaluationError(
            f"{path}: an item stands twice in the list of one trigger; a map names each pair once"
        )
    if not np.isfinite(score).all():
        raise EvaluationError(f"{path}: column score holds values that are not finite")
    # By trigger, then rank; equal ranks by row.
    order = np.lexsort((item, rank, trigger))
    triggers, first, lengths = np.unique(trigger[order], return_index=True, return_counts=True)
    # List and place of each row of the table, in that order.
    line = np.repeat(np.arange(len(triggers)), lengths)
    place = np.arange(len(order)) - np.repeat(first, lengths)
    kept = place < neighbours
    cells = line[kept], place[kept]
    items = np.full((len(triggers), neighbours), NONE, np.int32)
    scores = np.zeros(items.shape, np.float32)
    items[cells] = item[order][kept]
    scores[cells] = score[order][kept]
    return ItemMap(items, scores, lists_by_trigger(triggers, catalogue.size))


def lists_by_trigger(triggers: AnyIntArray, size: int) -> Int32Array:
    """`list_of` of a map whose i-th list belongs to the i-th of `triggers`."""
    list_of = np.full(size, NONE, np.int32)
    list_of[triggers] = np.arange(len(triggers), dtype=np.int32)
    return list_of
