"""A log that is refused."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.config import PipelineConfig
from pipeline.intake import Intake
from pipeline.lake import Lake
from pipeline.spark import PipelineError


def test_what_was_refused_is_told_even_where_the_events_cannot_be_put_back(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.csv"
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    source = {"path": str(log), "format": "csv", "columns": columns}
    config = PipelineConfig.model_validate({"name": "shop", "source": source, "views": {"item": {}}})
    lake = Lake(spark, tmp_path / "lake")
    log.write_text("user,item,time\nu,i,2024-03-01\n", encoding="utf-8")
    Intake(spark, config, lake, "all").take_in()
    log.write_text("user,item,time\nv,i,2024-03-01\n,i,2024-03-01\n", encoding="utf-8")
    intake = Intake(spark, config, lake, "all")
    with pytest.raises(PipelineError, match=r"1 of 2 rows \(50.0%\) .*Nothing has changed$"):
        intake.take_in()
    assert [row["user_id"] for row in lake.read("events").collect()] == ["u"]

    def failing(*_: object) -> None:
        raise OSError("files were vacuumed")

    monkeypatch.setattr(Lake, "restore", failing)
    both = r"1 of 2 rows \(50.0%\) .*Nothing has changed but .*events, which cannot be put back to its version 2: files were vacuumed; no"
    with pytest.raises(PipelineError, match=both):
        intake.take_in()
    with pytest.raises(PipelineError, match="run preprocess without --date once"):
        Intake(spark, config, lake, "nothing").take_in()
