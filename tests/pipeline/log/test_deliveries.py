"""Which rows a day's delivery holds, and which delivery a row came with."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from pipeline.config import PipelineConfig, Source
from pipeline.errors import PipelineError
from pipeline.lake import Lake
from pipeline.log.deliveries import (
    check_days,
    check_files,
    day_pattern,
    delivery_of,
    mapped,
    source_of,
)
from pipeline.log.readers import SOURCE_FILE, read_rows
from pipeline.runs.ingest import open_delivery
from pipeline.storage.files import remove_folder
from tests.pipeline.deliveries import ingest, over

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


def test_a_day_cannot_be_told() -> None:
    with pytest.raises(
        PipelineError, match=r"--date needs a log that says .* \{date\} into source.path"
    ):
        source_of(source("logs/*.csv"), DAY)


@pytest.mark.parametrize(
    "settings",
    [{"path": "{date}/{date}"}, {"path": "{date}", "day": "dt"}, {"path": "{date:%Y-%m}"}],
)
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
    return [row[0] for row in raw.select(delivery_of(raw, source, day)).collect()]


def test_a_file_tells_its_delivery_by_the_whole_path(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGION", "eu")
    for path, file in BY_PATH:
        assert days(spark.createDataFrame([(file,)], f"{SOURCE_FILE} string"), source(path)) == [
            DAY
        ], path


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
    with pytest.raises(
        PipelineError, match=f"the file '{file}' does not tell its day by source.path"
    ):
        check_days([file], pattern, "%Y-%m-%d", path)


def test_files_of_days_and_one_of_none(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("2024-12-30", "2024-12-31"):
        folder = tmp_path / "2024-06-01 é" / name
        folder.mkdir(parents=True)
        (folder / "1.csv").write_text("u,i,t\nu,i,2024-12-29\n", encoding="utf-8")
    log = source(f"{tmp_path}/2024-06-01 é/{{date}}")
    assert set(days(read_rows(spark, source_of(log, None)), log)) == {DAY, date(2024, 12, 30)}
    folder.rename(folder.with_name("a-part-of-it"))
    with pytest.raises(
        PipelineError,
        match=r"the file 'file:/.*/2024-06-01 é/a-part-of-it/1\.csv' does not tell its day",
    ):
        days(read_rows(spark, source_of(log, None)), log)


def test_a_column_tells_the_delivery(spark: SparkSession, tmp_path: Path) -> None:
    rows = [
        "2024-12-31,u,i,2024-12-30",
        "soon,u,i,2024-12-30",
        ",u,i,2024-12-30",
        "2024-12-30,u",
        "soon,u",
    ]
    (tmp_path / "log.csv").write_text("\n".join(["dt,u,i,t", *rows]) + "\n", encoding="utf-8")
    log = source(f"{tmp_path}/log.csv", day="dt", where="u = 'u'")
    assert [row["batch"] for row in mapped(spark, log, None).collect()] == [
        DAY,
        None,
        None,
        date(2024, 12, 30),
        None,
    ]
    # A malformed row that tells no day may be of any.
    found = mapped(spark, log, DAY).select("batch", "reason").collect()
    assert [tuple(row) for row in found] == [(DAY, None), (DAY, "malformed row")]


@pytest.mark.parametrize("day", [None, DAY])
def test_a_column_of_days_that_is_no_date(
    spark: SparkSession, tmp_path: Path, day: date | None
) -> None:
    folder = tmp_path / "dt=20241231"
    folder.mkdir()
    (folder / "log.csv").write_text("u,i,t\nu,i,2024-12-30\n", encoding="utf-8")
    with pytest.raises(
        PipelineError,
        match=(
            r"source\.day = 'dt' is a int, no date; make it one, such as to_date\(CAST\(dt AS "
            r"STRING\)"
        ),
    ):
        mapped(spark, source(str(tmp_path), day="dt"), day)
    log = source(str(tmp_path), day="to_date(CAST(dt AS STRING), 'yyyyMMdd')")
    assert [row["batch"] for row in mapped(spark, log, day).collect()] == [DAY]


@pytest.mark.parametrize("form", ["csv", "json"])
def test_days_that_lack_a_column_are_the_log_at_once(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    rows = {
        date(2024, 12, 30): [{"stay": "5", "kind": "view"}, {"stay": "-"}],
        DAY: [{"shop": "s"}],
        date(2025, 1, 1): [{"kind": "cart"}],
    }
    for day, each in rows.items():
        names = ["u", "i", "t", *dict.fromkeys(name for row in each for name in row)]
        full = [
            {"u": "u", "i": f"i{number}", "t": str(day)} | row for number, row in enumerate(each)
        ]
        lines = [json.dumps(row) for row in full]
        if form == "csv":
            lines = [
                ",".join(names),
                *(",".join(row.get(name, "") for name in names) for row in full),
            ]
        (tmp_path / f"{day}.{form}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = {
        "user_id": "u",
        "item_id": "i",
        "timestamp": "t",
        "stay_seconds": "stay",
        "event_type": "kind",
        "app_open": "app.opened",
    }
    attributes = {"shop": "coalesce(shop, 'none')"}
    settings = project(
        {
            "path": f"{tmp_path}/{{date}}.{form}",
            "format": form,
            "columns": columns,
            "attributes": attributes,
        }
    )
    for day in rows:
        ingest(over(spark, settings, Lake(spark, tmp_path / "daily")), day)
    said = capsys.readouterr().out
    assert (
        "what 2024-12-31 brought has no column stay (source.columns.stay_seconds = 'stay'): it "
        "is unknown there"
    ) in said
    assert len(re.findall("has no column", said)) == 2 + 3 + 3
    with pytest.raises(
        PipelineError, match=r"source\.columns\.app_open = 'app\.opened' cannot be read"
    ):
        open_delivery(over(spark, settings, Lake(spark, tmp_path / "once")), "all")
    # A day of no rows whose file has the column; a folder in JSON is a name with a point in CSV.
    (tmp_path / f"2025-01-02.{form}").write_text(
        "u,i,t,app.opened\n" if form == "csv" else '{"app": {"opened": "2025-01-02"}}\n'
    )
    of_csv = {"app_open": "`app.opened`"} if form == "csv" else {}
    once = project(
        settings.source.model_dump() | {"max_rejected_share": 0.5, "columns": columns | of_csv}
    )
    ingest(over(spark, once, Lake(spark, tmp_path / "once")), "all")
    found = [
        sorted(map(str, Lake(spark, tmp_path / name).read("events").collect()))
        for name in ("daily", "once")
    ]
    assert found[0] == found[1]


def test_a_day_without_rows_takes_no_events_away(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, settings = Lake(spark, tmp_path / "lake"), project({"path": f"{tmp_path}/{{date}}.csv"})
    for day, text in (
        (DAY, "u,i,t\nu,i,2024-12-31\nu,i,2024-12-30\n"),
        (date(2025, 1, 1), "u,i,t\n"),
        (date(2025, 1, 2), ""),
    ):
        (tmp_path / f"{day}.csv").write_text(text, encoding="utf-8")
        ingest(over(spark, settings, lake), day)
    said = capsys.readouterr().out
    assert [
        f"{tmp_path}/{day}.csv holds no row of {day}" in said
        for day in (DAY, "2025-01-01", "2025-01-02")
    ] == [False, True, True]
    for text in ("u,i,t\n", ""):
        (tmp_path / f"{DAY}.csv").write_text(text, encoding="utf-8")
        with pytest.raises(
            PipelineError,
            match=(
                r"holds no row of 2024-12-31, of which the lake has 2 events; .* add "
                r"--empty-day if"
            ),
        ):
            ingest(over(spark, settings, lake), DAY)
    assert lake.read("events").count() == 2
    ingest(over(spark, settings, lake), DAY, may_be_empty=True)
    assert f"{DAY}.csv holds no row of {DAY}; its 2 events go" in capsys.readouterr().out
    assert lake.read("events").isEmpty()
    assert lake.changed("events", 0) == ["2024-12-31"]


@pytest.mark.parametrize("path", ["{date}", "{date}/*", "{date}/*.csv", "{date}.csv"])
def test_an_empty_day_needs_no_file(spark: SparkSession, tmp_path: Path, path: str) -> None:
    """Its folder or file is absent, or the folder holds only a mark that it is whole."""
    lake, settings = Lake(spark, tmp_path / "lake"), project({"path": f"{tmp_path}/{path}"})
    file = tmp_path / (f"{DAY}.csv" if path.endswith("}.csv") else f"{DAY}/1.csv")
    file.parent.mkdir(exist_ok=True)
    file.write_text("u,i,t\nu,i,2024-12-31\n", encoding="utf-8")
    ingest(over(spark, settings, lake), DAY)
    file.unlink()
    for marked in (True, False) if file.parent != tmp_path else (False,):
        if marked:
            (file.parent / "_SUCCESS").touch()
        elif file.parent != tmp_path:
            remove_folder(file.parent)
        for look in (
            lambda: check_files(settings.source, DAY),
            lambda: open_delivery(over(spark, settings, lake), DAY),
        ):
            with pytest.raises(
                PipelineError,
                match=(
                    r"(there is no|holds no) file.*, or add --empty-day if 2024-12-31 brought "
                    r"nothing"
                ),
            ):
                look()
        check_files(settings.source, DAY, may_be_empty=True)
        ingest(over(spark, settings, lake), DAY, may_be_empty=True)
        assert lake.read("events").isEmpty()


def test_an_empty_day_needs_no_delta_table(spark: SparkSession, tmp_path: Path) -> None:
    """The folder of the day is absent, or holds only a mark that it is whole; one of other files is
    no empty day."""
    lake, settings = (
        Lake(spark, tmp_path / "lake"),
        project({"path": f"{tmp_path}/{{date}}", "format": "delta"}),
    )
    folder = tmp_path / str(DAY)
    spark.sql("SELECT 'u' AS u, 'i' AS i, TIMESTAMP '2024-12-31' AS t").write.format("delta").save(
        str(folder)
    )
    ingest(over(spark, settings, lake), DAY)
    assert lake.read("events").count() == 1
    remove_folder(folder)
    for marked in (False, True):
        if marked:
            folder.mkdir()
            (folder / "_SUCCESS").touch()
        for look in (
            lambda: check_files(settings.source, DAY),
            lambda: open_delivery(over(spark, settings, lake), DAY),
        ):
            with pytest.raises(
                PipelineError,
                match=(
                    r"(there is no|holds no) file.*, or add --empty-day if 2024-12-31 brought "
                    r"nothing"
                ),
            ):
                look()
        check_files(settings.source, DAY, may_be_empty=True)
        ingest(over(spark, settings, lake), DAY, may_be_empty=True)
        assert lake.read("events").isEmpty()
    (folder / "part.parquet").write_text("no table", encoding="utf-8")
    with pytest.raises(PipelineError, match=rf"'{folder}' cannot be read as delta"):
        open_delivery(over(spark, settings, lake), DAY, may_be_empty=True)


def test_only_the_files_of_a_day_may_be_absent(spark: SparkSession, tmp_path: Path) -> None:
    """Not those of a log whose column tells the day, nor those of the first day, of whose columns
    nobody knows."""
    for log in ({"path": f"{tmp_path}/log", "day": "d"}, {"path": f"{tmp_path}/{{date}}"}):
        with pytest.raises(PipelineError, match="there is no file"):
            open_delivery(
                over(spark, project(log), Lake(spark, tmp_path / "lake")), DAY, may_be_empty=True
            )
    with pytest.raises(PipelineError, match="there is no file") as absent:
        check_files(project({"path": f"{tmp_path}/log", "day": "d"}).source, DAY, may_be_empty=True)
    assert "--empty-day" not in str(absent.value)


def project(log: dict[str, Any]) -> PipelineConfig:
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t"}
    clean = {"stay": "given" if "stay_seconds" in log.get("columns", {}) else "absent"}
    return PipelineConfig.model_validate(
        {
            "name": "x",
            "source": {"format": "csv", "columns": columns} | log,
            "clean": clean,
            "views": {"item": {}},
        }
    )
