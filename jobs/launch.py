"""Trains on several ranks, and goes on where some are lost: `python jobs/launch.py CONFIG.toml
[--ranks N] [--restarts N] ...`.

Starts `jobs/train.py` under horovodrun. Ctrl-C and SIGTERM are passed on: the ranks save what they
have.
"""

import sys
from collections.abc import Sequence

from pydantic import Field

from jobs import train
from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.common.signals import heard
from jobs.launching.attempt import Attempt, Ended, Verdict, command
from jobs.launching.hosts import Host, HostsError, parse_hosts, placed
from jobs.launching.statuses import STOPPED_STATUS
from trainer.checkpoints import files
from trainer.config import TrainConfigError
from trainer.console import so_many
from trainer.training import CHECKPOINTS

JOB = "launch.py"
OWN = ("ranks", "hosts", "restarts", "network-interface")
"""Options that train.py does not know."""


class Options(train.Options):
    """Trains M2GRL on the shards that preprocess.py wrote, on several ranks; starts them again
    where some are lost."""

    ranks: int | None = Field(default=None, ge=1)
    """Ranks to start; none: as many as the hosts take, and no more than train.lanes."""
    hosts: str = ""
    """Where: name:ranks,name:ranks,...; each is reached by ssh without a password, and has the same
    folders. Nothing: this machine."""
    restarts: int = Field(default=0, ge=0)
    """How often to start again where a rank was killed or its host is gone: from the newest whole
    checkpoint, on the hosts that answer."""
    network_interface: str | None = None
    """Over which the ranks of several hosts reach each other, such as eth0; none: horovodrun looks
    for one that all have."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with train.py's kinds of status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    project, options = parse(JOB, Options(), given)
    with failing_clearly(JOB, project.paths.model, HostsError, TrainConfigError):
        status = run(project, options, for_train(given))
    sys.exit(status)


def run(project: Project, options: Options, arguments: list[str]) -> int:
    """Starts the ranks until they are done or it is no use; returns the exit status: 0,
    STOPPED_STATUS or 1.

    `arguments` are those of train.py, which every rank reads for itself. Raises HostsError where no
    host is left, TrainConfigError where the ranks do not fit the settings.
    """
    hosts = parse_hosts(options.hosts)
    slots = sum(host.slots for host in hosts)
    ranks = options.ranks or min(project.train.lanes, slots)
    project.train.check_ranks(ranks)
    for restarts_left in range(options.restarts, -1, -1):
        used_hosts = placed(hosts, ranks)
        _say(f"{so_many(ranks)} on {', '.join(map(str, used_hosts))}")
        ended = one_start(command(used_hosts, arguments, options.network_interface))
        if ended.verdict is Verdict.DONE:
            return 0
        if ended.verdict is Verdict.STOPPED:
            return STOPPED_STATUS
        _say(f"{ended.why(used_hosts)}: {ended.verdict.value}")
        if ended.verdict is Verdict.FAILED or not restarts_left:
            return 1
        hosts, ranks = left(hosts, ranks)
        arguments, since = resumed(project, arguments)
        _say(f"starting again {since}; {restarts_left - 1} restarts left")
    return 1


def one_start(words: Sequence[str]) -> Ended:
    """Runs the ranks once, up to their end; signals stop them meanwhile."""
    attempt = Attempt(words)
    with heard(attempt.stop):
        return attempt.run()


def resumed(project: Project, arguments: Sequence[str]) -> tuple[list[str], str]:
    """Arguments that go on from the newest whole checkpoint, and, for people, from where that
    is."""
    fresh = without(arguments, "resume")
    whole = files.whole_checkpoints(project.paths.model / CHECKPOINTS)
    if not whole:
        return fresh, "from the start, for there is no whole checkpoint"
    return [*fresh, "--resume"], f"from {whole[-1].name}"


def left(hosts: list[Host], ranks: int) -> tuple[list[Host], int]:
    """The hosts that answer, and the ranks they take. Raises HostsError where none does."""
    answering = [host for host in hosts if host.answers()]
    for gone in (host for host in hosts if host not in answering):
        _say(f"{gone.name} does not answer: going on without it")
    if not answering:
        raise HostsError("no host answers; start again with --resume when one does")
    return answering, min(ranks, sum(host.slots for host in answering))


def for_train(given: Sequence[str]) -> list[str]:
    """The arguments without the launcher's own."""
    arguments = list(given)
    for option in OWN:
        arguments = without(arguments, option)
    return arguments


def without(given: Sequence[str], option: str) -> list[str]:
    """Arguments without `--option value`, `--option=value` and, for a flag, `--option` and
    `--no-option`."""
    names = {f"--{option}", f"--{option.replace('-', '_')}"}
    kept: list[str] = []
    skip = False
    for argument in given:
        name, equals, _ = argument.partition("=")
        if skip and not argument.startswith("--"):
            skip = False
            continue
        skip = name in names and not equals and option in OWN
        if name not in names and name not in {f"--no-{option}"}:
            kept.append(argument)
    return kept


def _say(line: str) -> None:
    """A line of the launcher's own."""
    print(f"{JOB}: {line}", flush=True)


if __name__ == "__main__":
    main()
