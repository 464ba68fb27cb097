"""A user is removed by the command as it is typed, in a process of its own; test_commands.py has
it in the tests' own."""

import os
import subprocess
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.common.config import load
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess
from tests.jobs.test_commands import holding
from tests.jobs.test_preprocess import project

pytestmark = pytest.mark.timeout(1800)
CLICKS = [
    ("ann", 1),
    ("ann", 2),
    ("ann", 3),
    ("bob", 1),
    ("bob", 4),
    ("bob", 2),
    ("eve", 3),
    ("eve", 1),
]


def rows_of_clicks() -> str:
    """CLICKS as lines of the log."""
    return "".join(
        f"{user},item{item},2024-03-01 10:00:{second:02}\n"
        for second, (user, item) in enumerate(CLICKS)
    )


def test_a_user_is_removed_from_every_file(spark: SparkSession, tmp_path: Path) -> None:
    config = project(tmp_path, rows_of_clicks() + "bob,,2024-03-01 11:00:00\n")
    config.write_text(
        config.read_text(encoding="utf-8").replace(
            "[source.columns]", "max_rejected_share = 0.5\n[source.columns]"
        )
    )
    settings = load([config])
    paths = settings.paths
    preprocess(Pipeline(spark, settings, paths.output, Identity({}, "hash", "version")))
    assert {path.parts[len(paths.lake.parts)] for path in holding(paths.lake, "bob")} >= {
        "events",
        "rejects",
        "clean",
        "sessions",
    }
    assert holding(paths.lake, "item4")
    command = ["spark-submit", "jobs/maintain.py", str(config), "--remove-user", "bob", "--compact"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 rows of user 'bob' removed" in done.stdout
    assert not holding(paths.root, "bob")
    assert len(holding(paths.root, "ann")) > 0
    # The item that nobody else clicked keeps its row, unused.
    vocabulary = (
        spark.read.format("delta")
        .load(str(paths.lake / "vocabulary/item"))
        .where("id = 'item4'")
        .collect()
    )
    assert [row["count"] for row in vocabulary] == [0]
    assert sum(1 for _ in verify(paths.shards, Manifest.read(paths.shards))) > 0
