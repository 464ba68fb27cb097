"""What the trainer's benchmark trains on: a dense synthetic corpus, and the shards of real
projects; as sentences too, for gensim."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import ITEM_VIEW
from pipeline.contracts.shards import (
    Manifest,
    RelationShards,
    ShardFile,
    Stream,
    ViewShards,
    Vocabulary,
)
from pipeline.storage.files import sha256, write_text
from trainer.data.streams import StreamFiles
from trainer.objective.fast_windows import window_pairs
from trainer.objective.tasks import intra_stream

MEAN_LENGTH, WINDOW, FILES, ROW_GROUP, SEED = 21, 9, 8, 16_384, 1
STAMP = "complete.json"
"""Written last: a corpus without it is made anew."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """Of a synthetic corpus."""

    clicks: int = 2_000_000
    items: int = 200_000
    categories: int = 2_000
    shops: int = 20_000


def dense(folder: Path, size: Size = Size()) -> Path:
    """Shards of sessions of about 21 clicks on items whose counts fall as 1/rank, each with one
    category and one shop."""
    stamp = json.dumps([asdict(size), MEAN_LENGTH, WINDOW, FILES, ROW_GROUP, SEED])
    if not (folder / STAMP).exists() or (folder / STAMP).read_text(encoding="utf-8") != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        _write_dense(folder, size)
        write_text(folder / STAMP, stamp)
    return folder


def _write_dense(folder: Path, size: Size) -> None:
    random = np.random.default_rng(SEED)
    lengths = random.poisson(MEAN_LENGTH - 2, size.clicks // MEAN_LENGTH) + 2
    share = np.cumsum(1 / np.arange(1, size.items + 1))
    items = np.minimum(
        np.searchsorted(share / share[-1], random.random(lengths.sum())), size.items - 1
    )
    session = np.repeat(np.arange(len(lengths)), lengths)
    views, relations = {ITEM_VIEW: _view(folder, ITEM_VIEW, items, session, size.items)}, {}
    for view, nodes in {"category": size.categories, "shop": size.shops}.items():
        value = random.integers(0, nodes, size.items)
        value[:nodes] = np.arange(nodes)
        views[view] = _view(folder, view, value[items], session, nodes)
        relations[f"item_{view}"] = _relation(folder, f"item_{view}", view, value)
    manifest = Manifest(
        name="dense",
        seed=SEED,
        window=WINDOW,
        views=views,
        relations=relations,
        config={},
        config_hash="",
        code_version="",
        inputs={},
    )
    manifest.write(folder)


def _view(folder: Path, view: str, nodes: Ints, session: Ints, size: int) -> ViewShards:
    repeats = np.concatenate(([False], (nodes[1:] == nodes[:-1]) & (session[1:] == session[:-1])))
    nodes, session = nodes[~repeats], session[~repeats]
    counts = np.bincount(nodes, minlength=size)
    lengths = np.bincount(session)
    long = lengths > 1
    kept, lengths = nodes[long[session]], lengths[long]
    ends = np.concatenate(([0], np.cumsum(lengths)))
    files = []
    for number in range(FILES):
        first, stop = number * len(lengths) // FILES, (number + 1) * len(lengths) // FILES
        offsets = ends[first : stop + 1]
        lists = pa.ListArray.from_arrays(
            (offsets - offsets[0]).astype(np.int32), kept[offsets[0] : offsets[-1]].astype(np.int32)
        )
        pairs = int(window_pairs(lengths[first:stop], WINDOW).sum())
        files.append(
            _file(
                folder,
                f"{view}/windows/{number}.parquet",
                pa.table({"nodes": lists}),
                int(offsets[-1] - offsets[0]),
                pairs,
            )
        )
    stream = Stream(
        encoding="windows",
        source="sessions",
        centre_view=view,
        context_view=view,
        window=WINDOW,
        files=tuple(files),
    )
    return ViewShards(vocabulary=_vocabulary(folder, view, counts), streams=(stream,))


def _relation(folder: Path, name: str, view: str, value: Ints) -> RelationShards:
    lists = pa.ListArray.from_arrays(
        np.arange(len(value) + 1, dtype=np.int32), value.astype(np.int32)
    )
    table = pa.table({"centre": np.arange(len(value), dtype=np.int32), "contexts": lists})
    file = _file(folder, f"{name}/pairs/0.parquet", table, len(value), len(value))
    stream = Stream(
        encoding="pairs",
        source="links",
        centre_view=ITEM_VIEW,
        context_view=view,
        window=None,
        files=(file,),
    )
    return RelationShards(view=view, links=len(value), streams=(stream,))


def _vocabulary(folder: Path, view: str, counts: Ints) -> Vocabulary:
    rows = len(counts)
    columns = {
        "row": np.arange(rows, dtype=np.int32),
        "id": [f"{view} {row}" for row in range(rows)],
        "count": counts,
    }
    path = folder / "vocabulary" / f"{view}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({**columns, "title": pa.nulls(rows, pa.string())}), path)
    where = path.relative_to(folder).as_posix()
    return Vocabulary(
        path=where, nodes=rows, bytes=path.stat().st_size, sha256=sha256(path), version=0
    )


def _file(folder: Path, name: str, table: pa.Table, tokens: int, pairs: int) -> ShardFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=ROW_GROUP)
    return ShardFile(
        path=name,
        rows=table.num_rows,
        tokens=tokens,
        pairs=pairs,
        bytes=path.stat().st_size,
        sha256=sha256(path),
    )


def item_alone(manifest: Manifest) -> Manifest:
    """The manifest without all but the item task."""
    return manifest.model_copy(
        update={"views": {ITEM_VIEW: manifest.views[ITEM_VIEW]}, "relations": {}}
    )


def sentences(shards: Path, path: Path, most: int) -> tuple[int, int]:
    """Writes the item sequences as lines of text, as gensim reads them, up to about `most` tokens;
    returns (tokens, pairs)."""
    tokens = pairs = 0
    with path.open("w", encoding="utf-8") as file:
        for sequence in _sequences(shards):
            file.write(" ".join(map(str, sequence)) + "\n")
            tokens += len(sequence)
            pairs += int(window_pairs(np.array([len(sequence)]), WINDOW)[0])
            if tokens >= most:
                break
    return tokens, pairs


def _sequences(shards: Path) -> Iterator[list[int]]:
    stream = intra_stream(Manifest.read(shards), ITEM_VIEW, "windows")
    files = StreamFiles(shards, stream)
    for first in range(0, stream.rows, ROW_GROUP):
        rows = files.read(first, min(stream.rows, first + ROW_GROUP))
        for begin, end in zip(rows.offsets, islice(rows.offsets, 1, None), strict=False):
            yield rows.values[begin:end].tolist()
