"""Embeddings from a checkpoint: one Parquet file a view and side, and one a relation and view, with
raw ids.

Files stream a piece of rows at a time. `manifest.json` is removed first and written last, so a
half-written export is not taken for one.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from pipeline.config import ITEM_VIEW
from pipeline.contracts.shards import SET_OF_SHARDS, Manifest, check_file, read_manifest
from pipeline.storage.files import code_version, sha256, whole_file, write_text
from pipeline.storage.locations import Location, parquet
from trainer.checkpoints import files as checkpoint
from trainer.checkpoints.files import CheckpointError, CheckpointManifest
from trainer.console import say
from trainer.embeddings.keys import Side
from trainer.objective.relations import relational
from trainer.training import shards_hash

MANIFEST = "manifest.json"


def export(
    shards: Location,
    checkpoints: Path,
    embeddings: Path,
    which: Literal["newest", "best"] = "newest",
) -> None:
    """Writes a whole checkpoint's vectors under `embeddings`.

    Raises CheckpointError, or ManifestError where the shards are not those the checkpoint was
    trained on.
    """
    folder = checkpoint.best(checkpoints) if which == "best" else checkpoint.newest(checkpoints)
    with checkpoint.in_use(folder):
        _export(folder, shards, embeddings)


def _export(folder: Path, shards: Location, embeddings: Path) -> None:
    saved, manifest = checkpoint.read(folder), read_manifest(shards)
    if saved.run[SET_OF_SHARDS] != shards_hash(shards):
        raise CheckpointError(
            f"{folder} was trained on other shards than {shards} holds now; run jobs/train.py again"
        )
    (embeddings / MANIFEST).unlink(missing_ok=True)
    written = {}
    for name, view, vectors in _files(folder, saved, manifest):
        path = embeddings / f"{name}.parquet"
        _write(path, _ids(shards, manifest, view), vectors, saved.dimension)
        written[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        say(f"{path}: {manifest.views[view].vocabulary.nodes} vectors")
    made = {
        "checkpoint": folder.name,
        "step": saved.step,
        "run": saved.run,
        "code_version": code_version(),
    }
    write_text(
        embeddings / MANIFEST,
        json.dumps({"files": written, "dimension": saved.dimension, **made}, indent=2) + "\n",
    )


def _files(
    folder: Path, saved: CheckpointManifest, manifest: Manifest
) -> Iterator[tuple[str, str, Iterable[Tensor]]]:
    """(name, view, pieces of vectors) of every file: input and output vectors, then the relational
    spaces."""

    def rows(view: str, side: Side) -> Iterator[Tensor]:
        return checkpoint.saved_rows(folder, saved, saved.keys.table(view, side))

    for view in manifest.views:
        yield view, view, rows(view, "input")
        yield f"{view}.context", view, rows(view, "output")
    dense = checkpoint.dense_parameters(folder)
    for name, relation in manifest.relations.items():
        for view in (ITEM_VIEW, relation.view):
            yield (
                f"{name}.{view}",
                view,
                (relational(piece, dense[f"{name}.W"]) for piece in rows(view, "input")),
            )


def _ids(shards: Location, manifest: Manifest, view: str) -> Iterator[pa.Array]:
    """A view's raw ids in row order, in the pieces in which the vectors come."""
    vocabulary = manifest.views[view].vocabulary
    check_file(shards, vocabulary.path, vocabulary.bytes, vocabulary.sha256)
    batches = parquet(shards / vocabulary.path).iter_batches(columns=["id"])
    read = pa.chunked_array([], pa.string())
    for first, stop in checkpoint.pieces(vocabulary.nodes):
        while len(read) < stop - first:
            read = pa.chunked_array([*read.chunks, next(batches).column("id").cast(pa.string())])
        yield read.slice(0, stop - first).combine_chunks()
        read = read.slice(stop - first)


def _write(path: Path, ids: Iterable[pa.Array], vectors: Iterable[Tensor], dimension: int) -> None:
    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), dimension))])
    with (
        whole_file(path) as part,
        pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for names, piece in zip(ids, vectors, strict=True):
            column = pa.FixedSizeListArray.from_arrays(
                pa.array(piece.numpy().reshape(-1)), dimension
            )
            writer.write_batch(pa.record_batch([names, column], schema=schema))
