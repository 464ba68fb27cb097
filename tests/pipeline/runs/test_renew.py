"""Events whose past is gone."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.lake import Lake, Note
from tests.pipeline.deliveries import ingest_and_renew, over
from tests.pipeline.runs.test_ingest import settings


def test_clicks_are_made_anew_where_the_events_they_came_from_were_vacuumed(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, log = Lake(spark, tmp_path / "lake"), tmp_path / "log.csv"
    config = settings(log)
    log.write_text("user,item,time\nu,i,2024-03-01\nv,i,2024-03-02\n", encoding="utf-8")
    ingest_and_renew(over(spark, config, lake), "all")
    rows = lake.read("events").where("user_id = 'v'")
    lake.write("events", rows, (), "user_id IS NOT NULL", Note(changed=("2024-03-01",)))
    lake.vacuum("events", 0)
    clicks = ingest_and_renew(over(spark, config, lake), "nothing")
    assert "were vacuumed: all of it is made anew" in capsys.readouterr().out
    assert [row["user_id"] for row in clicks.frame.collect()] == ["v"]
