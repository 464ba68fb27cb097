"""One start of all ranks, up to its end: what they print is passed on, how each of them ended is
kept."""

import contextlib
import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO

import psutil

from jobs.launching.hosts import Host
from jobs.launching.statuses import LOST, STOPPED_STATUS
from trainer.monitoring import progress

TRAIN_JOB = Path(__file__).parents[1] / "train.py"
"""The command that is one rank."""
_ENDED = re.compile(r"Process (\d+) exit with status code (\d+)\.")
_FIRST = re.compile(r"Process name: (\d+)")
_NOISE = "Traceback (most recent call last):"
"""How horovodrun's own end begins, on lines that no rank printed."""
_OWN = re.compile(r"\[0\]<stdout>:")
_RANK = re.compile(r"\[\d+\]<std(out|err)>:")
_STEP = re.compile(r"\[0\]<stdout>:step +(\d+)/(\d+) ")
PR_SET_PDEATHSIG = 1


class Verdict(Enum):
    """What a start came to."""

    DONE = "done"
    STOPPED = "told to stop"
    FAILED = "failed for good"
    """By an error of the configuration, the data or the code, which another start would meet
    again."""
    LOST = "a rank was lost"
    """Killed, gone with its host, or out of reach: another start may do."""


@dataclass
class Ended:
    """How the ranks of a start ended."""

    statuses: dict[int, int] = field(default_factory=dict)
    """Rank -> exit status, where it was not 0."""
    first: int | None = None
    """The rank that ended first of those."""
    launcher: int = 0
    """Exit status of horovodrun."""
    told: bool = False
    """Whether they were told to stop."""

    @property
    def verdict(self) -> Verdict:
        """What it came to. An error of one rank counts for more than what others say of losing
        it."""
        if not self.launcher:
            return Verdict.DONE
        codes = set(self.statuses.values())
        if self.told or STOPPED_STATUS in codes:
            return Verdict.STOPPED
        mendable = codes and all(code == LOST or code >= 128 for code in codes)
        return Verdict.LOST if mendable else Verdict.FAILED

    def why(self, placed: Sequence[Host]) -> str:
        """For people: which rank ended first, where and how."""
        if self.first is None or self.first not in self.statuses:
            return f"horovodrun ended with status {self.launcher}"
        homes = [host.name for host in placed for _ in range(host.slots)]
        return f"rank {self.first} on {homes[self.first]} {_meaning(self.statuses[self.first])}"


def _meaning(code: int) -> str:
    if code == LOST:
        return "lost another rank"
    if code == 255:
        return "could not be reached"
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(code - 128).name}"
    return f"ended with status {code}"


def command(placed: Sequence[Host], arguments: Sequence[str], interface: str | None) -> list[str]:
    """What starts the ranks: horovodrun, or the job itself where one rank runs here."""
    job = [sys.executable, str(TRAIN_JOB), *arguments]
    ranks = sum(host.slots for host in placed)
    if ranks == 1 and placed[0].here:
        return job
    launcher = [
        str(Path(sys.executable).with_name("horovodrun")),
        "-np",
        str(ranks),
        "-H",
        ",".join(map(str, placed)),
        "--gloo",
    ]
    # Its cache would say for an hour of a host that is gone that it is there.
    return [
        *launcher,
        "--disable-cache",
        *(["--network-interface", interface] if interface else []),
        *job,
    ]


class Attempt:
    """A start. `stop` may be called from a signal's handler while `run` waits."""

    def __init__(self, command: Sequence[str]) -> None:
        self._alone = "horovodrun" not in command[0]
        # A session of its own: the terminal's Ctrl-C would make horovodrun end the ranks before
        # they have saved what they have.
        self._process = subprocess.Popen(
            command,
            stdout=None if self._alone else subprocess.PIPE,
            stderr=None if self._alone else subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._told = 0
        self._heard: set[str] = set()
        """How ranks ended, in their words."""

    def run(self) -> Ended:
        """Waits for the end."""
        ended = Ended()
        if self._process.stdout is not None:
            with shown() as show:
                self._pass_on(self._process.stdout, ended, show)
        ended.launcher, ended.told = self._process.wait(), bool(self._told)
        if self._alone and ended.launcher:
            ended.launcher = ended.launcher if ended.launcher > 0 else 128 - ended.launcher
            ended.statuses, ended.first = {0: ended.launcher}, 0
        return ended

    def _pass_on(self, output: IO[str], ended: Ended, show: Callable[[int, int], None]) -> None:
        for line in output:
            if _NOISE in line and not _RANK.match(line):
                self._end(ended)
                break
            self._line(line, ended)
            if found := _STEP.match(line):
                show(int(found[1]), int(found[2]))

    def _line(self, line: str, ended: Ended) -> None:
        if found := _ENDED.search(line):
            ended.statuses[int(found[1])] = int(found[2])
        elif not line.startswith("Terminating remaining workers") and not self._repeats(line):
            sys.stdout.write(_OWN.sub("", line))
            sys.stdout.flush()

    def _repeats(self, line: str) -> bool:
        """Whether another rank ended with the same words."""
        words = _RANK.sub("", line)
        if words == line or not words.startswith(f"{TRAIN_JOB.name}: "):
            return False
        heard = words in self._heard
        self._heard.add(words)
        return heard

    def _end(self, ended: Ended) -> None:
        """horovodrun's last words, of which one is of use."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _FIRST.search(line):
                ended.first = int(found[1])

    def stop(self, _signal: int) -> None:
        """Tells the ranks to stop: one that hears it tells all. Said again, or where none runs
        here, all are ended."""
        self._told += 1
        ranks = self._ranks()
        if self._told == 1 and ranks:
            ranks[0].terminate()
        else:
            self._process.terminate()

    def _ranks(self) -> list[psutil.Process]:
        """Processes of ranks on this machine."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            tree = [root] if self._alone else root.children(recursive=True)
            return [
                process
                for process in tree
                if str(TRAIN_JOB) in process.cmdline() and not process.name().endswith("sh")
            ]
        return []


@contextlib.contextmanager
def shown() -> Iterator[Callable[[int, int], None]]:
    """Yields what is told (steps done, of how many); a terminal shows a bar of it. The ranks of a
    horovodrun have no terminal."""
    if not sys.stdout.isatty():
        yield lambda _done, _total: None
        return
    with progress.bar() as drawn:
        task = drawn.add_task("training", total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


def _end_with_parent() -> None:
    """Of the child: to be told to end when the launcher dies, however that dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
