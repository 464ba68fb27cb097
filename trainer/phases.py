"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

from torch.profiler import record_function

Phase = Literal[
    "read",
    "build",
    "input-dist",
    "lookup",
    "output-dist",
    "compute",
    "gradients",
    "update",
    "dense",
    "validate",
    "checkpoint",
    "log",
]
"""read: rows of the shards; build: chunks and negatives; input-dist, lookup, output-dist: which
rows are wanted, they are read, they come back; compute: losses and their gradients; gradients: on
their way home and summed; update: the owner's rows; dense: what ranks add up; validate: HitRates;
checkpoint: what steps wait for while one is written; log: what is measured and recorded."""
PHASES: tuple[Phase, ...] = get_args(Phase)


class Clock:
    """Seconds by phase. Phases do not overlap."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.labelled = False
        """Whether phases are ranges of a profiler's trace too."""

    @contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        """Counts what is done within as `phase`."""
        began = time.perf_counter()
        try:
            with record_function(phase) if self.labelled else nullcontext():
                yield
        finally:
            self._seconds[phase] += time.perf_counter() - began

    def take(self) -> dict[Phase, float]:
        """The seconds since the last time this was called."""
        taken = self._seconds
        self._seconds = dict.fromkeys(PHASES, 0.0)
        return taken
