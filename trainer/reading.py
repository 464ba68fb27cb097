"""Rows of the next step are read and decoded by a thread while this one computes."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from trainer.chunks import LaneRows
from trainer.progress import say
from trainer.tasks import Task

SLOW_SECONDS = 30.0
"""How long a step waits for its rows before it says so, and then between one saying and the next."""


class Reader:
    """Gives the rows of steps, one after the other, of all tasks. Lanes hold a block of rows: only one thread reads at a time."""

    def __init__(self, tasks: Sequence[Task], stop: int, ahead: bool = True) -> None:
        """stop: one past the last step; ahead: whether to read the next step's rows while this one computes."""
        self._tasks, self._stop = tasks, stop
        self._thread = ThreadPoolExecutor(1, "rows") if ahead else None
        self._next: tuple[int, Future[list[LaneRows]]] | None = None

    def take(self, step: int) -> list[LaneRows]:
        """The rows that this rank's lanes serve in `step`, by task. Raises what reading them raised."""
        if self._thread is None:
            return self._read(step)
        if self._next is None or self._next[0] != step:
            self._next = step, self._thread.submit(self._read, step)
        rows = self._wait(self._next[1])
        self._next = (step + 1, self._thread.submit(self._read, step + 1)) if step + 1 < self._stop else None
        return rows

    def _read(self, step: int) -> list[LaneRows]:
        return [task.read(step) for task in self._tasks]

    def _wait(self, rows: Future[list[LaneRows]]) -> list[LaneRows]:
        began = time.monotonic()
        while True:
            try:
                return rows.result(SLOW_SECONDS)
            except TimeoutError:
                if rows.done():
                    raise
                files = ", ".join(str(file) for task in self._tasks if (file := task.reading) is not None)
                say(f"waiting for rows for {time.monotonic() - began:.0f} s: {files} is slow to come")

    def close(self) -> None:
        """Ends the thread; rows read ahead are dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
