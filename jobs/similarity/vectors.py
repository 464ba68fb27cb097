"""Exported vectors, checked before they are used."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.common.arrays import Float32Array, Int32Array
from jobs.similarity.catalogue import Catalogue, EvaluationError
from pipeline.config import ITEM_VIEW
from pipeline.contracts.heldout import VALIDATION_USERS
from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.contracts.shards import SET_OF_SHARDS
from pipeline.contracts.vectors import VectorsManifest, input_file, output_file
from pipeline.storage.files import sha256
from pipeline.storage.locations import Location

INPUT, OUTPUT = input_file(ITEM_VIEW), output_file(ITEM_VIEW)


@dataclass(frozen=True)
class Vectors:
    """Item vectors, in the order of the catalogue."""

    rows: Int32Array
    """[n] catalogue row of each, ascending."""
    inputs: Float32Array
    """[n, d] input vectors v."""
    outputs: Float32Array | None
    """[n, d] output vectors v'; none where the folder has none."""


def check_export(folder: Path) -> VectorsManifest:
    """Verifies an export against its manifest, which it returns. Raises EvaluationError naming what
    is absent or damaged."""
    try:
        manifest = VectorsManifest.read(folder)
        manifest.check(folder)
    except ManifestError as error:
        raise EvaluationError(str(error)) from None
    return manifest


def read_export(folder: Path, shards: Location, catalogue: Catalogue) -> Vectors:
    """A project's own vectors. Raises EvaluationError, also where they were trained on other shards
    than `shards` holds now."""
    manifest = check_export(folder)
    if manifest.run.get(SET_OF_SHARDS) != sha256(shards / MANIFEST):
        raise EvaluationError(
            f"{folder} holds vectors that were trained on other shards than {shards} holds now; "
            "run jobs/train.py again"
        )
    return _clicked(read_vectors(folder, catalogue), catalogue)


def check_left_out(folder: Path, validation_users: float) -> None:
    """Raises EvaluationError where users would be judged by whom training chose what it
    exported."""
    looked_at = float(VectorsManifest.read(folder).run.get(VALIDATION_USERS, 0))
    if looked_at > validation_users:
        raise EvaluationError(
            f"{folder} comes from a training that looked at {looked_at:.0%} of the held-out users, "
            f"and evaluate.validation_users = {validation_users:g} leaves fewer out: figures would "
            f"be those of users it was chosen by; set it to {looked_at:g}"
        )


def _clicked(vectors: Vectors, catalogue: Catalogue) -> Vectors:
    """The vectors of items that were trained: those of count 0 only keep a row of the
    vocabulary."""
    kept = catalogue.counts[vectors.rows] > 0
    return Vectors(
        vectors.rows[kept],
        vectors.inputs[kept],
        None if vectors.outputs is None else vectors.outputs[kept],
    )


def read_ids(folder: Path) -> pa.ChunkedArray:
    """Raw ids of the items that have an input vector. Raises EvaluationError where there is no such
    file."""
    return read_table_of_vectors(folder / INPUT).column("id")


def read_vectors(folder: Path, catalogue: Catalogue) -> Vectors:
    """The input and, where there are some, the output vectors of all items, whose ids the catalogue
    knows.

    Raises EvaluationError naming file and column where they are not vectors of one length for one
    set of items.
    """
    table = read_table_of_vectors(folder / INPUT)
    rows, inputs = catalogue.rows(table.column("id")), vector_matrix(folder / INPUT, table)
    order = np.argsort(rows, kind="stable")
    if (np.diff(rows[order]) == 0).any() or (rows < 0).any():
        raise EvaluationError(
            f"{folder / INPUT}: an id is null or stands there twice; an item has one vector"
        )
    if not (folder / OUTPUT).exists():
        return Vectors(rows[order], inputs[order], None)
    table = read_table_of_vectors(folder / OUTPUT)
    other, outputs = catalogue.rows(table.column("id")), vector_matrix(folder / OUTPUT, table)
    if not np.array_equal(rows, other) or inputs.shape != outputs.shape:
        raise EvaluationError(
            f"{folder / OUTPUT} is not about the items of {INPUT}, or of another dimension; "
            "export both together"
        )
    return Vectors(rows[order], inputs[order], outputs[order])


def read_table_of_vectors(path: Path) -> pa.Table:
    """The columns `id` and `vector` of a file. Raises EvaluationError where it has none."""
    try:
        return pq.read_table(path, columns=["id", "vector"])
    except FileNotFoundError:
        raise EvaluationError(
            f"{path} is not there; vectors are exported as Parquet with the columns id and vector"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise EvaluationError(
            f"{path} is not Parquet with the columns id and vector: {error}"
        ) from None


def vector_matrix(path: Path, table: pa.Table) -> Float32Array:
    """The column `vector` as float32 [n, d]. Raises EvaluationError where it is no such matrix of
    finite numbers; `path` is named."""
    column = table.column("vector")
    lengths = pc.unique(pc.list_value_length(column))
    if len(lengths) != 1 or not lengths[0].as_py():
        raise EvaluationError(
            f"{path}: column vector holds lengths {lengths.to_pylist()[:5]}; all must have one "
            "length above 0"
        )
    values = np.asarray(pc.list_flatten(column).cast(pa.float32()))
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"{path}: column vector holds values that are not finite; the training diverged: "
            "lower its rate"
        )
    return values.reshape(table.num_rows, -1)
