"""The training loop of one rank."""

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.files import code_version, sha256, write_text
from pipeline.manifest import MANIFEST, SET_OF_SHARDS, read_manifest
from pipeline.places import Place
from trainer import checkpoint
from trainer.comm import Comm
from trainer.config import Train
from trainer.kernels import build
from trainer.model import M2GRL, StepResult
from trainer.processes import GO_ON
from trainer.progress import RECORDS, Progress, say
from trainer.reading import Reader
from trainer.saving import Saver
from trainer.shared import SharedComm, nearest
from trainer.tasks import Task, TaskFactory
from trainer.tensorboard import FOLDER as TENSORBOARD
from trainer.tracing import FOLDER as TRACES
from trainer.tracing import Trace
from trainer.watching import Watch, Watched
from trainer.weighting import LOG_VARIANCE

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints under a run's output."""


class StoppedError(Exception):
    """Training ended early, as it was asked to, with a checkpoint."""


def train(
    shards: Place,
    output: Path,
    config: Train,
    seed: int,
    comm: Comm,
    resume: bool = False,
    stop: threading.Event | None = None,
    profile: int = 0,
) -> None:
    """Trains on a shard folder; writes checkpoints and train.jsonl under `output`. All ranks call it. Once `stop` is set on one of them,
    the step under way is the last, and what it led to is saved. Of `profile` steps a trace is written.

    Raises ManifestError, CheckpointError, CommError, TrainConfigError, TrainingError or StoppedError with a message for the user, OSError
    where a record cannot be written.
    """
    torch.set_num_threads(1)
    comm = nearest(comm, config)
    manifest = read_manifest(shards)
    factory = TaskFactory(shards, manifest, config, seed, comm)
    tasks = factory.tasks()
    model = M2GRL(config, factory.keys, [task.name for task in tasks], list(manifest.relations), seed, comm)
    run = run_identity(shards, config, seed)
    checkpoints = output / CHECKPOINTS
    for task in tasks:
        task.verify()
    comm.barrier()  # every rank's shards are whole: only now may checkpoints of an earlier run go
    first = _begin(checkpoints, model, run, resume, seed)
    total = config.epochs * factory.steps_an_epoch
    _announce(model, first, total, factory.steps_an_epoch)
    every = config.checkpoint_epochs * factory.steps_an_epoch
    watch = Watch(model, factory.item_counts, seed)
    trace = Trace(output / TRACES / f"rank-{comm.rank}.json", model.clock, first, total, profile)
    with (
        _open_log(output, first, model, total, factory.steps_an_epoch) as log,
        Reader(tasks, total, config.read_ahead) as reader,
        Saver(checkpoints, model, run, config.keep_checkpoints) as saver,
    ):
        for step in range(first, total):
            votes = stop is not None and stop.is_set(), saver.written
            with trace.step(step):
                result = one_step(model, tasks, reader, step, total, votes)
            (stopping, written), done = result.votes, step + 1
            log.add(done, result)
            if log.due(done):
                _record(log, model, watch, done, result)
            with model.clock("checkpoint"):
                if written == comm.size:
                    saver.finish()
                if stopping or done % every == 0 or done == total:
                    saver.begin(done)
                if done == total or stopping:
                    saver.finish()
            if stopping and done < total:
                raise StoppedError(f"stopped after step {done} of {total}, which is saved. {GO_ON}")
        log.write(_last_record(total, watch.measure(), config, seed, comm.size))
    if comm.rank == 0:
        say(f"trained {total} steps: {checkpoint.newest(checkpoints)}")
        if profile:
            say(f"traces of {profile} steps: {trace.path.parent}; open them in ui.perfetto.dev")


def _record(log: Progress, model: M2GRL, watch: Watch, done: int, result: StepResult) -> None:
    with model.clock("log"):
        watched = watch.measure()
    phases = model.clock.take()
    with model.clock("log"):
        log.record(done, result.weights, _sigma2(model, result.weights), watched, phases, model.comm.waited)


def _last_record(total: int, watched: Watched, config: Train, seed: int, ranks: int) -> dict[str, Any]:
    """What the last line of train.jsonl says of the whole run."""
    settings = json.loads(config.model_dump_json())
    identity = {"config": settings, "seed": seed, "ranks": ranks, "code_version": code_version()}
    return {"step": total, "done": True, "length_count_correlation": watched.length_count_correlation, **identity}


def one_step(model: M2GRL, tasks: list[Task], reader: Reader, step: int, total: int, votes: Sequence[bool] = ()) -> StepResult:
    """Reads and computes step `step` of `total`. All ranks call it; `votes` as for M2GRL.step."""
    with model.clock("read"):
        rows = reader.take(step)
    with model.clock("build"):
        works = [task.build(part, step) for task, part in zip(tasks, rows, strict=True)]
    return model.step(works, step, _decayed(model.train, step, total), votes)


def _decayed(config: Train, step: int, total: int) -> float:
    return 1.0 if config.decay == "none" else 1.0 - step / total


def _sigma2(model: M2GRL, weights: list[float]) -> list[float | None]:
    """sigma^2 of each task: learned, or what a fixed weight stands for (none for weight 0)."""
    if LOG_VARIANCE in model.dense:
        learned: list[float | None] = torch.exp(model.dense[LOG_VARIANCE]).tolist()
        return learned
    return [1 / weight if weight else None for weight in weights]


def run_identity(shards: Place, config: Train, seed: int) -> dict[str, str]:
    """Hashes of all that decides a run's result; what changes no more than rounding, or says how often to log or save, is left out."""
    shown = {"kernels", "exchange", "read_ahead", "log_seconds", "log_steps", "checkpoint_epochs", "keep_checkpoints"}
    settings = json.dumps({"seed": seed, **config.model_dump(mode="json", exclude=shown)}, sort_keys=True)
    return {
        "configuration": hashlib.sha256(settings.encode()).hexdigest(),
        SET_OF_SHARDS: shards_hash(shards),
    }


def shards_hash(shards: Place) -> str:
    """Stands for a whole shard folder: its manifest lists every file's checksum."""
    return sha256(shards / MANIFEST)


def _begin(checkpoints: Path, model: M2GRL, run: dict[str, str], resume: bool, seed: int) -> int:
    """The first step: 0 with fresh rows and no old checkpoints, or where the newest checkpoint stood."""
    if resume:
        return checkpoint.load(checkpoint.newest(checkpoints), model, run)
    model.tables.start(seed)
    if model.comm.rank == 0:
        checkpoint.prune(checkpoints, 0)
    model.comm.barrier()
    return 0


def _open_log(output: Path, first: int, model: M2GRL, total: int, steps_an_epoch: int) -> Progress:
    """The records on rank 0; a resumed run keeps those of the steps before."""
    if model.comm.rank == 0:
        path = output / RECORDS
        write_text(path, "".join(line + "\n" for line in _records_until(path, first)))
        if not first:
            shutil.rmtree(output / TENSORBOARD, ignore_errors=True)
    train, folder = model.train, output if model.comm.rank == 0 else None
    return Progress(folder, model.tasks, first, total, steps_an_epoch, train.log_steps, train.log_seconds)


def _records_until(path: Path, step: int) -> Iterator[str]:
    """Lines of the records up to `step`; none for a run that starts anew. A line cut short by a crash is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if record["step"] <= step and "done" not in record:
                yield line


def _announce(model: M2GRL, first: int, total: int, steps_an_epoch: int) -> None:
    if model.comm.rank == 0:
        rows = {f"{table.view} {table.side}": table.rows for table in model.tables.keys.tables}
        level = "" if model.comm.size == 1 else f" over {'shared memory' if isinstance(model.comm, SharedComm) else 'alltoall'}"
        say(f"{model.comm.size} ranks{level}, {model.train.step} step, d {model.train.dimension}, tables {rows}")
        if model.train.step == "fast" and model.train.kernels != "torch":
            why = build.obstacle()
            say("arithmetic compiled for this machine" if why is None else f"arithmetic by PyTorch, which takes twice as long: {why}")
        say(f"steps {first} to {total}, {steps_an_epoch} an epoch; tasks {', '.join(model.tasks)}")
