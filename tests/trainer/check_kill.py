"""Both ranks killed at twenty random instants, inside the writing of checkpoints too: what is
resumed ends as if nothing had happened. And one of them killed or stopped, with the limits that
users have: the run ends within a minute.

Run by `make test-kill`; it takes some minutes, so the other tests go without it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jobs.common.config import DEFAULT, load
from pipeline.contracts.sealed import MANIFEST
from tests.trainer.heldout import random_sessions, write_heldout
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files
from trainer.checkpoints.files import CheckpointManifest

pytestmark = pytest.mark.timeout(1500)
ROOT = Path(__file__).parents[2]
KILLS, RANKS, LONGEST_SECONDS, SEED = 20, 2, 2.5, 1
BEGUN = "steps "
"""How the line begins after which a run computes."""
TRAIN = {
    "batch-pairs": 30_000,
    "epochs": 600,
    "checkpoint-epochs": 1,
    "lanes": 6,
    "log-steps": 1,
    "dimension": 64,
}
TRAINING = """
import sys
import trainer.checkpoints.saving
from jobs.train import main
trainer.checkpoints.saving.COPIED_BYTES = int(sys.argv[1])
main(sys.argv[2:])
"""
BROKEN = """
import sys
from jobs.train import main
from tests.trainer.driver import break_rank
break_rank(sys.argv[1])
main(sys.argv[2:])
"""
LAUNCH = [
    str(Path(sys.executable).with_name("horovodrun")),
    "-np",
    str(RANKS),
    "--gloo",
    sys.executable,
]


class Shop:
    """A project in a folder of its own."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.root = folder / "completejourney"
        self.root.mkdir(parents=True)
        for name in ("shards", "heldout"):
            (self.root / name).symlink_to(data / name)
        self.project = folder / "project.toml"
        text = (ROOT / "jobs" / "configs" / "completejourney.toml").read_text(encoding="utf-8")
        self.project.write_text(f"output = '{folder}'\n{text}", encoding="utf-8")

    @property
    def checkpoints(self) -> Path:
        return self.root / "model" / "checkpoints"

    def start(self, exchange: str, copied_bytes: int) -> subprocess.Popen[str]:
        """Goes on where a whole checkpoint is. copied_bytes: a rank's rows of at most so many are
        copied when a checkpoint begins."""
        settings = [
            f"--train.{name}={value}" for name, value in {**TRAIN, "exchange": exchange}.items()
        ]
        resume = ["--resume"] if files.whole_checkpoints(self.checkpoints) else []
        command = [
            *LAUNCH,
            "-c",
            TRAINING,
            str(copied_bytes),
            str(self.project),
            *settings,
            *resume,
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self) -> CheckpointManifest:
        """The newest checkpoint, its files verified."""
        return files.verified_manifest(files.newest_checkpoint(self.checkpoints))

    def best(self) -> str:
        """What is noted of the best checkpoint, which is whole."""
        files.verified_manifest(files.best_checkpoint(self.checkpoints))
        return (self.checkpoints / files.BEST).read_text(encoding="utf-8")

    def unfinished(self) -> bool:
        """Whether a checkpoint was begun and not ended."""
        return any(not (folder / MANIFEST).exists() for folder in self.checkpoints.glob("step-*"))

    def records(self) -> list[dict[str, Any]]:
        lines = (self.root / "model" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        return [
            {key: record[key] for key in ("losses", "sigma2", "pairs", "hit_rate") if key in record}
            for record in map(json.loads, lines)
        ]


def wait_for_end(run: subprocess.Popen[str]) -> None:
    output, _ = run.communicate()
    assert run.returncode == 0, output


def kill_after(run: subprocess.Popen[str], seconds: float) -> bool:
    """Kills all of a run's processes so many seconds after it began to compute; false: it ended
    before."""
    assert run.stdout is not None
    for line in run.stdout:
        if BEGUN in line:
            break
    time.sleep(seconds)
    ended = run.poll() is not None
    processes = (
        []
        if ended
        else [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
    )
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)
    run.stdout.close()
    run.wait()
    return not ended


@pytest.mark.parametrize(("exchange", "copied_bytes"), [("shared", 0), ("alltoall", 1 << 30)])
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, exchange: str, copied_bytes: int
) -> None:
    write_shards(
        tmp_path / "shards",
        random_corpus(items=3000, sessions=3000),
        config_hash=load([DEFAULT]).pipeline_hash,
    )
    write_heldout(
        tmp_path / "heldout", random_sessions([f"item-{row}" for row in range(3000)], users=500)
    )
    whole, killed = Shop(tmp_path / "whole", tmp_path), Shop(tmp_path / "killed", tmp_path)
    wait_for_end(whole.start(exchange, copied_bytes))
    random, kills, inside = np.random.default_rng(SEED), 0, 0
    steps = []
    while kills < KILLS and kill_after(
        killed.start(exchange, copied_bytes), random.uniform(0, LONGEST_SECONDS)
    ):
        kills += 1
        inside += killed.unfinished()
        steps.append(killed.end().step if files.whole_checkpoints(killed.checkpoints) else 0)
    assert kills == KILLS, f"the run ended after {kills} kills: make it longer"
    assert steps == sorted(steps)
    wait_for_end(killed.start(exchange, copied_bytes))
    assert inside, "no kill fell into the writing of a checkpoint"
    assert killed.end().step == whole.end().step
    assert killed.end().files == whole.end().files, "other numbers in the last checkpoint"
    assert killed.records() == whole.records()
    assert killed.best() == whole.best()
    print(
        f"{exchange}: {kills} kills, {inside} of them inside the writing of a checkpoint, at "
        f"steps {steps} of {whole.end().step}"
    )


@pytest.mark.parametrize("exchange", ["shared", "alltoall"])
@pytest.mark.parametrize("fault", ["killed", "stops"])
def test_a_rank_that_is_killed_or_stopped_ends_the_run_within_a_minute(
    tmp_path: Path, fault: str, exchange: str
) -> None:
    """From the start of the run, with the limits as they are."""
    write_shards(tmp_path / "shards", random_corpus(), config_hash=load([DEFAULT]).pipeline_hash)
    write_heldout(tmp_path / "heldout", random_sessions([f"item-{row}" for row in range(60)]))
    shop = Shop(tmp_path / "shop", tmp_path)
    command = [
        *LAUNCH,
        "-c",
        BROKEN,
        fault,
        str(shop.project),
        "--train.batch-pairs=300",
        f"--train.exchange={exchange}",
    ]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    seconds = time.monotonic() - began
    assert done.returncode != 0
    assert "--resume" in done.stdout + done.stderr
    assert seconds < 60
    print(f"{exchange}, {fault}: ended {seconds:.0f} s after the start")
