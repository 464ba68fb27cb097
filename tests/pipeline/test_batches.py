"""Which rows a day's delivery holds, and which delivery a row came with."""

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from pipeline.batches import batch, source_of
from pipeline.config import Source
from pipeline.readers import SOURCE_FILE
from pipeline.spark import PipelineError

DAY = date(2024, 12, 31)


def source(path: str, **settings: Any) -> Source:
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t"}
    return Source.model_validate({"path": path, "format": "csv", "columns": columns} | settings)


@pytest.mark.parametrize(
    ("path", "of_day", "of_all"),
    [
        ("logs/{date}.csv", "logs/2024-12-31.csv", "logs/*-*-*.csv"),
        ("s3a://b/{date:%Y/%m/%d}/*", "s3a://b/2024/12/31/*", "s3a://b/*/*/*/*"),
        ("logs/dt={date:%Y%m%d}/{a,b}", "logs/dt=20241231/{a,b}", "logs/dt=***/{a,b}"),
    ],
)
def test_a_day_has_a_path(path: str, of_day: str, of_all: str) -> None:
    assert source_of(source(path), DAY).path == of_day
    assert source_of(source(path), None).path == of_all


def test_a_day_has_a_condition() -> None:
    assert source_of(source("t", day="dt"), DAY).where == "(dt) = DATE'2024-12-31'"
    assert source_of(source("t", day="dt", where="a OR b"), DAY).where == "(dt) = DATE'2024-12-31' AND (a OR b)"
    assert source_of(source("t", day="dt", where="a OR b"), None).where == "a OR b"


def test_a_day_cannot_be_told() -> None:
    with pytest.raises(PipelineError, match=r"--date needs a log that says .* \{date\} into source.path"):
        source_of(source("logs/*.csv"), DAY)


@pytest.mark.parametrize("settings", [{"path": "{date}/{date}"}, {"path": "{date}", "day": "dt"}, {"path": "{date:%Y-%m}"}])
def test_a_day_told_twice_or_in_part(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"is told once|must hold %Y, %m and %d"):
        source(**settings)


def test_a_row_knows_its_delivery(spark: SparkSession) -> None:
    files = {
        "logs/{date}.csv": "file:///a/logs/2024-12-31.csv",
        "a b/{date:%Y/%m/%d}/*": "s3a://bucket/a%20b/2024/12/31/part-0",
        "x/dt={date:%Y%m%d}*/{p,q}": "file:/x/dt=20241231_late/p",
        "z/{date:year=%Y/month=%m/day=%d}": "file:/z/year=2024/month=12/day=31/part-0",
        "y/[ab]-{date}.gz": "file:/y/b-2024-12-31.gz",
    }
    others = {"logs/{date}.csv": "file:///logs/2024-13-31.csv", "x/{date}/*": "file:/x/y/today"}
    for path, file in files.items():
        raw = spark.createDataFrame([(file,)], f"{SOURCE_FILE} string")
        assert [row[0] for row in raw.select(batch(raw, source(path), None)).collect()] == [DAY], path
    for path, file in others.items():
        raw = spark.createDataFrame([(file,)], f"{SOURCE_FILE} string")
        assert [row[0] for row in raw.select(batch(raw, source(path), None)).collect()] == [None], path
    rows = spark.createDataFrame([("2024-12-31", "f"), ("soon", "f"), (None, "f")], f"dt string, {SOURCE_FILE} string")
    assert [row[0] for row in rows.select(batch(rows, source("t", day="dt"), None)).collect()] == [DAY, None, None]
    assert [row[0] for row in rows.select(batch(rows, source("t", day="dt"), DAY)).collect()] == [DAY] * 3
