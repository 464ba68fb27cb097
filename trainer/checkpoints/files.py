"""Checkpoints: one directory each, whole or not there.

Every rank writes its rows with their optimiser state; rank 0 adds the dense parameters and, last of
all, the manifest (trainer/checkpoints/saving.py). A directory without its manifest does not exist.
Rows are placed by key (k mod ranks), so a checkpoint loads at any number of ranks.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.contracts.sealed import (
    MANIFEST,
    FrozenRecord,
    ListedFile,
    ManifestError,
    Seal,
)
from pipeline.storage.files import sha256, write_text
from pipeline.storage.locations import Location
from trainer.checkpoints.tensor_files import PIECE_ROWS, TensorFile
from trainer.embeddings.keys import KeySpace, Side, Table, keys_of_rank
from trainer.model import M2GRL, OPTIMISER_STATE, VECTORS
from trainer.monitoring import early_stopping
from trainer.monitoring.early_stopping import History, ScoreName
from trainer.ranks.comm import agree

CHECKPOINT_FORMAT = "m2grl-checkpoint"
CHECKPOINT_VERSION = 1
BEST = "best.json"
"""Beside the checkpoints: which of them is the best."""
DENSE = "dense.safetensors"
ALL = sys.maxsize
"""So many checkpoints that none is removed."""


class CheckpointError(Exception):
    """A checkpoint is absent, not whole, of another run, or cannot be written."""


class SavedFile(FrozenRecord):
    """One file of a checkpoint."""

    path: str
    bytes: int
    sha256: str


class SavedTable(FrozenRecord):
    """One table of the key space (trainer/embeddings/keys.py)."""

    view: str
    side: Side
    offset: int
    rows: int


class CheckpointManifest(Seal):
    """What a checkpoint holds and where its run stood."""

    job: ClassVar[str] = "jobs/train.py"
    kind: ClassVar[str] = "a checkpoint's manifest"
    absent: ClassVar[str] = "the checkpoint was not finished"

    format: str = CHECKPOINT_FORMAT
    version: int = CHECKPOINT_VERSION
    step: int
    """Steps done; the run goes on with this one."""
    ranks: int
    dimension: int
    tables: tuple[SavedTable, ...]
    tasks: tuple[str, ...]
    run: dict[str, str]
    """What must be equal to go on: hashes of the configuration and of the shards' manifest, and who
    is for validation."""
    validated: History = ()
    """The HitRates measured until then."""
    files: tuple[SavedFile, ...]

    @property
    def keys(self) -> KeySpace:
        """The key space of its rows."""
        saved = self.tables
        tables = [Table(table.view, table.side, table.offset, table.rows) for table in saved]
        return KeySpace(tuple(tables))

    @property
    def listed(self) -> dict[str, ListedFile]:
        """The files of all ranks, and the dense parameters."""
        return {file.path: ListedFile(bytes=file.bytes, sha256=file.sha256) for file in self.files}

    @classmethod
    def _check_version(cls, path: Location, raw: Mapping[str, object], again: str) -> None:
        version = raw.get("version")
        if (raw.get("format"), version) != (CHECKPOINT_FORMAT, CHECKPOINT_VERSION):
            what = f"{path} is of version {version}, this code reads {CHECKPOINT_VERSION}"
            raise ManifestError(what, again)


def load_checkpoint(folder: Path, model: M2GRL, run: dict[str, str]) -> int:
    """Fills a model from a checkpoint written by any number of ranks; returns the step to go on
    with.

    Raises CheckpointError, on all ranks, naming what is missing, damaged, or differs from this run.
    """
    comm = model.comm
    manifest = read_checkpoint_manifest(folder)
    _check_run(folder, manifest, model, run)
    # With as many ranks as before, each reads and verifies its own rows; else all read all.
    own_file = rank_file(comm.rank, comm.size)
    own = {own_file, DENSE} if manifest.ranks == comm.size else None
    damage = _damage(folder, manifest, own)
    agree(comm, damage, CheckpointError, "checkpoint verified")
    _fill_rows(folder, manifest, model)
    saved = _open(folder, DENSE)
    for name, target in model.dense_tensors.items():
        target.copy_(saved.get_tensor(name))
    return manifest.step


def _check_run(
    folder: Path, manifest: CheckpointManifest, model: M2GRL, run: dict[str, str]
) -> None:
    """Raises CheckpointError where a checkpoint is of other tables or another run than this one."""
    mend = "start without --resume, or restore what it was made with"
    saved = {(each.view, each.side): each.rows for each in manifest.tables}
    own = {(each.view, each.side): each.rows for each in model.tables.keys.tables}
    for table in saved.keys() | own.keys():
        view, _ = table
        rows = saved.get(table, 0)
        nodes = own.get(table, 0)
        if rows != nodes:
            raise CheckpointError(
                f"{folder} has {rows} nodes of view '{view}', the shards have {nodes}; {mend}"
            )
    length, own_length = manifest.dimension, model.train.dimension
    if length != own_length:
        raise CheckpointError(
            f"{folder} has vectors of length {length}, train.dimension is {own_length}; {mend}"
        )
    for name, value in run.items():
        if manifest.run.get(name) != value:
            raise CheckpointError(f"{folder} was made with another {name}; {mend}")


def _fill_rows(folder: Path, manifest: CheckpointManifest, model: M2GRL) -> None:
    rank = model.comm.rank
    size = model.comm.size
    total = model.tables.keys.size
    targets = model.row_tensors
    saved_size = manifest.ranks
    for saved_rank in range(saved_size):
        # With as many ranks as before, nothing in other ranks' files is this one's.
        if saved_size == size and saved_rank != rank:
            continue
        saved = TensorFile(folder / rank_file(saved_rank, saved_size))
        count = keys_of_rank(total, saved_rank, saved_size)
        for first, stop in pieces(count):
            # [piece] the saved rows' keys, and which of them live here now.
            keys = torch.arange(first, stop) * saved_size + saved_rank
            is_own = keys % size == rank
            rows = torch.div(keys[is_own], size, rounding_mode="floor").to(model.device)
            for name, target in targets.items():
                piece = saved.rows(name, first, stop)
                target[rows] = piece[is_own].to(model.device)


def verified_manifest(folder: Path) -> CheckpointManifest:
    """Reads a checkpoint's manifest and verifies its files' sizes and checksums. Raises
    CheckpointError."""
    manifest = read_checkpoint_manifest(folder)
    damage = _damage(folder, manifest)
    if damage:
        raise CheckpointError(damage)
    return manifest


@contextmanager
def reading_lock(folder: Path) -> Iterator[None]:
    """Within, no training removes this checkpoint. Raises CheckpointError where it is gone
    already."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            # It may have been removed before it was locked: an open file outlives its name.
            links = os.fstat(file.fileno()).st_nlink
            if not links:
                raise FileNotFoundError
            yield
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has been removed: training goes on, and keeps newer checkpoints; run "
            "this again"
        ) from None


def _damage(folder: Path, manifest: CheckpointManifest, only: set[str] | None = None) -> str | None:
    """What is wrong with a checkpoint's files, of all or of those named `only`; none: nothing."""
    mend = f"remove {folder} to use an older checkpoint"
    for name, file in manifest.listed.items():
        path = folder / name
        if only is not None and name not in only:
            continue
        # The size first: it costs nothing, and the checksum reads the whole file.
        is_same_size = path.is_file() and path.stat().st_size == file.bytes
        if not is_same_size or sha256(path) != file.sha256:
            return f"{path} is missing or is not the file that was written; {mend}"
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    strange = visible - {MANIFEST, *manifest.listed}
    if strange:
        return f"{folder / min(strange)} does not belong to the checkpoint; take it away, or {mend}"
    return None


def read_checkpoint_manifest(folder: Path) -> CheckpointManifest:
    """Reads a checkpoint's manifest, and nothing else of it. Raises CheckpointError."""
    try:
        return CheckpointManifest.read(folder)
    except ManifestError as error:
        # What to do about it is not to train again: an older checkpoint may do.
        raise CheckpointError(error.what) from None


def whole_checkpoints(root: Path) -> list[Path]:
    """Directories under `root` that have a manifest, oldest first."""
    return sorted(path.parent for path in root.glob(f"step-*/{MANIFEST}"))


def newest_checkpoint(root: Path) -> Path:
    """The newest whole checkpoint. Raises CheckpointError where there is none."""
    folders = whole_checkpoints(root)
    if not folders:
        raise CheckpointError(f"no whole checkpoint under {root}; run jobs/train.py")
    return folders[-1]


def mark_best(root: Path, history: History, by: ScoreName) -> None:
    """Writes which of the whole checkpoints is the best by a score; where none was measured,
    nothing says so."""
    whole = whole_checkpoints(root)
    # Not every step that was measured has a checkpoint, and old ones are removed.
    saved = tuple(measured for measured in history if folder_of(root, measured.step) in whole)
    best = early_stopping.best_measurement(saved, by)
    if best is None:
        (root / BEST).unlink(missing_ok=True)
    else:
        record = {"checkpoint": folder_of(root, best.step).name, "by": by, **best.model_dump()}
        write_text(root / BEST, json.dumps(record, indent=2) + "\n")


def best_checkpoint(root: Path) -> Path:
    """The whole checkpoint that `mark_best` named. Raises CheckpointError where there is none."""
    path = root / BEST
    if not path.exists():
        raise CheckpointError(
            f"{path} is not there: no HitRate was measured while training (docs/contracts.md); "
            "take the newest"
        )
    try:
        folder: Path = root / json.loads(path.read_text(encoding="utf-8"))["checkpoint"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not name a checkpoint ({error!r}); run jobs/train.py with --resume"
        ) from None
    if folder not in whole_checkpoints(root):
        raise CheckpointError(f"{path} names {folder.name}, which is not whole; take the newest")
    return folder


def prune(root: Path, keep: int) -> None:
    """Removes all but the newest `keep` whole checkpoints and the best, and what unfinished ones
    left behind. One under its `reading_lock` stays. Where none is to be kept, the best is not
    either.

    Raises CheckpointError where none is to be kept and one is in use: a new run could take it for
    its own.
    """
    kept = whole_checkpoints(root)[-keep:] if keep else []
    if keep and (root / BEST).exists():
        kept.append(best_checkpoint(root))
    for folder in root.glob("step-*"):
        stays = folder in kept or not _removed(folder)
        if stays and not keep:
            raise CheckpointError(
                f"{folder} is of an earlier run and is being read right now; start again when "
                "that has ended"
            )


def _removed(folder: Path) -> bool:
    """Removes a checkpoint, unless it is in use; within the lock, so that nobody begins to read it
    meanwhile."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(folder)
    except FileNotFoundError:
        remove(folder)
    except BlockingIOError:
        return False
    return True


def remove(folder: Path) -> None:
    """Removes a checkpoint, whole or not. The manifest goes first, so that what is left is no
    checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def saved_rows(folder: Path, manifest: CheckpointManifest, table: Table) -> Iterator[Tensor]:
    """The vectors of a table in row order, a piece [rows, d] at a time, whichever ranks hold
    them."""
    ranks = manifest.ranks
    saved = [TensorFile(folder / rank_file(rank, ranks)) for rank in range(ranks)]
    for first, stop in pieces(table.rows):
        first_key = table.offset + first
        stop_key = table.offset + stop
        vectors = torch.empty(stop - first, manifest.dimension)
        for rank in range(ranks):
            # The piece's first key that this rank holds; it holds each `ranks`-th from there on.
            begin = (rank - first_key) % ranks
            keys = range(first_key + begin, stop_key, ranks)
            if len(keys):
                first_row = keys[0] // ranks
                last_row = keys[-1] // ranks
                vectors[begin::ranks] = saved[rank].rows(VECTORS, first_row, last_row + 1)
        yield vectors


def dense_parameters(folder: Path) -> dict[str, Tensor]:
    """The dense parameters of a checkpoint, without their optimiser's state."""
    saved = _open(folder, DENSE)
    names: list[str] = saved.keys()
    return {name: saved.get_tensor(name) for name in names if not name.startswith(OPTIMISER_STATE)}


def pieces(rows: int) -> Iterator[tuple[int, int]]:
    """[first, stop) of at most PIECE_ROWS rows each."""
    for first in range(0, rows, PIECE_ROWS):
        yield first, min(rows, first + PIECE_ROWS)


def folder_of(root: Path, step: int) -> Path:
    """Directory of the checkpoint of a step."""
    return root / f"step-{step:09d}"


def rank_file(rank: int, size: int) -> str:
    """Name of the file that holds a rank's rows."""
    return f"rows-{rank:05d}-of-{size:05d}.safetensors"


def _open(folder: Path, name: str) -> Any:
    """safetensors ships no types."""
    return safe_open(folder / name, framework="pt")
