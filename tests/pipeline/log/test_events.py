"""Reading logs: formats, times, rows that are no events, and the messages of a wrong
configuration."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import Source, Time
from pipeline.errors import PipelineError
from pipeline.log.events import flaw_names, map_events, mapped_fields, rejected_rows
from pipeline.log.readers import read_rows
from pipeline.log.source_paths import check_items, check_log, resolve
from pipeline.log.times import to_timestamp

HEADER = "user,item,time,kind"


def source(path: Path | str, **changes: Any) -> Source:
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"} | changes.pop(
        "columns", {}
    )
    return Source.model_validate({"path": str(path), "format": "csv", "columns": columns} | changes)


def write_csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_row_without_user_item_or_time_is_set_aside_with_the_reason(
    spark: SparkSession, tmp_path: Path
) -> None:
    log = source(
        write_csv(
            tmp_path / "log.csv",
            "u1,i1,2024-03-01 10:00:00,view",
            ",i1,2024-03-01 10:00:00,view",
            "u1,,2024-03-01 10:00:00,view",
            "u1,i1,,view",
            "u1,i1,31 February,view",
        )
    )
    mapped = map_events(read_rows(spark, log), log)
    assert [
        tuple(row) for row in mapped_fields(mapped).where("reason IS NULL").drop("reason").collect()
    ] == [("u1", "i1", datetime(2024, 3, 1, 10), datetime(2024, 3, 1).date())]
    found = {row["reason"]: row for row in rejected_rows(mapped).collect()}
    assert set(found) == {"no user_id", "no item_id", "no timestamp", "unreadable timestamp"}
    assert (
        found["unreadable timestamp"]["row"]
        == '{"user":"u1","item":"i1","time":"31 February","kind":"view"}'
    )
    assert found["no user_id"]["source_file"].endswith("log.csv")


def test_a_date_alone_names_no_zone(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("2024-03-02",)], "time string")
    (row,) = frame.select(
        to_timestamp(F.col("time"), "string", Time(zone="Asia/Tokyo")).alias("time")
    ).collect()
    assert row["time"] == datetime(2024, 3, 1, 15)


def test_a_number_that_cannot_be_read_is_unknown_and_counted(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = write_csv(
        tmp_path / "log.csv", "u1,i1,2024-03-01,four", "u1,i2,2024-03-01,4.0", "u1,i3,2024-03-01,"
    )
    log = source(path, columns={"value": "kind"})
    rows = (
        map_events(read_rows(spark, log), log)
        .orderBy("item_id")
        .select("value", "reason", "flaw")
        .collect()
    )
    assert [tuple(row) for row in rows] == [
        (None, None, "unreadable value"),
        (4.0, None, None),
        (None, None, None),
    ]
    assert flaw_names(log) == ["unreadable value"]


def test_columns_may_have_any_name(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user.id,a`b,source_file,time\nu,i,x,\n", encoding="utf-8")
    log = source(tmp_path / "log.csv", columns={"user_id": "`user.id`", "item_id": "`a``b`"})
    (row,) = rejected_rows(map_events(read_rows(spark, log), log)).collect()
    assert row["row"] == '{"user.id":"u","a`b":"i","source_file":"x"}'


def test_ids_are_strings_kept_as_written(spark: SparkSession, tmp_path: Path) -> None:
    log = source(
        write_csv(
            tmp_path / "log.csv",
            '007,"a, ""b""",2024-03-01 10:00:00,view',
            " U,é😀,2024-03-01 10:00:00,view",
        )
    )
    rows = map_events(read_rows(spark, log), log).select("user_id", "item_id").collect()
    assert [tuple(row) for row in rows] == [("007", 'a, "b"'), (" U", "é😀")]


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("2024-03-01 10:00:00.123", Time()),
        ("2024-03-01 10:00:00.123 UTC", Time()),
        ("2024-03-01T11:00:00.123+01:00", Time()),
        ("2024-03-01 19:00:00.123", Time(zone="Asia/Tokyo")),
        ("2024-03-01T10:00:00.123Z", Time(zone="Asia/Tokyo")),
        ("2024-03-01 10:00:00.123 Europe/London", Time(zone="Asia/Tokyo")),
        (
            "03/01/2024 07:00:00.123 PM",
            Time(unit="pattern", pattern="MM/dd/yyyy hh:mm:ss.SSS a", zone="Asia/Tokyo"),
        ),
        ("10:00:00.123 01-03-2024", Time(unit="pattern", pattern="HH:mm:ss.SSS dd-MM-yyyy")),
        (
            "11:00:00.123+0100 2024-03-01",
            Time(unit="pattern", pattern="HH:mm:ss.SSSZ yyyy-MM-dd", zone="Asia/Tokyo"),
        ),
        ("1709287200.123", Time(unit="seconds")),
        ("1709287200123", Time(unit="milliseconds")),
        ("1709287200123000", Time(unit="microseconds")),
        ("01/03/2024 10h00m00s123", Time(unit="pattern", pattern="dd/MM/yyyy HH'h'mm'm'ss's'SSS")),
    ],
)
def test_times_in_every_unit_are_the_same_moment(
    spark: SparkSession, written: str, time: Time
) -> None:
    frame = spark.createDataFrame([(written,)], "time string")
    (row,) = frame.select(to_timestamp(F.col("time"), "string", time).alias("time")).collect()
    assert row["time"] == datetime(2024, 3, 1, 10, 0, 0, 123000)


@pytest.mark.parametrize("format_", ["json", "parquet", "delta"])
def test_other_formats_read_alike(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    frame = spark.createDataFrame([(1, 2, 1709287200123)], "user long, item long, time long")
    frame.write.format(format_).save(str(tmp_path / "log"))
    log = source(tmp_path / "log", format=format_, time={"unit": "milliseconds"})
    rows = mapped_fields(map_events(read_rows(spark, log), log)).collect()
    assert [tuple(row) for row in rows] == [
        ("1", "2", datetime(2024, 3, 1, 10, 0, 0, 123000), datetime(2024, 3, 1).date(), None)
    ]


def test_a_wrong_column_is_named_with_its_option_and_the_columns_there_are(
    spark: SparkSession, tmp_path: Path
) -> None:
    log = source(write_csv(tmp_path / "log.csv"), columns={"item_id": "itm"})
    with pytest.raises(
        PipelineError,
        match=r"source\.columns\.item_id = 'itm'.*log\.csv.*columns are: user, item, time, kind",
    ):
        map_events(read_rows(spark, log), log)


def test_a_missing_file_is_named_with_its_option(tmp_path: Path) -> None:
    log = source(write_csv(tmp_path / "log.csv"))
    check_log(log)
    check_items(log)
    with pytest.raises(PipelineError, match=r"source\.path: there is no file '.*other\.csv'"):
        check_log(source(tmp_path / "other.csv"))
    table = {"path": str(tmp_path / "items.csv"), "format": "csv", "item_id": "item"}
    with pytest.raises(PipelineError, match=r"source\.items\[0\]\.path: there is no file"):
        check_items(source(tmp_path / "log.csv", items=[table]))


def test_a_store_that_nobody_knows_is_named_with_its_option() -> None:
    for path in ("s4a://bucket/log", "${NOT_SET:-s4a:/}/bucket"):
        with pytest.raises(
            PipelineError,
            match=r"source\.path: 's4a:/.*no file system for 's4a:'; did you mean 's3a'\?",
        ):
            check_log(source(path))
    for path in ("s3a://bucket/log", "HDFS://host/log", "oss://bucket/log"):
        check_log(source(path))


def test_no_character_of_a_path_stands_for_another(spark: SparkSession, tmp_path: Path) -> None:
    """Not in a URI either: what is looked for before Spark starts is what Spark then reads."""
    for name in ("a b", "a%20c"):
        write_csv(tmp_path / f"{name}.csv", f"{name},i,2024-03-01,view")
    for name in ("a b", "a%20c"):
        for path in (
            f"{tmp_path}/{name}.csv",
            f"file://{tmp_path}/{name}.csv",
            f"file:{tmp_path}/{name}.csv",
        ):
            check_log(source(path))
            assert [row["user"] for row in read_rows(spark, source(path)).collect()] == [name]
    for name in ("a%20b", "a c"):
        for look in (check_log, lambda log: read_rows(spark, log)):
            with pytest.raises(PipelineError, match="there is no file"):
                look(source(f"file://{tmp_path}/{name}.csv"))


def test_paths_may_name_variables_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGS", "there")
    monkeypatch.delenv("ELSE", raising=False)
    assert resolve("${LOGS}/a") == resolve("${LOGS:-here}/a") == "there/a"
    assert resolve("${ELSE:-here}/a") == "here/a"
    with pytest.raises(PipelineError, match="ELSE, which is not set"):
        resolve("${ELSE}/a")
    assert resolve("package:pipeline/lake.py") == str(
        Path(resolve("package:pipeline/spark.py")).parent / "lake.py"
    )
    with pytest.raises(PipelineError, match="'no_such_package' is not installed"):
        resolve("package:no_such_package/a")
