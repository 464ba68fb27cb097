"""One process at a time writes a project's tables and shards."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.storage.locations import Location

LOCK_FILE = ".lock"


@contextmanager
def one_writer(root: Location) -> Iterator[None]:
    """Keeps other processes of this machine from writing a project's folder until the end, or until
    this process dies.

    Raises PipelineError where one does. A store knows no such lock: there a process finds out when
    it writes a table (`Lake.write`).
    """
    if not isinstance(root, Path):
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            writer = file.read() or "?"
            raise PipelineError(
                f"process {writer} is writing {root}; let it end, then run this one again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
