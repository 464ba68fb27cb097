"""Exported vectors, checked before they are used."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.similarity.catalogue import Catalogue, EvaluationError, Ints
from pipeline.config import ITEM_VIEW
from pipeline.contracts.heldout import VALIDATION_USERS
from pipeline.contracts.shards import MANIFEST, SET_OF_SHARDS, ManifestError, check_file
from pipeline.storage.files import sha256
from pipeline.storage.locations import Location

Floats = npt.NDArray[np.float32]
INPUT, OUTPUT = f"{ITEM_VIEW}.parquet", f"{ITEM_VIEW}.context.parquet"


@dataclass(frozen=True)
class Vectors:
    """Item vectors, in the order of the catalogue."""

    rows: Ints
    """[n] catalogue row of each, ascending."""
    inputs: Floats
    """[n, d] input vectors v."""
    outputs: Floats | None
    """[n, d] output vectors v'; none where the folder has none."""


def check_export(folder: Path) -> dict[str, Any]:
    """Verifies an export against its manifest, which it returns. Raises EvaluationError naming what
    is absent or damaged."""
    path = folder / MANIFEST
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, file in record["files"].items():
            check_file(folder, name, file["bytes"], file["sha256"])
    except FileNotFoundError:
        raise EvaluationError(
            f"{path} is not there: no vectors were exported, or that did not finish; run "
            "jobs/export.py"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path} is not the manifest of exported vectors ({error!r}); run jobs/export.py again"
        ) from None
    except ManifestError as error:
        raise EvaluationError(str(error).replace("jobs/preprocess.py", "jobs/export.py")) from None
    return record


def read_export(folder: Path, shards: Location, catalogue: Catalogue) -> Vectors:
    """A project's own vectors. Raises EvaluationError, also where they were trained on other shards
    than `shards` holds now."""
    run = check_export(folder).get("run")
    if not isinstance(run, dict) or run.get(SET_OF_SHARDS) != sha256(shards / MANIFEST):
        raise EvaluationError(
            f"{folder} holds vectors that were trained on other shards than {shards} holds now; "
            "run jobs/train.py again"
        )
    return _clicked(read_vectors(folder, catalogue), catalogue)


def check_left_out(folder: Path, validation_users: float) -> None:
    """Raises EvaluationError where users would be judged by whom training chose what it
    exported."""
    run = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["run"]
    looked_at = float(run.get(VALIDATION_USERS, 0))
    if looked_at > validation_users:
        raise EvaluationError(
            f"{folder} comes from a training that looked at {looked_at:.0%} of the held-out "
            "users, and evaluate.validation_users = "
            f"{validation_users:g} leaves fewer out: figures would be those of users it was "
            f"chosen by; set it to {looked_at:g}"
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
    return _read(folder / INPUT).column("id")


def read_vectors(folder: Path, catalogue: Catalogue) -> Vectors:
    """The input and, where there are some, the output vectors of all items, whose ids the catalogue
    knows.

    Raises EvaluationError naming file and column where they are not vectors of one length for one
    set of items.
    """
    table = _read(folder / INPUT)
    rows, inputs = catalogue.rows(table.column("id")), _matrix(folder / INPUT, table)
    order = np.argsort(rows, kind="stable")
    if (np.diff(rows[order]) == 0).any() or (rows < 0).any():
        raise EvaluationError(
            f"{folder / INPUT}: an id is null or stands there twice; an item has one vector"
        )
    if not (folder / OUTPUT).exists():
        return Vectors(rows[order], inputs[order], None)
    table = _read(folder / OUTPUT)
    other, outputs = catalogue.rows(table.column("id")), _matrix(folder / OUTPUT, table)
    if not np.array_equal(rows, other) or inputs.shape != outputs.shape:
        raise EvaluationError(
            f"{folder / OUTPUT} is not about the items of {INPUT}, or of another dimension; "
            "export both together"
        )
    return Vectors(rows[order], inputs[order], outputs[order])


def _read(path: Path) -> pa.Table:
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


def _matrix(path: Path, table: pa.Table) -> Floats:
    """The column `vector` as float32 [n, d]."""
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
