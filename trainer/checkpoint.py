"""Checkpoints: one directory each, whole or not there.

Every rank writes its rows with their optimiser state; rank 0 adds the dense parameters and, last of all, the manifest. A directory without
its manifest does not exist. Rows are placed by key (k mod ranks), so a checkpoint loads at any number of ranks.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import safe_open
from torch import Tensor

from pipeline.files import sha256, write_text
from trainer.keys import KeySpace, Side, Table, keys_of_rank
from trainer.model import M2GRL
from trainer.tensor_files import PIECE_ROWS, write_tensors

FORMAT = "m2grl-checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
DENSE = "dense.safetensors"
VALUES = "values"


class CheckpointError(Exception):
    """A checkpoint is absent, not whole, of another run, or cannot be written."""


class SavedFile(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int
    sha256: str


class SavedTable(BaseModel):
    """One table of the key space (trainer/keys.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    view: str
    side: Side
    offset: int
    rows: int


class CheckpointManifest(BaseModel):
    """What a checkpoint holds and where its run stood."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str = FORMAT
    version: int = VERSION
    step: int
    """Steps done; the run goes on with this one."""
    ranks: int
    dimension: int
    tables: tuple[SavedTable, ...]
    tasks: tuple[str, ...]
    run: dict[str, str]
    """What must be equal to go on: hashes of the configuration and of the shards' manifest."""
    files: tuple[SavedFile, ...]

    @property
    def keys(self) -> KeySpace:
        """The key space of its rows."""
        return KeySpace(tuple(Table(table.view, table.side, table.offset, table.rows) for table in self.tables))


def save(root: Path, model: M2GRL, step: int, run: dict[str, str]) -> Path:
    """Writes the checkpoint of `step` under `root`; all ranks call it. Returns its directory."""
    comm = model.comm
    folder = root / f"step-{step:09d}"
    if comm.rank == 0:
        _remove(folder)
        folder.mkdir(parents=True)
    comm.barrier()
    written = [_write(folder / _rank_file(comm.rank, comm.size), {VALUES: model.tables.values, **model.rows.state})]
    if comm.rank == 0:
        written.append(_write(folder / DENSE, _dense(model)))
    files = tuple(file for part in comm.gather(written, "checkpoint files") for file in part)
    if comm.rank == 0:
        tables = tuple(SavedTable(view=t.view, side=t.side, offset=t.offset, rows=t.rows) for t in model.tables.keys.tables)
        manifest = CheckpointManifest(
            step=step, ranks=comm.size, dimension=model.train.dimension, tables=tables, tasks=tuple(model.tasks), run=run, files=files
        )
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    comm.barrier()
    return folder


def load(folder: Path, model: M2GRL, run: dict[str, str]) -> int:
    """Fills a model from a checkpoint written by any number of ranks; returns the step to go on with.

    Raises CheckpointError naming what is missing, damaged, or differs from this run.
    """
    manifest = read(folder)
    for name, value in run.items():
        if manifest.run.get(name) != value:
            raise CheckpointError(f"{folder} was made with another {name}; start without --resume, or restore what it was made with")
    _fill_rows(folder, manifest, model)
    saved = _open(folder, DENSE)
    for name, target in _dense(model).items():
        target.copy_(saved.get_tensor(name))
    return manifest.step


def _fill_rows(folder: Path, manifest: CheckpointManifest, model: M2GRL) -> None:
    rank, size, total = model.comm.rank, model.comm.size, model.tables.keys.size
    targets = {VALUES: model.tables.values, **model.rows.state}
    for saved_rank in range(manifest.ranks):
        if manifest.ranks == size and saved_rank != rank:
            continue
        saved = _open(folder, _rank_file(saved_rank, manifest.ranks))
        for first, stop in pieces(keys_of_rank(total, saved_rank, manifest.ranks)):
            keys = torch.arange(first, stop) * manifest.ranks + saved_rank
            mine = keys % size == rank
            for name, target in targets.items():
                target[torch.div(keys[mine], size, rounding_mode="floor")] = saved.get_slice(name)[first:stop][mine]


def read(folder: Path) -> CheckpointManifest:
    """Reads a checkpoint's manifest and verifies its files' sizes and checksums. Raises CheckpointError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: the checkpoint was not finished")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if (raw.get("format"), raw.get("version")) != (FORMAT, VERSION):
            raise CheckpointError(f"{path} is of version {raw.get('version')}, this code reads {VERSION}")
        manifest = CheckpointManifest.model_validate(raw)
    except (json.JSONDecodeError, AttributeError, ValidationError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's manifest: {error}") from None
    for file in manifest.files:
        full = folder / file.path
        if not full.is_file() or full.stat().st_size != file.bytes or sha256(full) != file.sha256:
            raise CheckpointError(f"{full} is missing or is not the file that was written; remove {folder} to use an older checkpoint")
    return manifest


def whole_checkpoints(root: Path) -> list[Path]:
    """Directories under `root` that have a manifest, oldest first."""
    return sorted(path.parent for path in root.glob(f"step-*/{MANIFEST}"))


def newest(root: Path) -> Path:
    """The newest whole checkpoint. Raises CheckpointError where there is none."""
    found = whole_checkpoints(root)
    if not found:
        raise CheckpointError(f"no whole checkpoint under {root}; run jobs/train.py")
    return found[-1]


def prune(root: Path, keep: int) -> None:
    """Removes all but the newest `keep` whole checkpoints, and what unfinished ones left behind."""
    kept = whole_checkpoints(root)[-keep:] if keep else []
    for folder in root.glob("step-*"):
        if folder not in kept:
            _remove(folder)


def _remove(folder: Path) -> None:
    """The manifest goes first, so that what is left is no checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def saved_rows(folder: Path, manifest: CheckpointManifest, table: Table) -> Iterator[Tensor]:
    """The vectors of a table in row order, a piece [rows, d] at a time, whichever ranks hold them."""
    ranks = manifest.ranks
    saved = [_open(folder, _rank_file(rank, ranks)).get_slice(VALUES) for rank in range(ranks)]
    for first, stop in pieces(table.rows):
        vectors = torch.empty(stop - first, manifest.dimension)
        for rank in range(ranks):
            begin = (rank - table.offset - first) % ranks
            keys = range(table.offset + first + begin, table.offset + stop, ranks)
            if len(keys):
                vectors[begin::ranks] = saved[rank][keys[0] // ranks : keys[-1] // ranks + 1]
        yield vectors


def dense_parameters(folder: Path) -> dict[str, Tensor]:
    """The dense parameters of a checkpoint, without their optimiser's state."""
    saved = _open(folder, DENSE)
    return {name: saved.get_tensor(name) for name in saved.keys() if not name.startswith("state.")}  # noqa: SIM118 (no mapping)


def pieces(rows: int) -> Iterator[tuple[int, int]]:
    """[first, stop) of at most PIECE_ROWS rows each."""
    for first in range(0, rows, PIECE_ROWS):
        yield first, min(rows, first + PIECE_ROWS)


def _dense(model: M2GRL) -> dict[str, Tensor]:
    """Dense parameters, and their optimiser's state under names of its own."""
    return {**model.dense, **{f"state.{name}": value for name, value in model.dense_optimiser.state.items()}}


def _rank_file(rank: int, size: int) -> str:
    return f"rows-{rank:05d}-of-{size:05d}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor]) -> SavedFile:
    """Raises CheckpointError where the disk does not take it: the system's error names no file."""
    try:
        written = write_tensors(path, tensors)
    except OSError as error:
        why = error.strerror or error
        raise CheckpointError(
            f"{path} cannot be written ({why}); make room, and go on from the last whole checkpoint with --resume"
        ) from None
    return SavedFile(path=path.name, bytes=written.bytes, sha256=written.sha256)


def _open(folder: Path, name: str) -> Any:
    """safetensors ships no types."""
    return safe_open(folder / name, framework="pt")
