"""Two hosts, made of network namespaces on one machine: ranks that meet over a network path learn
what one rank learns."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.common.config import DEFAULT, load
from tests.stand_ins import write_ssh
from tests.trainer.ranks.test_ranks import (
    BREAK,
    CASES,
    CLIPPED,
    LAUNCH_SECONDS,
    LEVELS,
    ROOT,
    differences,
    project_of,
    train_cases,
)
from tests.trainer.shards import random_corpus, write_shards

FIRST, SECOND = "10.213.77.1", "10.213.77.2"
INTERFACE = "m2grl0"
"""Of the same name in both."""


@dataclass(frozen=True)
class Hosts:
    """Two network namespaces joined by a cable."""

    first: str
    path: str
    """PATH on which the stand-in for ssh lies."""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    first, second = (f"m2grl-{os.getpid()}-{end}" for end in "ab")
    try:
        run("ip", "netns", "add", first)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine lets no network namespace be made: {error}")
    try:
        run("ip", "netns", "add", second)
        run(
            "ip",
            "link",
            "add",
            INTERFACE,
            "netns",
            first,
            "type",
            "veth",
            "peer",
            "name",
            INTERFACE,
            "netns",
            second,
        )
        for namespace, address in ((first, FIRST), (second, SECOND)):
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                run("ip", "-n", namespace, "link", "set", interface, "up")
        folder = tmp_path_factory.mktemp("bin")
        # In the other host's network, among processes of its own.
        write_ssh(folder, SECOND, f"ip netns exec {second} unshare --pid --fork --mount-proc")
        yield Hosts(first, f"{folder}{os.pathsep}{os.environ['PATH']}")
    finally:
        for namespace in (first, second):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def on_both(
    hosts: Hosts, *arguments: str | Path, seconds: float = LAUNCH_SECONDS
) -> subprocess.CompletedProcess[str]:
    """A rank on each host."""
    launcher = Path(sys.executable).with_name("horovodrun")
    if not launcher.exists():
        pytest.skip("horovodrun is not installed: run the set-up")
    ranks = (
        launcher,
        "-np",
        "2",
        "-H",
        f"{FIRST}:1,{SECOND}:1",
        "--network-interface",
        INTERFACE,
        "--disable-cache",
        "--gloo",
    )
    command = ("ip", "netns", "exec", hosts.first, *ranks, sys.executable, *arguments)
    environment = {**os.environ, "PATH": hosts.path}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def test_two_hosts_learn_what_one_rank_learns(hosts: Hosts, tmp_path: Path) -> None:
    """All five tasks, clipped; of the two levels the ranks choose the one between hosts
    themselves."""
    shards, alone, together = tmp_path / "shards", tmp_path / "alone", tmp_path / "together"
    write_shards(shards, random_corpus(), config_hash=load([DEFAULT]).pipeline_hash)
    train_cases(shards, alone, 1, {"case": {"train": CASES[CLIPPED]}})
    together.mkdir()
    shutil.copy(alone / "cases.json", together)
    done = on_both(hosts, "-m", "tests.trainer.driver", shards, together, together / "cases.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 ranks over alltoall" in done.stdout
    assert set(json.loads((together / "case" / "calls.json").read_text(encoding="utf-8"))) == {
        LEVELS["alltoall"]
    }
    assert differences(shards, alone / "case", together / "case") == []


@pytest.mark.parametrize("fault", ["killed", "stops"])
def test_a_rank_of_another_host_that_dies_or_stops_ends_the_run(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its process can't be looked at from here: Horovod's ranks no longer hear of each other, which
    takes 30 seconds by default."""
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "5")
    shards = tmp_path / "shards"
    write_shards(shards, random_corpus(), config_hash=load([DEFAULT]).pipeline_hash)
    done = on_both(
        hosts, "-c", BREAK, "600", fault, project_of(shards, tmp_path), "--train.batch-pairs", "300"
    )
    assert done.returncode != 0
    told = (
        "one that horovodrun names, or one that is stopped or out of reach (rank 1 on "
        f"{socket.gethostname()})"
    )
    assert f"rank 0 of 2 lost another rank in the exchange 'pairs': {told}" in done.stderr
    assert ("Process name: 1" in done.stderr) == (fault == "killed"), done.stderr
