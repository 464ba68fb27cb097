"""A log that is refused."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.config import PipelineConfig
from pipeline.errors import PipelineError
from pipeline.lake import Lake
from pipeline.runs.ingest import open_delivery, take_in
from tests.pipeline.deliveries import ingest, over


def settings(log: Path) -> PipelineConfig:
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    source = {"path": str(log), "format": "csv", "columns": columns}
    return PipelineConfig.model_validate({"name": "shop", "source": source, "views": {"item": {}}})


def test_what_was_refused_is_told_even_where_the_events_cannot_be_put_back(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, log = Lake(spark, tmp_path / "lake"), tmp_path / "log.csv"
    config = settings(log)
    log.write_text("user,item,time\nu,i,2024-03-01\n", encoding="utf-8")
    pipeline = over(spark, config, lake)
    ingest(pipeline, "all")
    log.write_text("user,item,time\nv,i,2024-03-01\n,i,2024-03-01\n", encoding="utf-8")
    delivery = open_delivery(pipeline, "all")
    refused = (
        r"^1 of 2 rows \(50.0%\) of source.path '.*log.csv' are rejected: no user_id: 1 \(for "
        r"example "
        r'\{"item":"i","time":"2024-03-01"\} in file:/.*/log.csv: no user_id\); .*Nothing has '
        r"changed$"
    )
    with pytest.raises(PipelineError, match=refused):
        take_in(pipeline, delivery)
    assert [row["user_id"] for row in lake.read("events").collect()] == ["u"]

    def failing(*_: object) -> None:
        raise OSError("files were vacuumed")

    monkeypatch.setattr(Lake, "restore", failing)
    both = (
        r"1 of 2 rows \(50.0%\) .*Nothing has changed but .*events, which cannot be put back "
        r"to its version 2: files were vacuumed; no"
    )
    with pytest.raises(PipelineError, match=both):
        take_in(pipeline, delivery)
    with pytest.raises(PipelineError, match="run preprocess without --date once"):
        ingest(pipeline, "nothing")
