"""What a user sees when preprocessing cannot be done: one message, a status that is not 0, and
nothing that looks whole."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.common.config import load
from jobs.preprocess import main
from jobs.preprocessing import sparkjobs
from jobs.preprocessing.samples import funnel_text
from pipeline.errors import PipelineError
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess

pytestmark = pytest.mark.timeout(1000)
CONFIG = """
name = "shop"
output = "{folder}"
[source]
path = "{folder}/log.csv"
format = "csv"
[source.columns]
user_id = "user"
item_id = "{item}"
timestamp = "time"
[views.item]
"""


def project(folder: Path, rows: str, item: str = "item") -> Path:
    (folder / "log.csv").write_text("user,item,time\n" + rows, encoding="utf-8")
    config = folder / "shop.toml"
    config.write_text(CONFIG.format(folder=folder, item=item), encoding="utf-8")
    return config


def failure(config: Path, **environment: str) -> str:
    """What spark-submit prints of the job, which fails."""
    command = ["spark-submit", "jobs/preprocess.py", str(config)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout
    assert not (config.parent / "shop" / "shards" / "manifest.json").exists()
    # spark-submit joins the job's two streams.
    return done.stdout


def test_an_empty_log(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparkjobs, "open_session", lambda _: spark)
    monkeypatch.setattr(spark, "stop", lambda: None)
    message = f"source.path '{tmp_path}/log.csv' holds no event: 0 rows, rejected: none"
    with pytest.raises(SystemExit, match=f"^preprocess\\.py: {re.escape(message)}"):
        main([str(project(tmp_path, ""))])
    assert not (tmp_path / "shop" / "shards" / "manifest.json").exists()


def test_a_wrong_column_leaves_older_shards_alone(tmp_path: Path) -> None:
    older = tmp_path / "shop" / "shards" / "older"
    older.mkdir(parents=True)
    assert "preprocess.py: source.columns.item_id = 'itm' cannot be read" in failure(
        project(tmp_path, "u,i,2024-03-01\n", "itm")
    )
    assert older.exists()


def test_a_log_without_pairs(spark: SparkSession, tmp_path: Path) -> None:
    settings = load([project(tmp_path, "u,i,2024-03-01 10:00:00\nv,j,2024-03-01 10:00:00\n")])
    paths = settings.paths
    pipeline = Pipeline(spark, settings, paths.output, Identity({}, "hash", "version"))
    with pytest.raises(PipelineError, match="no training pairs for item"):
        preprocess(pipeline)
    assert not (paths.shards / "manifest.json").exists()


def test_a_spark_without_delta(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    message = failure(project(tmp_path, "u,i,2024-03-01\n"), SPARK_CONF_DIR=str(tmp_path / "conf"))
    assert "preprocess.py: Delta is not on Spark's class path: `make setup`" in message


def test_bad_rows_are_named_in_the_summary() -> None:
    dropped = {"duplicate": 0, "stay below minimum": 400}
    tables = {"source.items[0]": {"rows": 1500, "malformed row": 0, "no item_id": 7}}
    funnel = {
        "raw rows": 2000,
        "rejected": {"no user_id": 1},
        "dropped": dropped,
        "clicks": 1599,
        "item tables": tables,
    }
    funnel |= {"flaws": {"unreadable stay": 9, "unreadable value": 0}, "app events": 11}
    examples = {
        "source.items[0]": {
            "no item_id": ('[{"attribute":"shop","value":"7"}]', "file:///a%20b/items.csv")
        }
    }
    assert funnel_text(funnel, examples).splitlines() == [
        "2,000 raw rows, 1,599 clicks",
        "  rejected: no user_id: 1 (0.1%)",
        "  dropped: stay below minimum: 400 (20.0%)",
        "  9 events lost a field: unreadable stay",
        "  11 events tell of the app's opening or closing",
        "  rejected rows are kept in the lake's table `rejects`",
        (
            "  source.items[0]: no item_id: 7 of 1,500 rows, for example "
            '[{"attribute":"shop","value":"7"}] in file:///a b/items.csv'
        ),
    ]


def test_a_missing_log(tmp_path: Path) -> None:
    config = project(tmp_path, "")
    (tmp_path / "log.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        main([str(config)])
    assert ended.value.code == (
        f"preprocess.py: source.path: there is no file '{tmp_path}/log.csv'; correct the "
        "path, or set the variable it names"
    )
