"""Checkpoints are written while training goes on: a thread of each rank writes its rows as they
stood (trainer/embeddings/snapshot.py).

When all ranks have written theirs, the thread of rank 0 adds the manifest; only then is it a
checkpoint, and older ones may go.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

from pipeline.storage.files import flush
from trainer.arrays import Array
from trainer.checkpoints import files
from trainer.checkpoints.files import (
    DENSE,
    CheckpointError,
    CheckpointManifest,
    SavedFile,
    SavedTable,
    rank_file,
)
from trainer.checkpoints.tensor_files import Pieces, write_tensors
from trainer.embeddings.snapshot import COPIED_BYTES, Snapshot
from trainer.model import CALMER, M2GRL
from trainer.monitoring.early_stopping import History
from trainer.ranks.comm import agree


@dataclass(frozen=True)
class Pending:
    """A checkpoint that is being written."""

    step: int
    folder: Path
    validated: History
    snapshot: Snapshot
    written: Future[list[SavedFile]]
    """This rank's files."""


class Saver:
    """Writes the checkpoints of a run, one at a time.

    All ranks call `begin`, `collect` and `finish` at the same steps; `close` waits for no other
    rank.
    """

    def __init__(self, root: Path, model: M2GRL, run: dict[str, str], keep: int) -> None:
        """root: the checkpoints' folder; run: see CheckpointManifest; keep: newest checkpoints that
        stay."""
        self._root = root
        self._model = model
        self._run = run
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._given_up = threading.Event()
        self._pending: Pending | None = None
        self._made: Future[None] | None = None
        """The last checkpoint, of which all ranks have written their parts; rank 0 makes it
        whole."""

    def begin(self, step: int, validated: History = ()) -> None:
        """Begins the checkpoint of `step`, after an earlier one has been finished; validated: the
        HitRates measured until then."""
        self.finish()
        model = self._model
        comm = self._model.comm
        folder = files.folder_of(self._root, step)
        if comm.rank == 0:
            files.remove(folder)
            folder.mkdir(parents=True)
            flush(self._root)
        comm.barrier()
        rows = model.row_tensors
        # Few numbers: copied here and now, while the rows are read as steps go on.
        dense = {name: value.clone() for name, value in model.dense_tensors.items()}
        model.snapshot = Snapshot(rows, COPIED_BYTES)
        written = self._thread.submit(self._write, folder, model.snapshot, rows, dense)
        self._pending = Pending(step, folder, validated, model.snapshot, written)

    @property
    def written(self) -> bool:
        """Whether this rank's part of the checkpoint is on the disk, or failed."""
        return self._pending is not None and self._pending.written.done()

    def collect(self) -> None:
        """Makes a checkpoint of what all ranks have `written`, while steps go on; waits for a rank
        that has not.

        Raises CheckpointError, on all ranks, where one could not write its part; that the whole
        could not be made is told by `finish`.
        """
        if self._pending is None:
            return
        pending = self._pending
        comm = self._model.comm
        self._pending = None
        parts = comm.gather(_outcome(pending.written), "checkpoint files")
        self._model.snapshot = None
        failed = [part for part in parts if isinstance(part, str)]
        if failed:
            raise CheckpointError(failed[0])
        saved = tuple(file for part in parts for file in part)
        # On every rank, though rank 0 alone has something to do: all have to come to the exchange
        # in `finish`.
        self._made = self._thread.submit(self._make, pending, saved)

    def finish(self) -> None:
        """Waits until the checkpoint is whole, where one is being written. Raises CheckpointError,
        on all ranks, where one failed."""
        self.collect()
        if self._made is not None:
            made = self._made
            self._made = None
            agree(self._model.comm, _objection(made), CheckpointError, "checkpoint")

    def _make(self, pending: Pending, saved: tuple[SavedFile, ...]) -> None:
        if self._model.comm.rank:
            return
        with _naming(pending.folder):
            self._manifest(pending, saved).write(pending.folder)
        with _naming(self._root):
            files.mark_best(self._root, pending.validated, self._model.train.best_by)
            files.prune(self._root, self._keep)

    def _write(
        self, folder: Path, snapshot: Snapshot, rows: dict[str, Tensor], dense: dict[str, Tensor]
    ) -> list[SavedFile]:
        rank = self._model.comm.rank
        size = self._model.comm.size

        def pieces(name: str, piece_rows: int) -> Iterator[Array]:
            for number, piece in enumerate(snapshot.read(name, piece_rows)):
                self._check(folder, name, number * piece_rows, piece)
                yield piece

        try:
            for name, value in dense.items():
                if not value.isfinite().all():
                    raise CheckpointError(
                        f"{folder} is not written: '{name}' is not finite; {CALMER}"
                    )
            saved = [_write_file(folder / rank_file(rank, size), rows, pieces)]
        finally:
            snapshot.close()
        return [*saved, _write_file(folder / DENSE, dense)] if rank == 0 else saved

    def _check(self, folder: Path, name: str, first: int, piece: Array) -> None:
        if self._given_up.is_set():
            raise CheckpointError(f"{folder} was given up")
        finite = np.isfinite(piece)
        if not finite.all():
            # [rows, ...] -> [rows]: the first row with a number that is not finite.
            is_good = finite.reshape(len(piece), -1).all(axis=1)
            row = first + int(np.argmin(is_good))
            comm = self._model.comm
            where = self._model.tables.keys.name(row * comm.size + comm.rank)
            raise CheckpointError(
                f"{folder} is not written: '{name}' of row {where} is not finite; {CALMER}"
            )

    def _manifest(self, pending: Pending, saved: tuple[SavedFile, ...]) -> CheckpointManifest:
        model = self._model
        tables = [
            SavedTable(view=table.view, side=table.side, offset=table.offset, rows=table.rows)
            for table in model.tables.keys.tables
        ]
        return CheckpointManifest(
            step=pending.step,
            ranks=model.comm.size,
            dimension=model.train.dimension,
            tables=tuple(tables),
            tasks=tuple(model.tasks),
            run=self._run,
            validated=pending.validated,
            files=saved,
        )

    def close(self) -> None:
        """Gives up what is still being written."""
        self._given_up.set()
        if self._pending is not None:
            self._pending.snapshot.close()
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def save(root: Path, model: M2GRL, step: int, run: dict[str, str]) -> Path:
    """Writes the checkpoint of `step` under `root`, and waits for it; all ranks call it. Returns
    its directory."""
    with Saver(root, model, run, keep=files.ALL) as saver:
        saver.begin(step)
        saver.finish()
    return files.folder_of(root, step)


def _outcome(written: Future[list[SavedFile]]) -> list[SavedFile] | str:
    """This rank's files, or why there are none."""
    try:
        return written.result()
    except CheckpointError as error:
        return str(error)


def _objection(made: Future[None]) -> str | None:
    """Why a checkpoint was not made whole, or nothing."""
    error = made.exception()
    if error is not None and not isinstance(error, CheckpointError):
        raise error
    return str(error) if error else None


def _write_file(path: Path, tensors: dict[str, Tensor], pieces: Pieces | None = None) -> SavedFile:
    with _naming(path):
        written = write_tensors(path, tensors, pieces)
    return SavedFile(path=path.name, bytes=written.bytes, sha256=written.sha256)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raises CheckpointError where the disk does not take what is written within: the system's
    error names no file."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise CheckpointError(
            f"{path} cannot be written ({why}); make room, and go on from the last whole "
            "checkpoint with --resume"
        ) from None
