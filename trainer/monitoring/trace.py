"""Traces of a few steps, for Perfetto (ui.perfetto.dev) or Chrome (chrome://tracing): which phase,
and which of PyTorch's calls, when."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.phases import Clock

TRACES_FOLDER = "trace"
"""Under a run's output."""
SKIPPED_STEPS = 5
"""Steps before the first that is recorded, where there are enough: they fill caches."""


class Trace:
    """Records `steps` of the steps [first, stop) that this rank has before it."""

    def __init__(self, path: Path, clock: Clock, first: int, stop: int, steps: int) -> None:
        self.path = path
        self._clock = clock
        begin = max(first, min(first + SKIPPED_STEPS, stop - steps))
        self.steps = range(begin, min(stop, begin + steps))
        """Those that are recorded."""
        self.written = False
        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
        self._profile = profile(activities=activities) if self.steps else None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Within, a step is computed; it is recorded where it is one of them, and the file is
        written after the last."""
        if self._profile is not None and step == self.steps[0]:
            self._profile.start()
            self._clock.labelled = True
        yield
        if self._profile is not None and step == self.steps[-1]:
            self._clock.labelled = False
            self._profile.stop()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self.path))
            self.written = True
