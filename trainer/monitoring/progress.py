"""What a run tells: a bar or a line on rank 0's console every few seconds, and records in
train.jsonl and for TensorBoard."""

import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from pipeline.contracts.training import RECORDS, StepRecord, TrainingLine, ValidationRecord
from trainer.console import print_line
from trainer.model import StepResult
from trainer.monitoring.early_stopping import Validated
from trainer.monitoring.health import Watched
from trainer.monitoring.tensorboard import EVENTS_FOLDER, Events
from trainer.phases import PHASES, Phase


@dataclass
class Interval:
    """Sums over the steps since the last record."""

    losses: list[float]
    pairs: list[int]
    began: float


class Progress:
    """Records of a run. Only rank 0 has one that writes."""

    def __init__(
        self,
        output: Path | None,
        tasks: list[str],
        first: int,
        total: int,
        steps_an_epoch: int,
        log_steps: int,
        log_seconds: float,
    ) -> None:
        """output: the run's folder, on rank 0; first, total: the steps that are to come."""
        self._tasks = tasks
        self._total = total
        self._epoch = steps_an_epoch
        self._log_steps = log_steps
        self._log_seconds = log_seconds
        self._path = None if output is None else output / RECORDS
        self._events = None if output is None else Events(output / EVENTS_FOLDER, first)
        self._interval = self._new()
        self._printed = -math.inf
        self._waited = 0.0
        self._first = first
        self._started = time.perf_counter()
        self._bar = bar() if output is not None and sys.stdout.isatty() else None
        if self._bar is not None:
            self._bar.add_task("training", total=total, completed=first)
            self._bar.start()

    def _new(self) -> Interval:
        return Interval([0.0] * len(self._tasks), [0] * len(self._tasks), time.perf_counter())

    def due(self, done: int) -> bool:
        """Whether a record is written after `done` steps: every `log_steps` steps and at the end,
        on all ranks alike."""
        return done % self._log_steps == 0 or done == self._total

    def add(self, done: int, result: StepResult) -> None:
        """Takes note of the step after which `done` are done."""
        if self._path is None:
            return
        interval = self._interval
        for task, (loss, pairs) in enumerate(zip(result.losses, result.pairs, strict=True)):
            # Weighed by the pairs, so that an interval's loss is the mean over its pairs.
            interval.losses[task] += loss * pairs if pairs else 0.0
            interval.pairs[task] += pairs
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def record(
        self,
        done: int,
        weights: list[float],
        sigma2: list[float | None],
        watched: Watched,
        phases: Mapping[Phase, float],
        waited: float,
    ) -> None:
        """Writes what the steps since the last record came to; phases: seconds since then; waited:
        seconds in exchanges since the start."""
        if self._path is None:
            return
        now = self._interval
        seconds = time.perf_counter() - self._interval.began
        before = self._waited
        self._interval = self._new()
        self._waited = waited
        losses = [
            loss / pairs if pairs else None
            for loss, pairs in zip(now.losses, now.pairs, strict=True)
        ]
        record = StepRecord(
            step=done,
            epoch=done / self._epoch,
            losses=dict(zip(self._tasks, losses, strict=True)),
            sigma2=dict(zip(self._tasks, sigma2, strict=True)),
            weights=dict(zip(self._tasks, weights, strict=True)),
            pairs=dict(zip(self._tasks, now.pairs, strict=True)),
            pairs_per_s=sum(now.pairs) / seconds,
            phases={phase: phases[phase] / seconds for phase in PHASES},
            wait_exchange=(waited - before) / seconds,
            length_count_correlation=watched.length_count_correlation,
            memory_bytes=watched.memory_bytes,
        )
        self.write(record)
        is_due = time.perf_counter() - self._printed >= self._log_seconds
        if is_due or done == self._total:
            print_line(self._line(record))
            self._printed = time.perf_counter()

    def _line(self, record: StepRecord) -> str:
        kinds = record.losses, record.sigma2, record.weights
        tasks = "  ".join(
            task + " " + "/".join(_short(kind[task]) for kind in kinds) for task in self._tasks
        )
        correlation = record.length_count_correlation
        shares = Counter({phase: round(100 * share) for phase, share in record.phases.items()})
        return (
            f"step {record.step:>6}/{self._total}  epoch {record.epoch:5.2f}  "
            f"{record.pairs_per_s / 1e6:6.2f} M pairs/s  "
            f"left {self._left(record.step)}  loss/sigma2/weight: {tasks}  "
            f"length-count {'-' if correlation is None else f'{correlation:+.2f}'}  "
            f"{max(record.memory_bytes) / 2**30:.1f} GiB a rank  "
            f"%: {' '.join(f'{phase} {share}' for phase, share in shares.most_common() if share)}"
        )

    def _left(self, done: int) -> str:
        elapsed = time.perf_counter() - self._started
        seconds = elapsed / max(1, done - self._first) * (self._total - done)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def validated(self, found: Validated) -> None:
        """Writes and prints a measurement."""
        if self._path is None:
            return
        epoch = found.step / self._epoch
        self.write(ValidationRecord(epoch=epoch, **found.model_dump()))
        rates = "  ".join(f"{score} {100 * rate:.2f} %" for score, rate in found.hit_rate.items())
        print_line(
            f"step {found.step:>6}/{self._total}  HitRate@{found.k} of {found.cases} next items "
            f"of validation users: {rates}"
        )

    def write(self, record: TrainingLine) -> None:
        """Appends one record, where this rank writes them."""
        if self._path is None or self._events is None:
            return
        # Opened anew for each: what a full disk did not take stays in no buffer, to be tried again
        # at exit.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(record.line())
        self._events.write(record.model_dump())

    def close(self) -> None:
        """The last call."""
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def bar() -> Bar:
    """What a terminal shows: steps of all, time so far, time left."""
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Bar(*columns)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
