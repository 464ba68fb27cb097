"""Which rows a day's delivery holds, and which delivery a row came with."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from pipeline.batches import batch, check_days, day_pattern, source_of
from pipeline.config import Source
from pipeline.readers import SOURCE_FILE, read
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


BY_PATH = [
    # path, URI of a file of DAY there
    ("/a/logs/{date}.csv", "file:///a/logs/2024-12-31.csv"),
    ("/a b/{date:%Y/%m/%d}/*", "file:/a%20b/2024/12/31/part-0"),
    ("/x/dt={date:%Y%m%d}*/{p,q{r,s}}", "file:/x/dt=20241231_late/qs"),
    ("/z/{date:year=%Y/month=%m/day=%d}", "file:/z/year=2024/month=12/day=31/hour=3/part-0"),
    ("/y/[!ab]-{date}.gz", "file:/y/c-2024-12-31.gz"),
    ("/exports/2024-06-01/clicks/{date}/*.csv", "file:/exports/2024-06-01/clicks/2024-12-31/1.csv"),
    ("/mnt/20230101/log/{date:%Y%m%d}/*", "file:///mnt/20230101/log/20241231/1.csv"),
    ("/clicks-${REGION}-{date}.csv", "file:/clicks-eu-2024-12-31.csv"),
    ("${date:-/logs}/{date}.csv", "file:/logs/2024-12-31.csv"),
    ("/données 100%+/{date}/*", "file:/données%20100%25+/2024-12-31/1.csv"),
    ("logs//{date}/*.csv", f"file:{Path.cwd()}/logs/2024-12-31/1.csv"),
    ("../{date}", f"file:{Path.cwd().parent}/2024-12-31/in/a/folder.csv"),
    (r"/a\*b/{date}", "file:/a*b/2024-12-31"),
]


def days(raw: DataFrame, source: Source, day: date | None = None) -> list[date | None]:
    return [row[0] for row in raw.select(batch(raw, source, day)).collect()]


def test_a_file_tells_its_delivery_by_the_whole_path(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION", "eu")
    for path, file in BY_PATH:
        assert days(spark.createDataFrame([(file,)], f"{SOURCE_FILE} string"), source(path)) == [DAY], path


@pytest.mark.parametrize(
    ("path", "file", "told"),
    [
        ("s3a://b/logs/day/*", "s3a://b/logs/2024-12-31/1.csv", True),
        ("s3a://b/logs/day/*", "s3a://b/2024-12-31/logs/2024-12-31/1.csv", False),
        ("file:/logs/day.csv", "file:/logs/2024-12-31xcsv", False),
        ("file:/logs/day.csv", "file:/logs/2024-02-30.csv", False),
        ("file:/logs/*/day", "file:/logs/a/b/2024-12-31", False),
    ],
)
def test_a_file_that_tells_no_day_is_named(path: str, file: str, told: bool) -> None:
    pattern = day_pattern(path.replace("day", "m2grl-day"), "%Y-%m-%d")
    if told:
        check_days([file], pattern, "%Y-%m-%d", path)
        return
    with pytest.raises(PipelineError, match=f"the file '{file}' does not tell its day by source.path"):
        check_days([file], pattern, "%Y-%m-%d", path)


def test_files_of_days_and_one_of_none(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("2024-12-30", "2024-12-31"):
        folder = tmp_path / "2024-06-01 é" / name
        folder.mkdir(parents=True)
        (folder / "1.csv").write_text("u,i,t\nu,i,2024-12-29\n", encoding="utf-8")
    log = source(f"{tmp_path}/2024-06-01 é/{{date}}")
    assert set(days(read(spark, source_of(log, None)), log)) == {DAY, date(2024, 12, 30)}
    folder.rename(folder.with_name("a-part-of-it"))
    with pytest.raises(PipelineError, match=r"the file 'file:/.*/2024-06-01 é/a-part-of-it/1\.csv' does not tell its day"):
        days(read(spark, source_of(log, None)), log)


def test_a_column_tells_the_delivery(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("2024-12-31", "f"), ("soon", "f"), (None, "f")], f"dt string, {SOURCE_FILE} string")
    assert days(rows, source("t", day="dt")) == [DAY, None, None]
    assert days(rows, source("t", day="dt"), DAY) == [DAY] * 3
