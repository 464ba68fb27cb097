"""What a run tells: a line on rank 0's console every few seconds, and records in train.jsonl."""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trainer.clock import PHASES, Phase
from trainer.model import StepResult


class StepLog(Protocol):
    """Takes note of steps."""

    def step(
        self, step: int, result: StepResult, sigma2: list[float | None], phases: Mapping[Phase, float], exchange_seconds: float
    ) -> None:
        """A step is done; `phases`: their seconds."""


@dataclass
class Interval:
    """Sums over the steps since the last record."""

    losses: list[float]
    pairs: list[int]
    began: float = field(default_factory=time.perf_counter)
    phases: Counter[str] = field(default_factory=Counter)
    exchange_seconds: float = 0.0


class Progress:
    """Records of a run. Only rank 0 has one that writes."""

    def __init__(
        self, path: Path | None, tasks: list[str], total_steps: int, steps_an_epoch: int, log_steps: int, log_seconds: float
    ) -> None:
        self._tasks, self._total, self._epoch = tasks, total_steps, steps_an_epoch
        self._log_steps, self._log_seconds = log_steps, log_seconds
        self._path = path
        self._interval = self._new()
        self._printed = -math.inf
        self._started: tuple[int, float] | None = None

    def _new(self) -> Interval:
        return Interval([0.0] * len(self._tasks), [0] * len(self._tasks))

    def step(
        self, step: int, result: StepResult, sigma2: list[float | None], phases: Mapping[Phase, float], exchange_seconds: float
    ) -> None:
        """Takes note of a finished step, `phases` in seconds; every `log_steps` steps and at the end writes a record."""
        if self._path is None:
            return
        now = self._interval
        for task, (loss, pairs) in enumerate(zip(result.losses, result.pairs, strict=True)):
            now.losses[task] += loss * pairs if pairs else 0.0
            now.pairs[task] += pairs
        now.phases.update(phases)
        now.exchange_seconds += exchange_seconds
        self._started = self._started or (step, now.began)
        if (step + 1) % self._log_steps == 0 or step + 1 == self._total:
            self._record(step + 1, result.weights, sigma2)

    def _record(self, done: int, weights: list[float], sigma2: list[float | None]) -> None:
        now, seconds = self._interval, time.perf_counter() - self._interval.began
        losses = [loss / pairs if pairs else None for loss, pairs in zip(now.losses, now.pairs, strict=True)]
        record = {
            "step": done,
            "epoch": done / self._epoch,
            "losses": dict(zip(self._tasks, losses, strict=True)),
            "sigma2": dict(zip(self._tasks, sigma2, strict=True)),
            "weights": dict(zip(self._tasks, weights, strict=True)),
            "pairs": dict(zip(self._tasks, now.pairs, strict=True)),
            "pairs_per_s": sum(now.pairs) / seconds,
            "phases": {phase: now.phases[phase] / seconds for phase in PHASES},
            "wait_exchange": now.exchange_seconds / seconds,
        }
        self.write(record)
        if time.perf_counter() - self._printed >= self._log_seconds or done == self._total:
            self._print(record)
            self._printed = time.perf_counter()
        self._interval = self._new()

    def _print(self, record: dict[str, Any]) -> None:
        tasks = "  ".join(f"{task} {_short(loss)}/{_short(record['sigma2'][task])}" for task, loss in record["losses"].items())
        data = record["phases"]["read"] + record["phases"]["build"]
        say(
            f"step {record['step']:>6}/{self._total}  epoch {record['epoch']:5.2f}  {record['pairs_per_s'] / 1e6:6.2f} M pairs/s  "
            f"loss/sigma2: {tasks}  read {data:4.0%}  "
            f"compute {record['phases']['compute']:4.0%}  exchange {record['wait_exchange']:4.0%}  "
            f"left {self._left(record['step'])}"
        )

    def _left(self, done: int) -> str:
        first, began = self._started or (0, time.perf_counter())
        seconds = (time.perf_counter() - began) / (done - first) * (self._total - done)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record, where this rank writes them."""
        if self._path is not None:
            # Opened anew for each: what a full disk did not take stays in no buffer, to be tried again at exit.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def say(line: str) -> None:
    """A line on the console, at once (horovodrun shows the ranks' output by line)."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
