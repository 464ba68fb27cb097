"""A project of six items and four users whose figures are worked out by hand, written without Spark
or torch.

Items a to f are the vocabulary (rows 0 to 5), g was clicked before the cut but is too rare for it,
h is seen after the cut only.

Training sessions: a b | a b c | c d | a c a c.

===== ============ =================== ==================
user  before       after               new items (G)
===== ============ =================== ==================
u1    a b a        c c d | b e         c d e
u2    c            d a h               d a h
u3    nothing      a b                 a b
u4    a g          a                   none: not counted
===== ============ =================== ==================

Next items: c-d, b-e (u1); d-a, a-h (u2); a-b (u3). Of the targets d and e are rare (fewer than 20
clicks), b with 20 is not, and h was never seen.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts import heldout
from pipeline.contracts.sealed import MANIFEST, ListedFile
from pipeline.contracts.shards import (
    SET_OF_SHARDS,
    Manifest,
    ShardFile,
    Stream,
    ViewShards,
    Vocabulary,
)
from pipeline.contracts.vectors import VectorsManifest
from pipeline.storage.files import sha256

IDS = ["a", "b", "c", "d", "e", "f"]
COUNTS = [30, 20, 18, 5, 2, 0]
SESSIONS = [[0, 1], [0, 1, 2], [2, 3], [0, 2, 0, 2]]
CLICKS = {"g": 3, "e": 2, "b": 20, "c": 18, "d": 5, "a": 30}
HISTORY = {"u1": ["a", "b", "a"], "u2": ["c"], "u3": [], "u4": ["a", "g"]}
AFTER = [
    ("u1", ["c", "c", "d"]),
    ("u1", ["b", "e"]),
    ("u2", ["d", "a", "h"]),
    ("u3", ["a", "b"]),
    ("u4", ["a"]),
]
INPUTS = [[3.0, 0.0], [4.0, 3.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]
OUTPUTS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, -1.0], [0.0, 0.0], [0.0, 0.0]]


def write_project(root: Path) -> Path:
    """Writes shards, held-out part, embeddings and configuration; returns the configuration
    file."""
    folder = root / "build" / "toy"
    write_shards(folder / "shards", SESSIONS)
    write_heldout(folder / "heldout")
    write_embeddings(folder / "embeddings", folder / "shards")
    config = root / "toy.toml"
    config.write_text(
        f"""
        name = "toy"
        output = "{root / "build"}"
        views.item = {{}}
        [source]
        path = "none.csv"
        format = "csv"
        columns = {{ user_id = "u", item_id = "i", timestamp = "t" }}
        [split]
        kind = "last_items"
        [evaluate]
        k = 2
        bootstrap = 100
        """
    )
    return config


def write_shards(
    folder: Path, sessions: list[list[int]], ids: list[str] = IDS, counts: list[int] = COUNTS
) -> None:
    """A shard folder with one view and its windows in two files."""
    columns = {
        "row": pa.array(range(len(ids)), pa.int32()),
        "id": ids,
        "count": pa.array(counts, pa.int64()),
        "title": pa.array([f"Title {i}" if i != "f" else None for i in ids], pa.string()),
    }
    path = _write(folder / "vocabulary/item.parquet", columns)
    vocabulary = Vocabulary(
        path="vocabulary/item.parquet",
        nodes=len(ids),
        bytes=path.stat().st_size,
        sha256=sha256(path),
        version=0,
    )
    files = []
    for number in range(2):
        part = sessions[number::2]
        path = _write(
            folder / f"item/{number}.parquet", {"nodes": pa.array(part, pa.list_(pa.int32()))}
        )
        size, tokens = path.stat().st_size, sum(map(len, part))
        files.append(
            ShardFile(
                path=f"item/{number}.parquet",
                rows=len(part),
                tokens=tokens,
                pairs=0,
                bytes=size,
                sha256=sha256(path),
            )
        )
    stream = Stream(
        encoding="windows",
        source="sessions",
        centre_view="item",
        context_view="item",
        window=9,
        files=tuple(files),
    )
    views = {"item": ViewShards(vocabulary=vocabulary, streams=(stream,))}
    Manifest(
        name="toy",
        seed=1,
        window=9,
        views=views,
        relations={},
        config={},
        config_hash="0",
        code_version="0",
        inputs={},
    ).write(folder)


def write_heldout(folder: Path) -> None:
    """The held-out folder."""
    texts = pa.list_(pa.string())
    users, items = zip(*AFTER, strict=True)
    _write(
        folder / heldout.HISTORY,
        {"user_id": list(HISTORY), "item_ids": pa.array(list(HISTORY.values()), texts)},
    )
    sessions = {
        "user_id": list(users),
        "session_id": [str(n) for n in range(len(users))],
        "item_ids": pa.array(list(items), texts),
    }
    _write(folder / heldout.SESSIONS, sessions)
    _write(
        folder / heldout.COUNTS,
        {"item_id": list(CLICKS), "clicks": pa.array(CLICKS.values(), pa.int64())},
    )
    heldout.write_manifest(folder)


def write_embeddings(folder: Path, shards: Path) -> None:
    """An export as trainer/export.py writes it, of the item view alone."""
    listed = {}
    for name, vectors in (("item.parquet", INPUTS), ("item.context.parquet", OUTPUTS)):
        path = _write(
            folder / name, {"id": IDS, "vector": pa.array(vectors, pa.list_(pa.float32(), 2))}
        )
        listed[name] = ListedFile.of(path)
    run = {SET_OF_SHARDS: sha256(shards / MANIFEST)}
    manifest = VectorsManifest(
        files=listed, dimension=2, checkpoint="c", step=1, run=run, code_version="v"
    )
    manifest.write(folder)


def write_map(
    path: Path, rows: list[tuple[str, str, int, float]], embeddings: Path | None = None
) -> Path:
    """An item-to-item map from (trigger, item, rank, score), as if made from the vectors of
    `embeddings`."""
    columns: dict[str, object] = dict(
        zip(
            ("trigger_id", "item_id", "rank", "score"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )
    return _write(
        path, columns, {"embeddings": sha256(embeddings / MANIFEST)} if embeddings else {}
    )


def _write(path: Path, columns: dict[str, object], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path
