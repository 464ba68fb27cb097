"""The training loop of one rank."""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.contracts import heldout
from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.contracts.shards import SET_OF_SHARDS, Manifest
from pipeline.contracts.training import RECORDS, EndRecord
from pipeline.storage.files import code_version, sha256, write_text
from pipeline.storage.locations import Location
from trainer.checkpoints import files
from trainer.checkpoints.saving import Saver
from trainer.config import Train, TrainConfigError
from trainer.console import print_line, so_many
from trainer.data.prefetch import Reader, verify_tasks
from trainer.kernels import build
from trainer.model import M2GRL, StepResult
from trainer.monitoring.early_stopping import History
from trainer.monitoring.health import Watch, Watched
from trainer.monitoring.progress import Progress
from trainer.monitoring.tensorboard import EVENTS_FOLDER
from trainer.monitoring.trace import TRACES_FOLDER, Trace
from trainer.monitoring.validation import Course, ValidationSettings, make_validator
from trainer.objective.batch import Work
from trainer.objective.tasks import Task, TaskFactory
from trainer.objective.weighting import LOG_VARIANCE
from trainer.ranks.comm import Comm, agree
from trainer.ranks.devices import CPU
from trainer.ranks.processes import GO_ON
from trainer.ranks.shared_memory import SharedComm, nearest_comm

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
    validation: ValidationSettings | None = None,
) -> None:
    """Trains on a shard folder; writes checkpoints and train.jsonl under `output`. All ranks call
    it. Once `stop` is set on one of them, the step under way is the last, and what it led to is
    saved. Of `profile` steps a trace is written. `validation`: what HitRates are measured on
    meanwhile.

    Raises ManifestError, CheckpointError, CommError, TrainConfigError, TrainingError or
    StoppedError with a message for the user, OSError where a record cannot be written.
    """
    # A rank is a core: more threads would take those of other ranks.
    torch.set_num_threads(1)
    manifest = Manifest.read(shards)
    check_alike(manifest, config, seed, validation, comm)
    nearest = nearest_comm(comm, config)
    run = Run(shards, manifest, output, config, seed, nearest, validation, resume)
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
        validation: ValidationSettings | None,
        resume: bool,
    ) -> None:
        """Fresh rows, or those of the newest checkpoint. Nothing of an earlier run goes before all
        ranks' shards are known to be whole."""
        factory = TaskFactory(shards, manifest, config, seed, comm)
        self._output = output
        self._config = config
        self._seed = seed
        self._comm = comm
        self._checkpoints = output / CHECKPOINTS
        self._tasks = factory.tasks()
        self._model = M2GRL(config, factory.keys, self._tasks, comm)
        agree(comm, _damage(self._tasks), ManifestError, "shards verified")
        validator = make_validator(self._model, validation, shards, manifest, factory.item_counts)
        # Who is for validation decides which checkpoint is the best, and when training ends.
        users = validator.users if validator else 0
        self._identity = run_identity(shards, config, seed)
        self._identity[heldout.VALIDATION_USERS] = f"{users:g}"
        self._first, history = _begin(self._checkpoints, self._model, self._identity, resume, seed)
        self._steps_an_epoch = factory.steps_an_epoch
        self._total = config.epochs * factory.steps_an_epoch
        self._course = Course(validator, history, config, factory.steps_an_epoch, self._total)
        self._watch = Watch(self._model, factory.item_counts, seed)

    def to_end(self, stop: threading.Event, profile: int) -> None:
        """Steps until the last one, or until a rank is told to stop, which raises StoppedError once
        that is saved."""
        comm = self._comm
        model = self._model
        course = self._course
        config = self._config
        first = self._first
        total = self._total
        _announce(model, first, total, self._steps_an_epoch)
        trace_path = self._output / TRACES_FOLDER / f"rank-{comm.rank}.json"
        trace = Trace(trace_path, model.clock, first, total, profile)
        done = first
        with (
            _open_log(self._output, first, model, total, self._steps_an_epoch) as log,
            Reader(self._tasks, total, config.read_ahead, model.device, model.clock) as reader,
            Saver(self._checkpoints, model, self._identity, config.keep_checkpoints) as saver,
        ):
            while done < total and not course.ended:
                # Said with the step itself, so that all ranks hear of it in the same one.
                votes = (stop.is_set(), saver.written)
                with trace.step(done):
                    result = one_step(model, reader, done, total, votes)
                done += 1
                self._settle(done, result, log, saver)
            health = self._watch.measure()
            log.write(_last_record(done, health, config, self._seed, comm.size))
        if comm.rank == 0:
            self._say_what_was_done(done, trace)

    def _settle(self, done: int, result: StepResult, log: Progress, saver: Saver) -> None:
        """What follows a step: its record, HitRates, checkpoints. Raises StoppedError where a rank
        was told to stop."""
        stopping, written = result.votes
        log.add(done, result)
        if measured := self._course.after(done):
            log.validated(measured)
        last = done == self._total or self._course.ended
        if last or stopping or log.due(done):
            self._record(done, result, log)
        checkpoint_steps = self._config.checkpoint_epochs * self._steps_an_epoch
        is_due = done % checkpoint_steps == 0
        with self._model.clock("checkpoint"):
            # All ranks have written their part of the checkpoint before: it becomes whole.
            if written == self._comm.size:
                saver.collect()
            if stopping or last or is_due or self._course.is_best(done):
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
        # What is recorded from here on counts in the next record's phases.
        with clock("log"):
            sigma2 = _sigma2(self._model, result.weights)
            waited = self._comm.waited
            log.record(done, result.weights, sigma2, watched, phases, waited)

    def _say_what_was_done(self, done: int, trace: Trace) -> None:
        newest = files.newest_checkpoint(self._checkpoints)
        print_line(f"trained {done} steps of {self._total}: {newest}")
        if best := self._course.best():
            by = self._config.best_by
            percent = 100 * best.hit_rate[by]
            print_line(f"best HitRate@{best.k} by {by}: {percent:.2f} %, after step {best.step}")
        if trace.written:
            steps, folder = len(trace.steps), trace.path.parent
            print_line(f"traces of {steps} steps: {folder}; open them in ui.perfetto.dev")


def _last_record(done: int, watched: Watched, config: Train, seed: int, ranks: int) -> EndRecord:
    """What the last line of train.jsonl says of the whole run."""
    return EndRecord(
        step=done,
        done=True,
        length_count_correlation=watched.length_count_correlation,
        config=json.loads(config.model_dump_json()),
        seed=seed,
        ranks=ranks,
        code_version=code_version(),
    )


def one_step(
    model: M2GRL, reader: Reader[Work], step: int, total: int, votes: Sequence[bool] = ()
) -> StepResult:
    """Reads and computes step `step` of `total`. All ranks call it; `votes` as for M2GRL.step."""
    works = reader.take(step)
    rate = _decayed(model.train, step, total)
    return model.step(works, step, rate, votes)


def _decayed(config: Train, step: int, total: int) -> float:
    return 1.0 if config.decay == "none" else 1.0 - step / total


def _sigma2(model: M2GRL, weights: list[float]) -> list[float | None]:
    """sigma^2 of each task: learned, or what a fixed weight stands for (none for weight 0)."""
    if LOG_VARIANCE in model.dense:
        learned: list[float | None] = torch.exp(model.dense[LOG_VARIANCE]).tolist()
        return learned
    return [1 / weight if weight else None for weight in weights]


def check_alike(
    manifest: Manifest, config: Train, seed: int, validation: ValidationSettings | None, comm: Comm
) -> None:
    """Raises TrainConfigError, on all ranks, where they were not told the same: hosts may have
    copies of the files."""
    # Each host may have the files in a folder of its own.
    placeless = validation and replace(validation, folder=Path())
    shards = manifest.model_dump_json().encode()
    configuration = f"{config.model_dump_json()}, seed {seed}, {placeless}"
    digest = hashlib.sha256(shards).hexdigest()
    settings = {"configuration": configuration, SET_OF_SHARDS: digest}
    first, *others = comm.gather(settings, "what ranks were told")
    for rank, other in enumerate(others, start=1):
        for name in settings:
            if other[name] != first[name]:
                raise TrainConfigError(
                    f"rank {rank} has another {name} than rank 0; give every host the same files"
                )


def _damage(tasks: Sequence[Task]) -> str | None:
    """What is wrong with the files that this rank will read; none: nothing."""
    try:
        verify_tasks(tasks)
    except ManifestError as error:
        return str(error)
    return None


def run_identity(shards: Location, config: Train, seed: int) -> dict[str, str]:
    """Hashes of what decides a run's result: of the shards, the seed, and all settings but those
    that are marked as free to change (trainer/config.py)."""
    deciding = config.model_dump(mode="json", exclude=config.may_change)
    settings = json.dumps({"seed": seed, **deciding}, sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()
    return {"configuration": digest, SET_OF_SHARDS: shards_hash(shards)}


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
        newest = files.newest_checkpoint(checkpoints)
        first = files.load_checkpoint(newest, model, run)
        history = files.read_checkpoint_manifest(newest).validated
    else:
        model.tables.start(seed)
    if model.comm.rank == 0:
        if not resume:
            files.prune(checkpoints, 0)
        # A run that was killed may not have come to it.
        files.mark_best(checkpoints, history, model.train.best_by)
    model.comm.barrier()
    return first, history


def _open_log(output: Path, first: int, model: M2GRL, total: int, steps_an_epoch: int) -> Progress:
    """The records on rank 0; a resumed run keeps those of the steps before."""
    train = model.train
    folder = None
    if model.comm.rank == 0:
        folder = output
        path = output / RECORDS
        kept = [line + "\n" for line in _records_until(path, first)]
        write_text(path, "".join(kept))
        if not first:
            shutil.rmtree(output / EVENTS_FOLDER, ignore_errors=True)
    cadence = (train.log_steps, train.log_seconds)
    return Progress(folder, model.tasks, first, total, steps_an_epoch, *cadence)


def _records_until(path: Path, step: int) -> Iterator[str]:
    """Lines of the records up to `step`; none for a run that starts anew. A line cut short by a
    crash is left out."""
    if not step or not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if record["step"] <= step and "done" not in record:
                yield line


def _announce(model: M2GRL, first: int, total: int, steps_an_epoch: int) -> None:
    if model.comm.rank != 0:
        return
    train = model.train
    tables = model.tables.keys.tables
    rows = {f"{table.view} {table.side}": table.rows for table in tables}
    ranks = so_many(model.comm.size) + _level(model.comm)
    print_line(f"{ranks}, {train.step} step, d {train.dimension}, tables {rows}")
    if train.arithmetic != "torch":
        why = build.obstacle()
        if why is None:
            print_line("arithmetic compiled for this machine")
        else:
            print_line(f"arithmetic by PyTorch, which takes longer: {why}")
    elif model.device != CPU:
        print_line(f"arithmetic by PyTorch on {torch.cuda.get_device_name(model.device)}")
    tasks = ", ".join(model.tasks)
    print_line(f"steps {first} to {total}, {steps_an_epoch} an epoch; tasks {tasks}")


def _level(comm: Comm) -> str:
    """By which level of the exchange ranks meet, where there are several."""
    if comm.size == 1:
        return ""
    return " over shared memory" if isinstance(comm, SharedComm) else " over alltoall"
