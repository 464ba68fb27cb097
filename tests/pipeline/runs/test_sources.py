"""A shipped project on real data: nothing is lost between raw rows and clicks, and figures agree
with pandas.

`check_sources.py` does the same with the other projects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import DEFAULT, Paths, Project, load
from pipeline.contracts.shards import Manifest
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess


@dataclass
class Run:
    """What the pipeline made of a source."""

    manifest: Manifest
    figures: Mapping[str, Any]

    def check(self) -> None:
        """What holds for every source."""
        funnel = self.figures["funnel"]
        assert (
            funnel["raw rows"]
            == sum(funnel["rejected"].values())
            + funnel["app events"]
            + sum(funnel["dropped"].values())
            + funnel["clicks"]
        )
        assert sum(part["clicks"] for part in self.figures["parts"].values()) == funnel["clicks"]
        for view in self.manifest.views.values():
            assert len({stream.pairs for stream in view.streams}) == 1
        assert all(count > 0 for count in self.figures["pairs"].values())
        assert all(links["distinct"] > 0 for links in self.figures["links"].values())

    @property
    def dropped(self) -> dict[str, int]:
        """Events dropped, by reason."""
        found: dict[str, int] = self.figures["funnel"]["dropped"]
        return found


def run_of(spark: SparkSession, project: Project, folder: Path) -> Run:
    paths = Paths(folder)
    pipeline = Pipeline(spark, project, paths.output, Identity({}, "hash", "version"))
    made = preprocess(pipeline)
    run = Run(made.manifest, made.figures)
    run.check()
    return run


def shipped(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("M2GRL_DATA", str(data))
    return load([DEFAULT.parent / f"{name}.toml"])


def test_jdata(
    spark: SparkSession, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(spark, shipped("jdata", data, monkeypatch), tmp_path)
    files = sorted((data / "jdata2016_head").glob("JData_Action_*.csv"))
    log = pd.concat([pd.read_csv(path) for path in files])
    fields = ["user_id", "sku_id", "time", "type", "cate", "brand"]
    assert run.dropped["duplicate"] == log.duplicated(fields).sum()
    assert run.dropped["event type"] == (log.drop_duplicates(fields).type == 3).sum()
    # Written in Shanghai's time, eight hours ahead; the first click of all is one that stays.
    assert log.time.min() == "2016-01-31 23:59:02"
    assert run.figures["parts"]["train"]["first"] == "2016-01-31 15:59:02"
    ids = {
        row["user_id"]
        for row in spark.read.format("delta")
        .load(str(tmp_path / "lake" / "clean"))
        .select("user_id")
        .distinct()
        .collect()
    }
    # All users but those who only took something out of the cart. Their ids are written as floats:
    # 266079.0
    assert ids == {str(int(user)) for user in log[log.type != 3].user_id}
