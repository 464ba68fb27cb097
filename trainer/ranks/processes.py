"""The ranks' processes, as those on one host see each other: which of them are gone or stopped."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import NamedTuple

STOPPED_SECONDS = 15.0
"""How long a rank may be stopped, as by Ctrl-Z, before the others give up."""
BEGUN = 19
"""Where _stat has the time at which a process began."""
NAMED_RANKS = 8
"""Ranks of other hosts that are named."""
GO_ON = "Start again with --resume to go on from the last checkpoint."


class CommError(Exception):
    """Another rank died or does not answer."""


class Process(NamedTuple):
    """Where a rank runs."""

    system: str
    """Stands for the running system, and its space of process numbers."""
    number: int
    begun: str
    """When it began: its number may be another's one day."""
    host: str
    """What its host calls itself."""


def this_process() -> Process:
    """Where the caller runs."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    # Two containers of one host may both have a process 7.
    numbers = Path("/proc/self/ns/pid").readlink()
    own = os.getpid()
    return Process(f"{boot} {numbers}", own, _stat(own)[BEGUN], socket.gethostname())


class Peers:
    """The processes of all ranks, by rank."""

    def __init__(self, rank: int, processes: list[Process]) -> None:
        """processes: of all ranks, by rank; none while they are not known, so that none is looked
        at."""
        self._who = f"rank {rank} of {len(processes)}"
        self._near: dict[int, Process] = {}
        far = []
        for other, process in enumerate(processes):
            if process.system == processes[rank].system:
                self._near[other] = process
            else:
                far.append(f"rank {other} on {process.host}")
        self.on_one_host = not far
        unnamed = len(far) - NAMED_RANKS
        more = f" and {unnamed} more" if unnamed > 0 else ""
        self.elsewhere = ", ".join(far[:NAMED_RANKS]) + more
        """The ranks of other hosts, for people."""
        self._stopped: dict[int, float] = {}
        """Rank -> since when it was seen to be stopped."""

    def check(self, name: str) -> None:
        """Raises CommError where one of the processes of this host is gone, or stopped for long.
        `name`: of the exchange that waits."""
        for rank, process in self._near.items():
            state = _state(process)
            if state in ("", "Z", "X"):
                raise CommError(
                    f"{self._who} lost rank {rank} (process {process.number}) in the exchange "
                    f"'{name}'. {GO_ON}"
                )
            if state != "T":
                self._stopped.pop(rank, None)
                continue
            now = time.monotonic()
            since = self._stopped.setdefault(rank, now)
            if now - since > STOPPED_SECONDS:
                _end(process)
                raise CommError(
                    f"{self._who} waits in the exchange '{name}': rank {rank} (process "
                    f"{process.number}) is stopped. {GO_ON}"
                )


def _end(process: Process) -> None:
    """Ends a stopped process, which hears no wish before it goes on: the launcher would wait for
    it."""
    with contextlib.suppress(OSError):
        os.kill(process.number, signal.SIGKILL)


def _stat(process: int) -> list[str]:
    """The state and what follows of /proc/<process>/stat; empty: there is no such process."""
    try:
        path = Path(f"/proc/{process}/stat")
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The name before may hold anything, a bracket too.
    _, _, fields = text.rpartition(")")
    return fields.split()


def _state(process: Process) -> str:
    """The process's state as proc(5) has it; empty: it is gone."""
    stat = _stat(process.number)
    return stat[0] if stat and stat[BEGUN] == process.begun else ""
