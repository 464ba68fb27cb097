"""The launcher: what it starts, where, and what it makes of an end; real ranks that are killed,
told to stop, or lose their host."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jobs import launch, train
from jobs.common.config import DEFAULT, load
from jobs.launching.attempt import Attempt, Ended, Verdict, command
from jobs.launching.hosts import Host, HostsError, parse_hosts, placed
from jobs.launching.statuses import LOST, STOPPED_STATUS
from tests.stand_ins import write_ssh
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files

pytestmark = pytest.mark.timeout(1200)
ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
GIVEN = [
    "shop.toml",
    "--ranks",
    "2",
    "--train.epochs=3",
    "--hosts=a:1",
    "--resume",
    "--restarts",
    "4",
    "--network-interface",
    "lo",
    "--seed",
    "7",
]


def test_what_is_not_the_launchers_own_goes_to_the_ranks() -> None:
    assert launch.for_train(GIVEN) == ["shop.toml", "--train.epochs=3", "--resume", "--seed", "7"]
    assert launch.without(["--resume", "--seed", "7"], "resume") == ["--seed", "7"]
    assert launch.without(["x.toml", "--no-resume"], "resume") == ["x.toml"]


@pytest.mark.parametrize("text", ["node1", "node1:", "node1:0", "node1:x", ":2", "a:1,,b:1"])
def test_hosts_that_cannot_be_read_are_named(text: str) -> None:
    with pytest.raises(HostsError, match="is not name:ranks"):
        parse_hosts(text)


def test_a_host_is_named_once() -> None:
    with pytest.raises(HostsError, match="names a twice"):
        parse_hosts("a:1,b:2,a:3")


def test_ranks_fill_hosts_in_order() -> None:
    hosts = parse_hosts("a:2, b:4")
    assert hosts == [Host("a", 2), Host("b", 4)]
    assert placed(hosts, 1) == [Host("a", 1)]
    assert placed(hosts, 5) == [Host("a", 2), Host("b", 3)]
    with pytest.raises(HostsError, match="7 ranks are more than 6, what a:2, b:4 take"):
        placed(hosts, 7)


def test_one_rank_here_needs_no_horovodrun() -> None:
    assert command([Host("localhost", 1)], ["shop.toml"], None) == [
        sys.executable,
        train.__file__,
        "shop.toml",
    ]


def test_several_are_started_by_horovodrun() -> None:
    launcher, *rest = command([Host("a", 2), Host("b", 1)], ["shop.toml"], "eth0")
    assert Path(launcher).name == "horovodrun"
    assert rest[:5] == ["-np", "3", "-H", "a:2,b:1", "--gloo"]
    assert rest[-3:] == [sys.executable, train.__file__, "shop.toml"]
    assert rest[rest.index("--network-interface") + 1] == "eth0"


def test_more_ranks_than_lanes_are_refused_before_any_starts(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit,
        match=(
            r"launch\.py: train\.lanes = 16 is fewer than the 17 ranks; raise it or start "
            r"fewer ranks"
        ),
    ):
        launch.main([f"--output={tmp_path}", "--ranks=17", "--train.lanes=16"])


@pytest.mark.parametrize(
    ("statuses", "told", "verdict"),
    [
        ({}, False, Verdict.FAILED),
        ({0: 1, 1: LOST}, False, Verdict.FAILED),
        ({0: 2, 1: 2}, False, Verdict.FAILED),
        ({1: 137, 0: LOST}, False, Verdict.LOST),
        ({1: 255, 0: 143}, False, Verdict.LOST),
        ({0: STOPPED_STATUS, 1: 143}, False, Verdict.STOPPED),
        ({0: 137}, True, Verdict.STOPPED),
    ],
)
def test_what_an_end_means(statuses: dict[int, int], told: bool, verdict: Verdict) -> None:
    assert Ended(statuses, next(iter(statuses), None), 1, told).verdict is verdict
    assert Ended({}, None, 0, told).verdict is Verdict.DONE


def test_the_rank_that_ended_first_is_told_with_its_host() -> None:
    hosts = [Host("a", 2), Host("b", 1)]
    assert Ended({2: 137, 0: LOST}, 2, 1).why(hosts) == "rank 2 on b was ended by SIGKILL"
    assert Ended({0: LOST}, 0, 1).why(hosts) == "rank 0 on a lost another rank"
    assert Ended({1: 255}, 1, 1).why(hosts) == "rank 1 on a could not be reached"
    assert Ended({1: 3}, 1, 1).why(hosts) == "rank 1 on a ended with status 3"
    assert Ended({}, None, 9).why(hosts) == "horovodrun ended with status 9"


def test_an_error_that_all_ranks_meet_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = tmp_path / "horovodrun"
    told = [
        "[1]<stderr>:train.py: no lanes",
        "[0]<stderr>:train.py: no lanes",
        "[0]<stderr>:train.py: no shards",
        "[1]<stdout>:step 1/2",
    ]
    launcher.write_text(
        "#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in [*told, told[-1]]), encoding="utf-8"
    )
    launcher.chmod(0o700)
    Attempt([str(launcher)]).run()
    assert capsys.readouterr().out.splitlines() == [told[0], told[2], told[3], told[3]]


def test_a_terminal_gets_a_bar_of_what_rank_0_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "horovodrun"
    launcher.write_text(
        (
            "#!/bin/sh\necho '[0]<stdout>:step      7/20  epoch  0.50'\necho '[1]<stdout>:step "
            "9/20 '\n"
        ),
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("TERM", "xterm")
        assert Attempt([str(launcher)]).run().verdict is Verdict.DONE
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "training" in shown
    assert "7/20" in shown
    assert "epoch  0.50" in shown


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's file, its shards beside."""
    write_shards(
        tmp_path / "completejourney" / "shards",
        random_corpus(),
        config_hash=load([DEFAULT]).pipeline_hash,
    )
    text = DEFAULT.read_text(encoding="utf-8")
    (tmp_path / "project.toml").write_text(f"output = '{tmp_path}'\n{text}", encoding="utf-8")
    return tmp_path / "project.toml"


SETTINGS = ("--train.batch-pairs=300", "--train.dimension=8", "--train.log-seconds=0.2")


class Launched:
    """A launcher that runs; its output is read up to a text, or to the end."""

    def __init__(self, project: Path, *options: str) -> None:
        arguments = [sys.executable, "-u", launch.__file__, str(project), *SETTINGS, *options]
        self.process = subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.output = ""

    def until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        raise AssertionError(self.output)

    def end(self) -> int:
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.output += rest
        return self.process.returncode

    def ranks(self) -> list[psutil.Process]:
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [
            process
            for process in below
            if train.__file__ in process.cmdline() and process.name().startswith("python")
        ]


def checkpoints(project: Path) -> Path:
    return project.parent / "completejourney" / "model" / "checkpoints"


def wait_for_checkpoint(project: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not files.whole_checkpoints(checkpoints(project)):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_error_that_would_come_again_is_not_tried_again(project: Path) -> None:
    (project.parent / "completejourney" / "shards" / "manifest.json").unlink()
    run = Launched(project, "--ranks=2", "--restarts=5")
    assert run.end() == 1
    assert run.output.count("manifest.json is not there") == 1, run.output
    assert run.output.count("2 ranks on localhost:2") == 1, run.output
    assert "failed for good" in run.output


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_saves_and_ends_without_a_restart(project: Path, ranks: int) -> None:
    run = Launched(
        project,
        f"--ranks={ranks}",
        "--train.epochs=100000",
        "--train.checkpoint-epochs=100000",
        "--restarts=5",
    )
    run.until("step ")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == STOPPED_STATUS, run.output
    told = re.search(r"stopped after step (\d+) of \d+, which is saved", run.output)
    assert told, run.output
    assert files.verified_manifest(files.newest_checkpoint(checkpoints(project))).step == int(
        told[1]
    )
    assert "starting again" not in run.output


def test_a_host_that_is_gone_is_left_out(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 is this machine by another name, reached through a stand-in for ssh that fails once
    the host is 'gone'."""
    folder = tmp_path / "bin"
    gone = write_ssh(folder, "127.0.0.2")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    hosts = ("--hosts=localhost:1,127.0.0.2:1", "--network-interface=lo")
    run = Launched(project, *hosts, "--train.epochs=40", "--restarts=1")
    run.until("step ")
    wait_for_checkpoint(project)
    gone.touch()
    run.ranks()[-1].kill()
    assert run.end() == 0, run.output
    assert "2 ranks on localhost:1, 127.0.0.2:1" in run.output
    assert "127.0.0.2 does not answer: going on without it" in run.output
    assert "1 rank on localhost:1" in run.output
    assert files.verified_manifest(files.newest_checkpoint(checkpoints(project))).ranks == 1
