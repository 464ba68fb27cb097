"""The other shipped projects on real data, as test_sources.py has one.

The two large logs are cut to their first rows; `make run` takes them whole.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import DEFAULT, Project, load
from pipeline.log.source_paths import resolve
from tests.pipeline.runs.test_sources import run_of, shipped

pytestmark = pytest.mark.timeout(1800)
ROWS = 100_000


def first_rows(project: Project, folder: Path) -> Project:
    """The project over the first rows of its log."""
    path = folder / "head.parquet"
    head = next(pq.ParquetFile(resolve(project.source.path)).iter_batches(ROWS))
    pq.write_table(pa.Table.from_batches([head]), path, coerce_timestamps="us")
    return project.model_copy(
        update={"source": project.source.model_copy(update={"path": str(path)})}
    )


def test_completejourney(spark: SparkSession, tmp_path: Path) -> None:
    project = first_rows(load([DEFAULT]), tmp_path)
    # The first rows are January: the cut moves with them.
    project = project.model_copy(
        update={"split": project.split.model_copy(update={"kind": "none", "cut": None})}
    )
    run = run_of(spark, project, tmp_path / "out")
    log = pq.read_table(tmp_path / "head.parquet").to_pandas()
    counts = log.product_id.value_counts()
    assert run.figures["funnel"]["clicks"] == len(
        log.drop_duplicates(["household_id", "product_id", "transaction_timestamp", "basket_id"])
    )
    assert run.figures["nodes"]["item"] == (counts >= 5).sum()


def test_globo(
    spark: SparkSession, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = first_rows(shipped("globo", data, monkeypatch), tmp_path)
    run = run_of(spark, project, tmp_path / "out")
    assert run.figures["funnel"]["raw rows"] == ROWS
    # Every click but the last of a user has another one after it, on the same item or not.
    assert 0 < run.figures["funnel"]["events with a known stay"] < ROWS
    assert run.dropped["stay below minimum"] > 0
    assert run.dropped["event type"] == 0
    # The publisher's filler.
    assert 30.0 in [each["value"] for each in run.figures["histograms"]["stay"]["unusual"]]


def test_ml_latest_small(
    spark: SparkSession, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(spark, shipped("ml-latest-small", data, monkeypatch), tmp_path)
    ratings = pd.read_csv(data / "ml-latest-small" / "ratings.csv")
    kept = ratings[ratings.rating >= 3]
    users = kept.userId.value_counts()
    assert {reason: count for reason, count in run.dropped.items() if count} == {
        "value below minimum": len(ratings) - len(kept)
    }
    assert run.figures["parts"]["test"]["clicks"] == 3 * (users >= 8).sum()
    assert run.figures["parts"]["test"]["users"] == (users >= 8).sum()
    # 19 genres; "(no genres listed)" is unknown, not a node.
    assert run.figures["nodes"]["category"] == 19


def test_rees46(
    spark: SparkSession, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(spark, shipped("rees46", data, monkeypatch), tmp_path)
    log = pd.read_csv(data / "rees46_oct2019_head" / "2019-Oct.csv")
    assert run.figures["funnel"]["raw rows"] == len(log)
    # The file ends in the middle of a row.
    assert run.figures["funnel"]["rejected"] == {"malformed row": 1}
    assert (
        run.dropped["duplicate"]
        == log.duplicated(
            [
                "user_id",
                "product_id",
                "event_time",
                "event_type",
                "user_session",
                "category_id",
                "brand",
            ]
        ).sum()
    )
    assert run.figures["parts"]["train"]["first"] == "2019-10-01 00:00:00"
    clean = spark.read.format("delta").load(str(tmp_path / "lake" / "clean"))
    assert (
        run.figures["nodes"]["shop"]
        == clean.where("shop != ''").select("shop").distinct().count()
        > 100
    )
