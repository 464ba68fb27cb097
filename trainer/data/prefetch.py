"""Rows of the next step are read and decoded by a thread while this one computes; for a GPU, the
step's work is built and copied there too."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import torch

from pipeline.storage.locations import Location
from trainer.console import say
from trainer.data.streams import LaneRows
from trainer.phases import Clock
from trainer.ranks.devices import CPU


class Movable(Protocol):
    """What is built from rows: tensors that go to a device together."""

    def move(self, device: torch.device) -> None:
        """Takes its tensors to a device."""


Share = TypeVar("Share", bound=Movable)
"""A rank's share of a step of one task."""
Built = TypeVar("Built", bound=Movable, covariant=True)


class ReadingTask(Protocol[Built]):
    """A task as far as its rows go (`trainer.objective.tasks.Task`)."""

    @property
    def name(self) -> str:
        """What it is called on the console."""

    @property
    def reading(self) -> Location | None:
        """The file that is being read right now, by another thread."""

    def verify(self) -> None:
        """Opens every file that this rank reads. Raises ManifestError."""

    def read(self, step: int) -> LaneRows:
        """The rows that this rank's lanes serve in a step."""

    def build(self, rows: LaneRows, step: int) -> Built | None:
        """This rank's share of a step, from its rows; none where there are none."""


Result = TypeVar("Result")
SLOW_SECONDS = 30.0
"""How long rows or a verification are waited for before that is said, and then between one saying
and the next."""


def verify(tasks: Sequence[ReadingTask[Movable]]) -> None:
    """Opens and checks every file that this rank will read. Raises ManifestError naming one that is
    missing or is not the one listed."""
    with ThreadPoolExecutor(1, "shards") as thread:
        for task in tasks:
            _patiently(thread.submit(task.verify), tasks, f"verifying the shards of '{task.name}'")


def _patiently(result: Future[Result], tasks: Sequence[ReadingTask[Movable]], what: str) -> Result:
    """Waits for what a thread reads; says what file it is at where that takes long."""
    began = time.monotonic()
    while True:
        try:
            return result.result(SLOW_SECONDS)
        except TimeoutError:
            if result.done():  # in the meantime, or reading itself ran out of time
                return result.result()
            files = ", ".join(str(file) for task in tasks if (file := task.reading) is not None)
            say(f"{what} for {time.monotonic() - began:.0f} s: {files} is slow to come")


class Reader(Generic[Share]):
    """Gives this rank's work of steps, one after the other. Lanes hold a block of rows: only one
    thread reads at a time."""

    def __init__(
        self,
        tasks: Sequence[ReadingTask[Share]],
        stop: int,
        ahead: bool = True,
        device: torch.device = CPU,
        clock: Clock | None = None,
    ) -> None:
        """stop: one past the last step; ahead: whether to read the next step's rows while this one
        computes; clock: counts what steps wait for."""
        self._tasks, self._stop, self._device = tasks, stop, device
        self._clock = clock or Clock()
        self._thread = ThreadPoolExecutor(1, "rows") if ahead else None
        self._next: tuple[int, Future[Callable[[], list[Share | None]]]] | None = None

    def take(self, step: int) -> list[Share | None]:
        """The tasks' work in `step`, on the device; none for a task that this rank's lanes have no
        rows of. Raises what reading raised."""
        with self._clock("read"):
            build = (
                self._read(step) if self._thread is None else self._read_ahead(self._thread, step)
            )
        with self._clock("build"):
            return build()

    def _read_ahead(
        self, thread: ThreadPoolExecutor, step: int
    ) -> Callable[[], list[Share | None]]:
        if self._next is None or self._next[0] != step:
            self._next = step, thread.submit(self._read, step)
        build = _patiently(self._next[1], self._tasks, "waiting for rows")
        self._next = (
            (step + 1, thread.submit(self._read, step + 1)) if step + 1 < self._stop else None
        )
        return build

    def _read(self, step: int) -> Callable[[], list[Share | None]]:
        rows = [task.read(step) for task in self._tasks]
        if self._device == CPU:
            # Built by the step itself: a thread would take the core on which the step before
            # computes.
            return lambda: self._build(rows, step)
        works = self._build(rows, step)
        return lambda: works

    def _build(self, rows: list[LaneRows], step: int) -> list[Share | None]:
        works = [task.build(part, step) for task, part in zip(self._tasks, rows, strict=True)]
        for work in works:
            if work is not None:
                work.move(self._device)
        return works

    def close(self) -> None:
        """Ends the thread; rows read ahead are dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
