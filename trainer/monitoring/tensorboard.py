"""A run's records as TensorBoard shows them: `tensorboard --logdir <project>/model/tensorboard`."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

EVENTS_FOLDER = "tensorboard"
"""Under a run's output."""
BY_NAME = ("losses", "sigma2", "weights", "phases", "hit_rate")
"""Parts of a record with a number for each task, phase or score."""
SINGLE_NUMBERS = ("pairs_per_s", "wait_exchange", "length_count_correlation")


class Events:
    """Writes records as scalars. A run that goes on hides what an earlier one wrote of later steps.

    Not by the library's SummaryWriter, whose thread keeps a full disk to itself. Every call raises
    OSError where the disk takes no more.
    """

    def __init__(self, folder: Path, first: int) -> None:
        """first: the step that the run goes on with."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        if first:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(
                Event(step=first + 1, wall_time=time.time(), session_log=start)
            )

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a record's numbers at its step; flushed, so that they can be seen at once."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(record)]
        if values:
            self._writer.write_event(
                Event(step=record["step"], wall_time=time.time(), summary=Summary(value=values))
            )
            self._writer.flush()

    def close(self) -> None:
        """The last call."""
        self._writer.close()


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, number) of all that a record says; what is not defined is left out."""
    for kind in BY_NAME:
        for name, value in record.get(kind, {}).items():
            if value is not None:
                yield f"{kind}/{name}", value
    for name in SINGLE_NUMBERS:
        if record.get(name) is not None:
            yield name, record[name]
    for rank, value in enumerate(record.get("memory_bytes", [])):
        yield f"memory_gib/rank_{rank}", value / 2**30
