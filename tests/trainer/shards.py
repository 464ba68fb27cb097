"""Small shard folders for the trainer's tests, written without Spark."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts.shards import (
    Manifest,
    RelationShards,
    ShardFile,
    Stream,
    ViewShards,
    Vocabulary,
)
from pipeline.storage.files import sha256

WINDOW = 3
Sequences = list[list[int]]


@dataclass
class Corpus:
    """Node sequences of each view, and the values linked to each item by relation (value view ->
    item -> values)."""

    views: dict[str, Sequences]
    nodes: dict[str, int]
    links: dict[str, list[list[int]]] = field(default_factory=dict)


def random_corpus(
    seed: int = 3, items: int = 60, categories: int = 7, sessions: int = 80, longest: int = 20
) -> Corpus:
    """Sessions of random items, and the same as categories (consecutive duplicates removed)."""
    random = np.random.default_rng(seed)
    category = random.integers(0, categories, items)
    category[:categories] = np.arange(categories)
    shop = random.integers(0, 5, (items, 2))
    sequences = [
        random.integers(0, items, random.integers(2, longest)).tolist() for _ in range(sessions)
    ]
    mapped = [[int(category[node]) for node in sequence] for sequence in sequences]
    categories_of = [
        [node for i, node in enumerate(row) if i == 0 or row[i - 1] != node] for row in mapped
    ]
    links = {
        "item_category": [[int(value)] for value in category],
        "item_shop": [sorted({int(value) for value in row}) for row in shop],
    }
    shops = [[int(shop[node][0]) for node in sequence] for sequence in sequences]
    views = {
        "item": sequences,
        "category": [row for row in categories_of if len(row) > 1],
        "shop": shops,
    }
    return Corpus(views, {"item": items, "category": categories, "shop": 5}, links)


def expand(sequence: Sequence[int], window: int) -> list[tuple[int, int, int]]:
    """(position, centre, context) of all ordered pairs at most `window` apart."""
    return [
        (i, sequence[i], context)
        for i in range(len(sequence))
        for context in contexts_at(sequence, i, window)
    ]


def contexts_at(sequence: Sequence[int], i: int, window: int) -> list[int]:
    """The nodes at most `window` away from position i, in order, the position itself not."""
    return [
        sequence[j] for j in range(max(0, i - window), min(len(sequence), i + window + 1)) if j != i
    ]


def write_shards(
    folder: Path,
    corpus: Corpus,
    window: int = WINDOW,
    files: int = 2,
    row_group: int = 7,
    config_hash: str = "0",
) -> Manifest:
    """Writes both encodings of every view and the links of every relation."""
    folder.mkdir(parents=True, exist_ok=True)
    views = {
        view: _view(folder, view, sequences, corpus.nodes[view], window, files, row_group)
        for view, sequences in corpus.views.items()
    }
    relations = {
        name: RelationShards(
            view=name.removeprefix("item_"),
            links=sum(map(len, links)),
            streams=(
                _pairs(
                    folder,
                    name,
                    "links",
                    "item",
                    name.removeprefix("item_"),
                    list(enumerate(links)),
                    files,
                    row_group,
                ),
            ),
        )
        for name, links in corpus.links.items()
    }
    manifest = Manifest(
        name="test",
        seed=1,
        window=window,
        views=views,
        relations=relations,
        config={},
        config_hash=config_hash,
        code_version="0",
        inputs={},
    )
    manifest.write(folder)
    return manifest


def _view(
    folder: Path,
    view: str,
    sequences: Sequences,
    nodes: int,
    window: int,
    files: int,
    row_group: int,
) -> ViewShards:
    rows = [pa.array(sequence, pa.int32()) for sequence in sequences]
    windows = Stream(
        encoding="windows",
        source="sessions",
        centre_view=view,
        context_view=view,
        window=window,
        files=tuple(
            _file(
                folder,
                f"{view}/windows/{i}.parquet",
                pa.table(
                    {
                        "nodes": pa.array(
                            [r.to_pylist() for r in rows[i::files]], pa.list_(pa.int32())
                        )
                    }
                ),
                sum(len(s) for s in sequences[i::files]),
                sum(len(expand(s, window)) for s in sequences[i::files]),
                row_group,
            )
            for i in range(files)
        ),
    )
    centres = [
        (node, contexts_at(sequence, i, window))
        for sequence in sequences
        for i, node in enumerate(sequence)
    ]
    pairs = _pairs(folder, view, "sessions", view, view, centres, files, row_group)
    counts = np.bincount([node for sequence in sequences for node in sequence], minlength=nodes)
    path = folder / f"vocabulary/{view}.parquet"
    path.parent.mkdir(exist_ok=True)
    ids = [f"{view}-{row}" for row in range(nodes)]
    columns = {
        "row": pa.array(range(nodes), pa.int32()),
        "id": ids,
        "count": pa.array(counts, pa.int64()),
        "title": pa.nulls(nodes, pa.string()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=1 + nodes // 3)
    vocabulary = Vocabulary(
        path=str(path.relative_to(folder)),
        nodes=nodes,
        bytes=path.stat().st_size,
        sha256=sha256(path),
        version=0,
    )
    return ViewShards(vocabulary=vocabulary, streams=(windows, pairs))


def _pairs(
    folder: Path,
    name: str,
    source: str,
    centre_view: str,
    context_view: str,
    rows: list[tuple[int, list[int]]],
    files: int,
    row_group: int,
) -> Stream:
    parts = [rows[i::files] for i in range(files)]
    tables = [
        pa.table(
            {
                "centre": pa.array([c for c, _ in part], pa.int32()),
                "contexts": pa.array([x for _, x in part], pa.list_(pa.int32())),
            }
        )
        for part in parts
    ]
    written = tuple(
        _file(
            folder,
            f"{name}/pairs/{i}.parquet",
            table,
            len(part),
            sum(len(x) for _, x in part),
            row_group,
        )
        for i, (part, table) in enumerate(zip(parts, tables, strict=True))
    )
    return Stream(
        encoding="pairs",
        source=source,
        centre_view=centre_view,
        context_view=context_view,
        window=None,
        files=written,
    )  # type: ignore[arg-type]


def _file(
    folder: Path, path: str, table: pa.Table, tokens: int, pairs: int, row_group: int
) -> ShardFile:
    full = folder / path
    full.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, full, row_group_size=row_group)
    return ShardFile(
        path=path,
        rows=table.num_rows,
        tokens=tokens,
        pairs=pairs,
        bytes=full.stat().st_size,
        sha256=sha256(full),
    )
