"""Embeddings from a checkpoint: one Parquet file a view and side, and one a relation and view, with
raw ids.

Files stream a piece of rows at a time. `manifest.json` is removed first and written last, so a
half-written export is not taken for one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from pipeline.config import ITEM_VIEW
from pipeline.contracts.sealed import MANIFEST, ListedFile, check_file
from pipeline.contracts.shards import SET_OF_SHARDS, Manifest
from pipeline.contracts.vectors import (
    VectorsManifest,
    input_file,
    output_file,
    relational_file,
)
from pipeline.storage.files import code_version, whole_file
from pipeline.storage.locations import Location, parquet
from trainer.checkpoints import files
from trainer.checkpoints.files import CheckpointError, CheckpointManifest
from trainer.console import print_line
from trainer.embeddings.keys import Side
from trainer.objective.relations import relational
from trainer.training import shards_hash


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
    folder = (
        files.best_checkpoint(checkpoints)
        if which == "best"
        else files.newest_checkpoint(checkpoints)
    )
    with files.reading_lock(folder):
        _export(folder, shards, embeddings)


def _export(folder: Path, shards: Location, embeddings: Path) -> None:
    saved, manifest = files.verified_manifest(folder), Manifest.read(shards)
    if saved.run[SET_OF_SHARDS] != shards_hash(shards):
        raise CheckpointError(
            f"{folder} was trained on other shards than {shards} holds now; run jobs/train.py again"
        )
    (embeddings / MANIFEST).unlink(missing_ok=True)
    written = {}
    for name, view, vectors in _files(folder, saved, manifest):
        path = embeddings / name
        _write(path, _ids(shards, manifest, view), vectors, saved.dimension)
        written[name] = ListedFile.of(path)
        print_line(f"{path}: {manifest.views[view].vocabulary.nodes} vectors")
    sealed = VectorsManifest(
        files=written,
        dimension=saved.dimension,
        checkpoint=folder.name,
        step=saved.step,
        run=saved.run,
        code_version=code_version(),
    )
    sealed.write(embeddings)


def _files(
    folder: Path, saved: CheckpointManifest, manifest: Manifest
) -> Iterator[tuple[str, str, Iterable[Tensor]]]:
    """(name, view, pieces of vectors) of every file: input and output vectors, then the relational
    spaces."""

    def rows(view: str, side: Side) -> Iterator[Tensor]:
        return files.saved_rows(folder, saved, saved.keys.table(view, side))

    for view in manifest.views:
        yield input_file(view), view, rows(view, "input")
        yield output_file(view), view, rows(view, "output")
    dense = files.dense_parameters(folder)
    for name, relation in manifest.relations.items():
        for view in (ITEM_VIEW, relation.view):
            matrix = dense[f"{name}.W"]
            related = (relational(piece, matrix) for piece in rows(view, "input"))
            yield relational_file(name, view), view, related


def _ids(shards: Location, manifest: Manifest, view: str) -> Iterator[pa.Array]:
    """A view's raw ids in row order, in the pieces in which the vectors come."""
    vocabulary = manifest.views[view].vocabulary
    check_file(shards, vocabulary.path, vocabulary.bytes, vocabulary.sha256)
    batches = parquet(shards / vocabulary.path).iter_batches(columns=["id"])
    read = pa.chunked_array([], pa.string())
    for first, stop in files.pieces(vocabulary.nodes):
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
