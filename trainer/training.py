"""The training loop of one rank."""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.contracts import heldout
from pipeline.contracts.shards import (
    MANIFEST,
    SET_OF_SHARDS,
    Manifest,
    ManifestError,
    read_manifest,
)
from pipeline.storage.files import code_version, sha256, write_text
from pipeline.storage.locations import Location
from trainer.checkpoints import files as checkpoint
from trainer.checkpoints.saving import Saver
from trainer.config import Train, TrainConfigError
from trainer.console import say, so_many
from trainer.data.prefetch import Reader, verify
from trainer.kernels import build
from trainer.model import M2GRL, StepResult
from trainer.monitoring.early_stopping import History
from trainer.monitoring.health import Watch, Watched
from trainer.monitoring.progress import RECORDS, Progress
from trainer.monitoring.tensorboard import FOLDER as TENSORBOARD
from trainer.monitoring.trace import FOLDER as TRACES
from trainer.monitoring.trace import Trace
from trainer.monitoring.validation import Course, Validation, make_validator
from trainer.objective.batch import Work
from trainer.objective.tasks import Task, TaskFactory
from trainer.objective.weighting import LOG_VARIANCE
from trainer.ranks.comm import Comm, agree
from trainer.ranks.devices import CPU
from trainer.ranks.processes import GO_ON
from trainer.ranks.shared_memory import SharedComm, nearest

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints under a run's output."""


class StoppedError(Exception):
    """Training ended early, as it was asked to, with a checkpoint."""


def train(
    shards: Location,
    output: Path,
    config: Train,
    seed: int,
    comm: Comm,
    resume: bool = False,
    stop: threading.Event | None = None,
    profile: int = 0,
    validation: Validation | None = None,
) -> None:
    """Trains on a shard folder; writes checkpoints and train.jsonl under `output`. All ranks call
    it. Once `stop` is set on one of them, the step under way is the last, and what it led to is
    saved. Of `profile` steps a trace is written. `validation`: what HitRates are measured on
    meanwhile.

    Raises ManifestError, CheckpointError, CommError, TrainConfigError, TrainingError or
    StoppedError with a message for the user, OSError where a record cannot be written.
    """
    torch.set_num_threads(1)
    manifest = read_manifest(shards)
    check_alike(manifest, config, seed, validation, comm)
    run = Run(shards, manifest, output, config, seed, nearest(comm, config), validation, resume)
    run.to_end(stop or threading.Event(), profile)


class Run:
    """A training on one rank: what it is made of, and how far it has come. All ranks do all of
    it."""

    def __init__(
        self,
        shards: Location,
        manifest: Manifest,
        output: Path,
        config: Train,
        seed: int,
        comm: Comm,
        validation: Validation | None,
        resume: bool,
    ) -> None:
        """Fresh rows, or those of the newest checkpoint. Nothing of an earlier run goes before all
        ranks' shards are known to be whole."""
        factory = TaskFactory(shards, manifest, config, seed, comm)
        self._output, self._config, self._seed, self._comm = output, config, seed, comm
        self._checkpoints = output / CHECKPOINTS
        self._tasks = factory.tasks()
        self._model = M2GRL(
            config,
            factory.keys,
            [task.name for task in self._tasks],
            list(manifest.relations),
            seed,
            comm,
        )
        agree(comm, _damage(self._tasks), ManifestError, "shards verified")
        validator = make_validator(self._model, validation, shards, manifest, factory.item_counts)
        self._identity = run_identity(shards, config, seed) | {
            heldout.VALIDATION_USERS: f"{validator.users if validator else 0:g}"
        }
        self._first, history = _begin(self._checkpoints, self._model, self._identity, resume, seed)
        self._steps_an_epoch = factory.steps_an_epoch
        self._total = config.epochs * factory.steps_an_epoch
        self._course = Course(validator, history, config, factory.steps_an_epoch, self._total)
        self._watch = Watch(self._model, factory.item_counts, seed)

    def to_end(self, stop: threading.Event, profile: int) -> None:
        """Steps until the last one, or until a rank is told to stop, which raises StoppedError once
        that is saved."""
        comm, model, course = self._comm, self._model, self._course
        _announce(model, self._first, self._total, self._steps_an_epoch)
        trace = Trace(
            self._output / TRACES / f"rank-{comm.rank}.json",
            model.clock,
            self._first,
            self._total,
            profile,
        )
        done = self._first
        with (
            _open_log(self._output, self._first, model, self._total, self._steps_an_epoch) as log,
            Reader(
                self._tasks, self._total, self._config.read_ahead, model.device, model.clock
            ) as reader,
            Saver(self._checkpoints, model, self._identity, self._config.keep_checkpoints) as saver,
        ):
            while done < self._total and not course.ended:
                with trace.step(done):
                    result = one_step(
                        model, reader, done, self._total, (stop.is_set(), saver.written)
                    )
                done += 1
                self._settle(done, result, log, saver)
            log.write(
                _last_record(done, self._watch.measure(), self._config, self._seed, comm.size)
            )
        if comm.rank == 0:
            self._say_what_was_done(done, trace)

    def _settle(self, done: int, result: StepResult, log: Progress, saver: Saver) -> None:
        """What follows a step: its record, HitRates, checkpoints. Raises StoppedError where a rank
        was told to stop."""
        stopping, written = result.votes
        log.add(done, result)
        if found := self._course.after(done):
            log.validated(found)
        last = done == self._total or self._course.ended
        if last or stopping or log.due(done):
            self._record(done, result, log)
        with self._model.clock("checkpoint"):
            if written == self._comm.size:
                saver.collect()
            if (
                stopping
                or last
                or done % (self._config.checkpoint_epochs * self._steps_an_epoch) == 0
                or self._course.is_best(done)
            ):
                saver.begin(done, self._course.history)
            if stopping or last:
                saver.finish()
        if stopping and not last:
            raise StoppedError(
                f"stopped after step {done} of {self._total}, which is saved. {GO_ON}"
            )

    def _record(self, done: int, result: StepResult, log: Progress) -> None:
        clock = self._model.clock
        with clock("log"):
            watched = self._watch.measure()
        phases = clock.take()
        with clock("log"):
            log.record(
                done,
                result.weights,
                _sigma2(self._model, result.weights),
                watched,
                phases,
                self._comm.waited,
            )

    def _say_what_was_done(self, done: int, trace: Trace) -> None:
        say(f"trained {done} steps of {self._total}: {checkpoint.newest(self._checkpoints)}")
        if best := self._course.best():
            by = self._config.best_by
            say(
                f"best HitRate@{best.k} by {by}: {100 * best.hit_rate[by]:.2f} %, after step "
                f"{best.step}"
            )
        if trace.written:
            say(
                f"traces of {len(trace.steps)} steps: {trace.path.parent}; open them in "
                "ui.perfetto.dev"
            )


def _last_record(
    done: int, watched: Watched, config: Train, seed: int, ranks: int
) -> dict[str, Any]:
    """What the last line of train.jsonl says of the whole run."""
    settings = json.loads(config.model_dump_json())
    identity = {"config": settings, "seed": seed, "ranks": ranks, "code_version": code_version()}
    return {
        "step": done,
        "done": True,
        "length_count_correlation": watched.length_count_correlation,
        **identity,
    }


def one_step(
    model: M2GRL, reader: Reader[Work], step: int, total: int, votes: Sequence[bool] = ()
) -> StepResult:
    """Reads and computes step `step` of `total`. All ranks call it; `votes` as for M2GRL.step."""
    return model.step(reader.take(step), step, _decayed(model.train, step, total), votes)


def _decayed(config: Train, step: int, total: int) -> float:
    return 1.0 if config.decay == "none" else 1.0 - step / total


def _sigma2(model: M2GRL, weights: list[float]) -> list[float | None]:
    """sigma^2 of each task: learned, or what a fixed weight stands for (none for weight 0)."""
    if LOG_VARIANCE in model.dense:
        learned: list[float | None] = torch.exp(model.dense[LOG_VARIANCE]).tolist()
        return learned
    return [1 / weight if weight else None for weight in weights]


def check_alike(
    manifest: Manifest, config: Train, seed: int, validation: Validation | None, comm: Comm
) -> None:
    """Raises TrainConfigError, on all ranks, where they were not told the same: hosts may have
    copies of the files."""
    told = {
        "configuration": (
            f"{config.model_dump_json()}, seed {seed}, "
            f"{validation and replace(validation, folder=Path())}"
        ),
        SET_OF_SHARDS: hashlib.sha256(manifest.model_dump_json().encode()).hexdigest(),
    }
    first, *others = comm.gather(told, "what ranks were told")
    for rank, other in enumerate(others, start=1):
        for name in told:
            if other[name] != first[name]:
                raise TrainConfigError(
                    f"rank {rank} has another {name} than rank 0; give every host the same files"
                )


def _damage(tasks: Sequence[Task]) -> str | None:
    """What is wrong with the files that this rank will read; none: nothing."""
    try:
        verify(tasks)
    except ManifestError as error:
        return str(error)
    return None


def run_identity(shards: Location, config: Train, seed: int) -> dict[str, str]:
    """Hashes of what decides a run's result. Left out are: what changes no more than rounding; how
    often to log, save or validate, and which step is the last; and what brings a run on that broke
    on numbers that are not finite."""
    free = {
        "kernels",
        "device",
        "exchange",
        "read_ahead",
        "log_seconds",
        "log_steps",
        "checkpoint_epochs",
        "keep_checkpoints",
    }
    free |= {
        "validation_epochs",
        "best_by",
        "early_stop",
        "learning_rate",
        "dense_learning_rate",
        "clip_norm",
    }
    if config.decay == "none":
        free.add("epochs")
    settings = json.dumps(
        {"seed": seed, **config.model_dump(mode="json", exclude=free)}, sort_keys=True
    )
    return {
        "configuration": hashlib.sha256(settings.encode()).hexdigest(),
        SET_OF_SHARDS: shards_hash(shards),
    }


def shards_hash(shards: Location) -> str:
    """Stands for a whole shard folder: its manifest lists every file's checksum."""
    return sha256(shards / MANIFEST)


def _begin(
    checkpoints: Path, model: M2GRL, run: dict[str, str], resume: bool, seed: int
) -> tuple[int, History]:
    """The first step and what was measured before it: 0 with fresh rows and no old checkpoints, or
    where the newest checkpoint stood."""
    first = 0
    history: History = ()
    if resume:
        newest = checkpoint.newest(checkpoints)
        first, history = (
            checkpoint.load(newest, model, run),
            checkpoint.read_manifest(newest).validated,
        )
    else:
        model.tables.start(seed)
    if model.comm.rank == 0:
        if not resume:
            checkpoint.prune(checkpoints, 0)
        checkpoint.mark_best(
            checkpoints, history, model.train.best_by
        )  # a run that was killed may not have come to it
    model.comm.barrier()
    return first, history


def _open_log(output: Path, first: int, model: M2GRL, total: int, steps_an_epoch: int) -> Progress:
    """The records on rank 0; a resumed run keeps those of the steps before."""
    if model.comm.rank == 0:
        path = output / RECORDS
        write_text(path, "".join(line + "\n" for line in _records_until(path, first)))
        if not first:
            shutil.rmtree(output / TENSORBOARD, ignore_errors=True)
    train, folder = model.train, output if model.comm.rank == 0 else None
    return Progress(
        folder, model.tasks, first, total, steps_an_epoch, train.log_steps, train.log_seconds
    )


def _records_until(path: Path, step: int) -> Iterator[str]:
    """Lines of the records up to `step`; none for a run that starts anew. A line cut short by a
    crash is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if record["step"] <= step and "done" not in record:
                yield line


def _announce(model: M2GRL, first: int, total: int, steps_an_epoch: int) -> None:
    if model.comm.rank == 0:
        rows = {f"{table.view} {table.side}": table.rows for table in model.tables.keys.tables}
        level = (
            ""
            if model.comm.size == 1
            else f" over {'shared memory' if isinstance(model.comm, SharedComm) else 'alltoall'}"
        )
        say(
            f"{so_many(model.comm.size)}{level}, {model.train.step} step, d "
            f"{model.train.dimension}, tables {rows}"
        )
        if model.train.arithmetic != "torch":
            why = build.obstacle()
            say(
                "arithmetic compiled for this machine"
                if why is None
                else f"arithmetic by PyTorch, which takes longer: {why}"
            )
        elif model.device != CPU:
            say(f"arithmetic by PyTorch on {torch.cuda.get_device_name(model.device)}")
        say(f"steps {first} to {total}, {steps_an_epoch} an epoch; tasks {', '.join(model.tasks)}")
