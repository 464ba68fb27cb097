"""`spark-submit jobs/preprocess.py` killed again and again, over the whole log and over a day of
it: what is run again ends as if nothing had happened, and no set of shards that a kill left is
taken for a whole one.

Run by `make test-kill`; it takes some minutes, so the other tests go without it.
"""

import json
import os
import re
import signal
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipeline.contracts import heldout
from pipeline.contracts.sealed import MANIFEST
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from pipeline.lake import Lake
from pipeline.runs.pipeline import tables
from pipeline.runs.rebuild import checksums
from tests.pipeline.runs.test_daily import rows_of
from tests.pipeline.runs.test_days_of_a_shop import SECOND, settings, write_log

pytestmark = pytest.mark.timeout(1500)
ROOT = Path(__file__).parents[2]
KILLS, SEED = 4, 1
"""Of each of the two commands."""
STEPS, STEP = 9, re.compile(r"\[\d/")
"""Steps of a run, and how their lines begin."""
LONGEST_SECONDS = 1.5
"""Into a step, at which a run is killed."""


class Shop:
    """A lake and shards of the made-up log, in a folder of their own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.log, self.output, self.said = folder, folder / name, folder / f"{name}.txt"
        self.root = self.output / "shop"
        self.settings = settings(folder)

    def start(self, step: int, *options: str) -> subprocess.Popen[str]:
        """Returns once that step began."""
        command = [
            "spark-submit",
            "jobs/preprocess.py",
            str(self.log / "shop.toml"),
            "--output",
            str(self.output),
            *options,
        ]
        with self.said.open("w", encoding="utf-8") as said:
            run = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        while run.poll() is None and f"[{step}/" not in self.said.read_text(encoding="utf-8"):
            time.sleep(0.05)
        return run

    def run(self, *options: str) -> None:
        """To the end."""
        assert self.start(1, *options).wait() == 0, self.said.read_text(encoding="utf-8")

    def kill_at(self, step: int, seconds: float, *options: str) -> str | None:
        """Kills a run so many seconds after a step began; what it said last, or none: it ended
        before."""
        run = self.start(step, *options)
        time.sleep(seconds)
        if run.poll() is not None:
            assert run.returncode == 0, self.said.read_text(encoding="utf-8")
            return None
        # Python's workers are of a group of their own.
        processes = psutil.Process(run.pid).children(recursive=True)
        os.killpg(run.pid, signal.SIGKILL)
        for process in processes:
            if process.is_running():
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        if run.wait() == 0:
            return None
        return [
            line for line in self.said.read_text(encoding="utf-8").splitlines() if STEP.match(line)
        ][-1]

    def shards(self) -> dict[str, list[str]] | None:
        """The checksums of a set of shards that is read, each file verified against them; none:
        there is none."""
        if not (self.root / "shards" / MANIFEST).exists():
            return None
        manifest = Manifest.read(self.root / "shards")
        assert list(verify(self.root / "shards", manifest))
        return checksums(manifest)

    def rows(self, spark: SparkSession) -> dict[str, list[tuple[Any, ...]]]:
        """Of each table of the lake."""
        lake = Lake(spark, self.root / "lake")
        return {table: rows_of(lake, table) for table in tables(self.settings)}

    def cases(self) -> list[Any]:
        """What is held out."""
        names = (heldout.SESSIONS, heldout.HISTORY, heldout.COUNTS)
        return [pq.read_table(self.root / "heldout" / name).to_pylist() for name in names]


def toml(value: Any) -> str:
    """A value of a project on one line of TOML."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items())
            + "}"
        )
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def write_project(folder: Path) -> None:
    found = settings(folder).model_dump(mode="json", exclude_unset=True)
    (folder / "shop.toml").write_text(
        "".join(f"{key} = {toml(value)}\n" for key, value in found.items()), encoding="utf-8"
    )


def without_some(log: str, day: date) -> str:
    """The log as it was while a third of what a day brought was missing."""
    return "".join(
        line
        for number, line in enumerate(log.splitlines(keepends=True))
        if number % 3 or not line.endswith(f"{day}\n")
    )


def killed_again_and_again(
    shop: Shop, whole: Shop, draw: np.random.Generator, *options: str
) -> None:
    """Kills a command at random in each part of its steps, and lets it end. Of the shards that a
    kill left, those are read that were there before or those that are there at the end."""
    before, end, kills = shop.shards(), whole.shards(), 0
    for part in range(KILLS):
        step = 1 + int(STEPS * draw.uniform(part, part + 1) / KILLS)
        said = shop.kill_at(step, draw.uniform(0, LONGEST_SECONDS), *options)
        left = shop.shards()
        assert left is None or left in (before, end)
        if said is None:
            print(
                f"{' '.join(options) or 'the whole log'}: ended before kill {part + 1}, at step "
                f"{step}"
            )
            continue
        kills += 1
        print(
            f"{' '.join(options) or 'the whole log'}: kill {part + 1} of {KILLS} after "
            f"'{said}', shards {'read' if left else 'not read'}"
        )
    assert kills > KILLS // 2, "most runs ended before they were killed"
    shop.run(*options)


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    tmp_path: Path, spark: SparkSession
) -> None:
    whole, killed, draw = (
        Shop(tmp_path, "whole"),
        Shop(tmp_path, "killed"),
        np.random.default_rng(SEED),
    )
    write_log(tmp_path)
    write_project(tmp_path)
    log = (tmp_path / "log.csv").read_text(encoding="utf-8").replace("\r\n", "\n")
    of_runs = []
    for text, options in ((without_some(log, SECOND), []), (log, ["--date", str(SECOND)])):
        (tmp_path / "log.csv").write_text(text, encoding="utf-8")
        whole.run(*options)
        killed_again_and_again(killed, whole, draw, *options)
        found = killed.shards()
        assert found is not None
        assert found == whole.shards()
        assert killed.cases() == whole.cases()
        rows = whole.rows(spark)
        assert all(rows.values())
        assert killed.rows(spark) == rows
        of_runs.append((found, len(rows["events"])))
    assert of_runs[0][0] != of_runs[1][0]
    assert of_runs[0][1] < of_runs[1][1]
