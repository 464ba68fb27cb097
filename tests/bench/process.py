"""Running a command as a user would, and what it took: time, processor time and memory of it and
all its children."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.1
NEW_SECONDS = 1.0
LAST_LINES = 12
"""Of what a failed command printed."""


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    wall_seconds: float
    """From start to end, so with the start of its interpreter or virtual machine."""
    cpu_seconds: float
    """User and system time of the command and of all children it waited for."""
    peak_rss_bytes: int
    """Largest sum of resident memory of the tree, sampled; pages that processes share count several
    times, unless asked otherwise."""
    load_before: float
    """Processes that wanted a core in the minute before, of the whole machine."""
    failed: str | None
    """Why the command did not end well; none: it did."""


def measured(
    command: Sequence[str],
    environment: Mapping[str, str],
    memory_limit: int,
    log: Path,
    shared_once: bool = False,
) -> Usage:
    """Runs a command, its output in `log`, and ends it where the tree holds more than
    `memory_limit` bytes.

    `shared_once`: pages that processes share count once (proportional set size, which takes longer
    to ask for).
    """
    load = os.getloadavg()[0]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    peak, over = 0, False
    while True:
        peak = max(peak, _resident(process.pid, shared_once))
        if peak > memory_limit and not over:
            over = True
            # The session was made for this command: it holds nothing but its tree.
            os.killpg(process.pid, signal.SIGKILL)
        # wait4 tells what this child and its own children took; Popen would throw that away.
        pid, status, taken = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(SAMPLE_SECONDS)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    failed = (
        f"held more than {memory_limit / 2**30:.1f} GiB and was ended"
        if over
        else _failure(process.returncode, log)
    )
    return Usage(
        round(wall, 2), round(taken.ru_utime + taken.ru_stime, 2), peak, round(load, 2), failed
    )


def _failure(status: int, log: Path) -> str | None:
    if status == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"status {status}: " + "\n".join(lines[-LAST_LINES:])


def _resident(pid: int, shared_once: bool) -> int:
    """Bytes of a process and all below it; those that end meanwhile count nothing.

    Nor do those that began a moment ago: one that the Java machine has just forked still shows its
    parent's memory as its own.
    """
    total = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in tree:
        try:
            if process.pid == pid or time.time() - process.create_time() > NEW_SECONDS:
                total += (
                    process.memory_full_info().pss if shared_once else process.memory_info().rss
                )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
