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
from jobs.launching.attempt import Attempt, Verdict, command
from jobs.launching.hosts import Host, HostsError, parse_hosts, placed
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
        hosts = parse_hosts(options.hosts)
        ranks = options.ranks or min(project.train.lanes, sum(host.slots for host in hosts))
        project.train.check_ranks(ranks)
        status = launch(project, options, hosts, ranks, for_train(given))
    sys.exit(status)


def launch(
    project: Project, options: Options, hosts: list[Host], ranks: int, arguments: list[str]
) -> int:
    """Starts the ranks until they are done or it is no use; returns the exit status. Raises
    HostsError where no host is left."""
    for restart in range(options.restarts + 1):
        chosen = placed(hosts, ranks)
        say(f"{so_many(ranks)} on {', '.join(map(str, chosen))}")
        attempt = Attempt(command(chosen, arguments, options.network_interface))
        with heard(attempt.stop):
            ended = attempt.run()
        if ended.verdict is Verdict.DONE:
            return 0
        if ended.verdict is Verdict.STOPPED:
            return train.STOPPED
        say(f"{ended.why(chosen)}: {ended.verdict.value}")
        if ended.verdict is Verdict.FAILED or restart == options.restarts:
            return 1
        hosts, ranks = left(hosts, ranks)
        whole = files.whole_checkpoints(project.paths.model / CHECKPOINTS)
        arguments = [*without(arguments, "resume"), *(["--resume"] if whole else [])]
        since = (
            f"from {whole[-1].name}"
            if whole
            else "from the start, for there is no whole checkpoint"
        )
        say(f"starting again {since}; {options.restarts - restart - 1} restarts left")
    return 1


def left(hosts: list[Host], ranks: int) -> tuple[list[Host], int]:
    """The hosts that answer, and the ranks they take. Raises HostsError where none does."""
    answering = [host for host in hosts if host.answers()]
    for gone in (host for host in hosts if host not in answering):
        say(f"{gone.name} does not answer: going on without it")
    if not answering:
        raise HostsError("no host answers; start again with --resume when one does")
    return answering, min(ranks, sum(host.slots for host in answering))


def for_train(given: Sequence[str]) -> list[str]:
    """The arguments without the launcher's own."""
    found = list(given)
    for option in OWN:
        found = without(found, option)
    return found


def without(given: Sequence[str], option: str) -> list[str]:
    """Arguments without `--option value`, `--option=value` and, for a flag, `--option` and
    `--no-option`."""
    names = {f"--{option}", f"--{option.replace('-', '_')}"}
    found, skip = [], False
    for argument in given:
        name, equals, _ = argument.partition("=")
        if skip and not argument.startswith("--"):
            skip = False
            continue
        skip = name in names and not equals and option in OWN
        if name not in names and name not in {f"--no-{option}"}:
            found.append(argument)
    return found


def say(line: str) -> None:
    """A line of the launcher's own."""
    print(f"{JOB}: {line}", flush=True)


if __name__ == "__main__":
    main()
