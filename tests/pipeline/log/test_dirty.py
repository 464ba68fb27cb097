"""Dirty and hostile logs: every raw row is an event or a reject with its reason, and no good row is
lost.

Each log is read once; counts come from Python's own csv and json.
"""

import csv
import gzip
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from jobs.common.config import DEFAULT, Project, load
from pipeline.config import PipelineConfig, Source, Time
from pipeline.errors import PipelineError
from pipeline.graphs import views
from pipeline.graphs.edges import item_links
from pipeline.log import item_tables
from pipeline.log.app_events import with_app_times
from pipeline.log.columns import as_text, type_of
from pipeline.log.events import UNCLOSED, map_events, mapped_fields, rejected_rows
from pipeline.log.headers import broken_file
from pipeline.log.readers import read_rows
from pipeline.log.source_paths import check_items, check_log
from pipeline.log.times import to_timestamp
from tests.pipeline.frames import at, click_frame

NOW = datetime(2024, 6, 1, tzinfo=UTC)
TIME = "2024-03-01 10:00:00"
LONG = "x" * 70_000
GOOD_IDS = [
    " u ",
    "a,b",
    'say "hi"',
    "é😀",
    "007",
    "7",
    "Case",
    "case",
    "9007199254740993",
    "266079.0",
    "NULL",
    "\\N",
    "a\\b",
    "-1",
    "tab\tid",
    LONG,
]
"""Users that are all different, and stay as they are written."""
REASONS = {
    # row as written -> reason
    f",i,{TIME},1,n": "no user_id",
    f"   ,i,{TIME},1,n": "no user_id",
    f'u,"",{TIME},1,n': "no item_id",
    "u,i,,1,n": "no timestamp",
    "u,i,31 February,1,n": "unreadable timestamp",
    "u,i,2023-02-29 10:00:00,1,n": "unreadable timestamp",
    "u,i,10:00:00,1,n": "unreadable timestamp",
    "u,i,1970-01-01 00:00:00,1,n": "timestamp out of range",
    "u,i,2025-03-01 10:00:00,1,n": "timestamp out of range",
    "u,i,+294247-01-10 04:00:54,1,n": "timestamp out of range",
    f"u,i,{TIME},1": "malformed row",
    f"u,i,{TIME},1,n,more,": "malformed row",
    f'u,i,{TIME},1,"n': "kept",
    f'u,"i,{TIME},1,n': UNCLOSED,
    "just some text": "malformed row",
}
OUT_OF_RANGE, UNREADABLE = "stay_seconds out of range", "unreadable stay_seconds"
FLAWS = {
    "-1": OUT_OF_RANGE,
    "1e9": OUT_OF_RANGE,
    "-": UNREADABLE,
    "NULL": UNREADABLE,
    "NaN": None,
    "": None,
    "2.5": None,
    "86400": None,
}
"""Stay as written -> flaw."""


def log(path: Path | str, format_: str = "csv", **changes: Any) -> Source:
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"} | changes.pop(
        "columns", {}
    )
    return Source.model_validate(
        {"path": str(path), "format": format_, "columns": columns} | changes
    )


def collected(spark: SparkSession, source: Source) -> list[Row]:
    return map_events(read_rows(spark, source), source, NOW).collect()


def csv_line(*fields: str) -> str:
    return ",".join('"' + field.replace('"', '""') + '"' for field in fields)


def csv_rows(path: Path) -> int:
    """Rows below the header, one a line."""
    return (
        sum(
            1
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
            if next(csv.reader([line]), None)
        )
        - 1
    )


@dataclass
class Read:
    """A folder of files and what was read from it."""

    folder: Path
    rows: list[Row]

    def of(self, name: str) -> list[Row]:
        return [row for row in self.rows if row["m2grl_source_file"].endswith(name)]


@pytest.fixture(scope="module")
def of_csv(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Read:
    """One log of files that differ in their columns, their order, their line ends, and in what is
    wrong with them."""
    folder = tmp_path_factory.mktemp("csv")
    header = "user,item,time,stay,note"
    good = [csv_line(user, "i", TIME, "1", "n") for user in GOOD_IDS]
    (folder / "good.csv").write_text(
        "\n".join([header, *good, "", good[0]]) + "\n", encoding="utf-8"
    )
    (folder / "bad.csv").write_text("\n".join([header, *REASONS]), encoding="utf-8")
    (folder / "stays.csv").write_text(
        "\n".join([header, *(f"u,i,{TIME},{stay},n" for stay in FLAWS)]), encoding="utf-8"
    )
    (folder / "other order.csv").write_text(
        f"note,time,item,user,stay\nn,{TIME},item,user,3\n", encoding="utf-8"
    )
    (folder / "added, with a mark.csv").write_bytes(
        b"\xef\xbb\xbf" + f"user,item,time,stay,note,k e.y\r\nu,i,{TIME},1,n,v\r\n".encode()
    )
    (folder / "without stay.csv").write_text(
        f"item,user,time,note\ni,u,{TIME},n\n", encoding="utf-8"
    )
    (folder / "latin-1.csv").write_bytes(
        f"{header}\ncaf\xe9,i,{TIME},1,n\nu,caf\xe9,{TIME},1,n\nu,i,{TIME},1,caf\xe9\n".encode(
            "latin-1"
        )
    )
    (folder / "only a header.csv").write_text(header + "\n", encoding="utf-8")
    (folder / "empty.csv").write_bytes(b"")
    (folder / "packed.csv.gz").write_bytes(gzip.compress(f"{header}\nu,i,{TIME},1,n\n".encode()))
    source = log(
        folder,
        columns={"stay_seconds": "stay"},
        attributes={"key": "k e.y"},
        time={"zone": "America/New_York"},
    )
    return Read(folder, collected(spark, source))


def test_every_csv_row_is_an_event_or_a_reject(of_csv: Read) -> None:
    read_from = Counter(
        Path(row["m2grl_source_file"]).name.replace("%20", " ") for row in of_csv.rows
    )
    written = {
        path.name: csv_rows(path) for path in of_csv.folder.glob("*.csv") if path.stat().st_size
    }
    assert read_from == {
        name: rows for name, rows in (written | {"packed.csv.gz": 1}).items() if rows
    }
    assert sum(written.values()) > len(GOOD_IDS) + len(REASONS) + len(FLAWS)


def test_hostile_ids_are_kept_as_written_and_apart(of_csv: Read) -> None:
    rows = of_csv.of("good.csv")
    assert [row["user_id"] for row in rows] == [*GOOD_IDS, GOOD_IDS[0]]
    assert {row["reason"] for row in rows} == {None}
    assert len(set(GOOD_IDS)) == len(GOOD_IDS)


def test_a_bad_row_is_rejected_for_its_reason_with_its_text(of_csv: Read) -> None:
    rows = of_csv.of("bad.csv")
    assert [row["reason"] or "kept" for row in rows] == list(REASONS.values())
    for row, written in zip(rows, REASONS, strict=True):
        if (row["reason"] or "").startswith("malformed"):
            assert row["row"] == written
        else:
            names = ("user", "item", "time", "stay", "note")
            assert json.loads(row["row"]) == {
                name: value
                for name, value in zip(names, next(csv.reader([written])), strict=True)
                if value
            }


def test_a_stay_that_cannot_be_is_unknown_and_counted(of_csv: Read) -> None:
    rows = of_csv.of("stays.csv")
    assert [row["flaw"] for row in rows] == list(FLAWS.values())
    assert [row["stay_seconds"] for row in rows] == [*[None] * 6, 2.5, 86400]
    assert {row["reason"] for row in rows} == {None}


def test_columns_are_told_by_the_header_of_each_file(of_csv: Read) -> None:
    found = {
        name: of_csv.of(name)[0]
        for name in ("other%20order.csv", "mark.csv", "stay.csv", "packed.csv.gz")
    }
    assert [row["user_id"] for row in found.values()] == ["user", "u", "u", "u"]
    assert [row["item_id"] for row in found.values()] == ["item", "i", "i", "i"]
    assert [row["stay_seconds"] for row in found.values()] == [3, 1, None, 1]
    assert [row["key"] for row in found.values()] == [None, "v", None, None]
    assert {row["timestamp"] for row in found.values()} == {datetime(2024, 3, 1, 15)}
    assert {row["reason"] for row in found.values()} == {None}


def test_an_id_of_other_bytes_than_utf_8_is_rejected(of_csv: Read) -> None:
    assert [row["reason"] for row in of_csv.of("latin-1.csv")] == [
        "user_id is no UTF-8",
        "item_id is no UTF-8",
        None,
    ]


def test_fields_with_line_breaks_need_multi_line(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        f'user,item,time\r\n"a\nb",i,{TIME}\r\nu,"i\r\nj",{TIME}\r\nu,i\r\nu,i,{TIME}\r\n',
        encoding="utf-8",
        newline="",
    )
    with path.open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file))[1:]
    whole, lines = (
        map_events(read_rows(spark, source), source, NOW).select(
            "user_id", "reason", F.lit(source.option("multiLine", "false")).alias("whole")
        )
        for source in (log(path, options={"multiLine": "true"}), log(path))
    )
    rows = whole.unionByName(lines).collect()
    assert [(row["user_id"], row["reason"]) for row in rows if row["whole"] == "true"] == [
        (row[0], None if len(row) == 3 else "malformed row") for row in written
    ]
    # The second half of an id is an event of a user whom nobody knows; the reason of the first one
    # says what to do.
    found = [(row["user_id"], row["reason"]) for row in rows if row["whole"] == "false"]
    assert [reason for _, reason in found] == [
        UNCLOSED,
        None,
        UNCLOSED,
        UNCLOSED,
        "malformed row",
        None,
    ]
    assert (found[1][0], found[-1][0], "options.multiLine" in UNCLOSED) == ('b"', "u", True)


def test_an_id_may_end_in_a_quote(spark: SparkSession, tmp_path: Path) -> None:
    """As CSV writes it or, as many logs do, bare: the second half of a broken row reads the
    same."""
    path = tmp_path / "log.csv"
    path.write_text(f'user,item,time\nu,"6""",{TIME}\nu,6",{TIME}\n', encoding="utf-8")
    assert [(row["item_id"], row["reason"]) for row in collected(spark, log(path))] == [
        ('6"', None)
    ] * 2


def test_json_lines(spark: SparkSession, tmp_path: Path) -> None:
    """Numbers come as they are written, and what is no JSON object is rejected."""
    lines = [
        *(json.dumps({"user": user, "item": 5, "time": 1709287200}) for user in GOOD_IDS),
        '{"user": 9007199254740993, "item": 9007199254740993, "time": 1709287200}',
        '{"user": 1.5, "item": 0.25, "time": 1709287200.25, "kind": [1, 2], "more": {"a": 1}}',
        '{"time": 99999999999999999999999999999999, "user": "u", "item": 5}',
        '{"time": 1e400, "user": "u", "item": 5}',
        '{"time": 0, "user": "u", "item": 5}',
        '{"user": null, "item": 5, "time": 1709287200}',
        "{}",
        '{"user": "u", "item": 5, "time": 17092',
        "just some text",
        "12",
    ]
    (tmp_path / "b.json").write_bytes(
        b"\xef\xbb\xbf"
        + "\r\n".join([*lines, "", ""]).encode()
        + b'{"user": "caf\xe9", "item": 5, "time": 1709287200}'
    )
    (tmp_path / "a.json").write_bytes(b"")
    rows = collected(spark, log(tmp_path, "json", time={"unit": "seconds"}))
    assert [row["user_id"] for row in rows if row["reason"] is None] == [
        *GOOD_IDS,
        "9007199254740993",
        "1.5",
    ]
    assert [row["item_id"] for row in rows[len(GOOD_IDS) - 1 : len(GOOD_IDS) + 2]] == [
        "5",
        "9007199254740993",
        "0.25",
    ]
    assert rows[len(GOOD_IDS) + 1]["timestamp"] == datetime(2024, 3, 1, 10, 0, 0, 250_000)
    reasons = (
        ["unreadable timestamp"] * 2
        + ["timestamp out of range"]
        + ["no user_id"] * 2
        + ["malformed row"] * 4
    )
    assert [row["reason"] for row in rows if row["reason"]] == reasons
    assert len(rows) == len(lines) + 1


def test_parquet_files_of_other_columns_and_types_are_one_log(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Floats are whole numbers where they are; NaN, as pandas writes a missing id, is none."""
    time = pa.array([NOW], pa.timestamp("us", "UTC"))
    many = pa.array([datetime(2024, 3, 1)] * 5, pa.timestamp("us"))
    users = [266079.0, 1.5, float("nan"), 9.007199254740992e15, float("inf")]
    pq.write_table(
        pa.table({"user": users, "item": [1, 2, 3, 4, 5], "time": many}), tmp_path / "1.parquet"
    )
    pq.write_table(
        pa.table({"time": time, "item": ["a"], "user": ["2.66079E5"], "kind": ["x"]}),
        tmp_path / "2.parquet",
    )
    cafe = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"user": cafe, "item": ["i"], "time": time}), tmp_path / "3.parquet")
    source = log(
        tmp_path, "parquet", columns={"event_type": "kind"}, whole_numbers=True, null_ids=["4"]
    )
    rows = sorted(
        collected(spark, source), key=lambda row: (row["m2grl_source_file"], row["item_id"] or "4")
    )
    assert [row["user_id"] for row in rows[:6]] == [
        "266079",
        "1.5",
        None,
        "9007199254740992",
        None,
        "266079",
    ]
    assert [row["reason"] for row in rows] == [
        None,
        None,
        "no user_id",
        "no item_id",
        "no user_id",
        None,
        "user_id is no UTF-8",
    ]
    assert [row["event_type"] for row in rows[4:6]] == [None, "x"]
    assert rows[0]["timestamp"] == datetime(2024, 3, 1)


def test_times_of_other_types_are_the_same_moment_in_every_file(
    spark: SparkSession, tmp_path: Path
) -> None:
    """18:00 in Shanghai is 10:00 UTC."""
    local = datetime(2024, 3, 1, 18)
    times = {
        "moment": pa.array([at("10:00")], pa.timestamp("us", "UTC")),
        "of another zone": pa.array([at("10:00")], pa.timestamp("ms", "America/New_York")),
        "local": pa.array([local], pa.timestamp("us")),
        "text": [str(local)],
        "text with a zone": ["2024-03-01T11:00:00+01:00"],
    }
    for others in (["local"], ["text", "text with a zone"], ["of another zone", "local", "text"]):
        folder = tmp_path / others[0]
        folder.mkdir()
        for name in ("moment", *others):
            pq.write_table(
                pa.table({"user": ["u"], "item": ["i"], "time": times[name]}),
                folder / f"{name}.parquet",
            )
        rows = collected(spark, log(folder, "parquet", time={"zone": "Asia/Shanghai"}))
        assert [(row["timestamp"], row["reason"]) for row in rows] == [(at("10:00"), None)] * (
            1 + len(others)
        ), others


def test_whole_numbers_written_as_floats(spark: SparkSession) -> None:

    written = {
        "266079.0": "266079",
        "007.0": "007",
        "1.5": "1.5",
        "2.66079E5": "266079",
        "1.25e1": "1.25e1",
        "v1.0": "v1.0",
        "12345678901234567890.0": "12345678901234567890",
    }
    frame = spark.createDataFrame([(text,) for text in written], "id string").withColumn(
        "exact", F.expr("cast('12.00' as decimal(9,2))")
    )
    columns = [
        as_text(F.col("id"), type_of(frame, F.col("id")), whole_numbers=True),
        as_text(F.col("exact"), type_of(frame, F.col("exact"))),
    ]
    assert [tuple(row) for row in frame.select(*columns).collect()] == [
        (text, "12") for text in written.values()
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.parquet", None, r"b\.parquet' is broken or cut off: .*not a Parquet file"),
        ("b.parquet", b"", r"b\.parquet' is broken or cut off: .*not a Parquet file"),
        (
            "b.csv",
            b"user,time\nu,2024-03-01\n",
            r"columns\.item_id = 'item' cannot be read from file:/.*/b\.csv: .*are: user, time",
        ),
        ("b.csv.gz", b"no gzip", r"b\.csv\.gz' is broken or cut off: .*; copy it anew"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_before_any_work(
    spark: SparkSession, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    table = pa.table({"user": ["u"], "item": ["i"], "time": ["2024-03-01"]})
    pq.write_table(table, tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    format_ = "parquet" if name.endswith("parquet") else "csv"
    if format_ == "csv":
        (tmp_path / "a.parquet").unlink()
        (tmp_path / "a.csv").write_text("user,item,time\nu,i,2024-03-01\n", encoding="utf-8")
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(PipelineError, match=message):
        read_rows(spark, log(tmp_path, format_))


def test_a_file_found_broken_in_its_midst_is_named(spark: SparkSession, tmp_path: Path) -> None:
    rows = "".join(f"u{i},i{i * 7919 % 1000},2024-03-01\n" for i in range(20_000))
    packed = gzip.compress(f"user,item,time\n{rows}".encode())
    (tmp_path / "log.csv.gz").write_bytes(packed[: len(packed) // 2])
    source = log(tmp_path)
    with pytest.raises(Exception, match="FAILED_READ_FILE") as raised:
        rejected_rows(map_events(read_rows(spark, source), source)).collect()
    assert (
        "log.csv.gz' is broken or cut off: java.io.EOFException: Unexpected end of input "
        "stream; copy it anew"
    ) in str(broken_file(raised.value))
    assert broken_file(ValueError("anything else")) is None


def test_broken_files_are_left_out_where_that_is_asked_for(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(
        pa.table({"user": ["u"], "item": ["i"], "time": ["2024-03-01"]}), tmp_path / "a.parquet"
    )
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    assert (
        len(collected(spark, log(tmp_path, "parquet", options={"ignoreCorruptFiles": "true"}))) == 1
    )
    assert "left out: the file" in capsys.readouterr().out


def test_a_place_without_data_is_named(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / "_SUCCESS").write_bytes(b"")
    for check in (check_log, lambda source: read_rows(spark, source)):
        with pytest.raises(PipelineError, match="' holds no file with data"):
            check(log(tmp_path))
    (tmp_path / "day=1" / "a.csv").write_bytes(b"")
    with pytest.raises(PipelineError, match="is no Delta table"):
        check_log(log(tmp_path, "delta"))
    check_log(log(f"file://{tmp_path}/day={{0,1}}/*.csv"))
    with pytest.raises(PipelineError, match="holds no row: of its 1 files each is empty"):
        read_rows(spark, log(tmp_path))
    with pytest.raises(PipelineError, match="there is no file"):
        read_rows(spark, log(tmp_path / "absent"))


def test_conditions_leave_rows_out_but_no_malformed_one(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text(
        f"user,item,time,n\nu,i,{TIME},1\nu,j,{TIME},2\nu,k,{TIME}\n", encoding="utf-8"
    )
    source = log(tmp_path / "log.csv", where="n > 1")
    # Without the row's text Spark would read fewer columns, and must count the fields all the same.
    rows = mapped_fields(map_events(read_rows(spark, source), source, NOW)).collect()
    assert [(row["item_id"], row["reason"]) for row in rows] == [
        ("j", None),
        ("k", "malformed row"),
    ]
    with pytest.raises(
        PipelineError, match=r"where = 'n' of .*log\.csv is no condition but a string"
    ):
        read_rows(spark, log(tmp_path / "log.csv", where="n"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"user_id": "us er.id"}}, None),
        (
            {"columns": {"user_id": "count(item)"}},
            r"source\.columns\.user_id = 'count\(item\)' cannot be read",
        ),
        ({"columns": {"user_id": "*"}}, "it is several columns"),
        (
            {"columns": {"user_id": "array(item)"}},
            r"source\.columns\.user_id is a array<string>: name one value of it",
        ),
        (
            {"attributes": {"tag": "split(item, 'x')"}},
            r"source\.attributes\.tag is a array<string>; an array of values belongs in",
        ),
        (
            {"columns": {"timestamp": "length(time)"}},
            r"timestamp is a int: set source\.time\.unit to seconds, milli",
        ),
        (
            {"columns": {"timestamp": "now()"}, "time": {"unit": "seconds"}},
            r"timestamp is a timestamp, not a number or text as source",
        ),
        (
            {"time": {"unit": "pattern", "pattern": "YYYY-bb"}},
            r"source\.time\.pattern = 'YYYY-bb' is no datetime pattern of Spark",
        ),
    ],
)
def test_a_column_that_cannot_be_meant_is_refused(
    spark: SparkSession, changes: dict[str, Any], message: str | None
) -> None:
    frame = spark.createDataFrame(
        [("u", "i", TIME, "f")],
        "`us er.id` string, item string, time string, m2grl_source_file string",
    )
    source = log("log.csv", "parquet", **({"columns": {"user_id": "item"}} | changes))
    if message is None:
        assert map_events(frame, source).schema["user_id"].dataType.simpleString() == "string"
    else:
        with pytest.raises(PipelineError, match=message):
            map_events(frame, source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"open_types": ["open"]}, "`open_types` needs `columns.event_type`"),
        (
            {"open_types": ["o"], "event_types": ["o"], "columns": {"event_type": "k"}},
            r"\['o'\] cannot be both in `event_types` and",
        ),
        (
            {"close_types": ["c"], "columns": {"event_type": "k", "app_open": "o"}},
            "come from rows of `open_types` and `close_types` or",
        ),
        ({"attributes": {"Date": "d"}}, r"\['Date'\] must be called otherwise"),
        (
            {"attributes": {"shop": "s", "Shop": "t"}},
            "attributes: 'shop' and 'Shop' differ in case only",
        ),
        (
            {"time": {"earliest": NOW, "latest": datetime(2020, 1, 1)}},
            "no time lies between `earliest` = 2024-06-01 .* and `latest`",
        ),
        ({"max_rejected_share": 2}, "max_rejected_share"),
        (
            {"attributes": {"node_shop": "n", "shop": "s"}},
            r"source\.attributes: \['node_shop'\] would hide",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_before_spark_starts(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        PipelineConfig.model_validate(
            {
                "name": "x",
                "source": log("-", **changes),
                "views": {"item": {}, "shop": {"attribute": "shop"}},
            }
        )


def test_nanoseconds_and_numbers_of_any_type_are_times(spark: SparkSession) -> None:

    frame = spark.range(1).select(
        F.lit(1709287200).alias("s"), F.lit(1709287200123456789).alias("ns")
    )
    ways = [
        ("s", "integer", "seconds"),
        ("ns", "long", "nanoseconds"),
        ("cast(ns as string)", "string", "nanoseconds"),
    ]
    (row,) = frame.select(
        *(to_timestamp(F.expr(text), type_, Time(unit=unit)) for text, type_, unit in ways)
    ).collect()  # type: ignore[arg-type]
    assert tuple(row) == (at("10:00"), *[at("10:00").replace(microsecond=123_456)] * 2)


APP = [
    # user, item, time, kind, expected open and close
    ("in between", None, "10:00", "open", None),
    ("in between", "a", "10:05", "view", ("10:00", "10:20")),
    ("in between", "b", "10:20", "view", ("10:00", "10:20")),
    ("in between", None, "10:20", "close", None),
    ("in between", "c", "10:30", "view", (None, None)),
    ("in between", None, "11:00", "open", None),
    ("in between", "d", "11:00", "view", ("11:00", None)),
    ("in between", None, "11:10", "open", None),
    ("in between", "e", "11:15", None, ("11:10", "11:20")),
    ("in between", None, "11:20", "exit", None),
    ("no open", "a", "10:00", "view", (None, "10:10")),
    ("no open", None, "10:10", "close", None),
    ("nothing", "a", "10:00", "view", (None, None)),
]


def app_source() -> Source:
    return log(
        "-",
        columns={"event_type": "kind"},
        open_types=["open"],
        close_types=["close", "exit"],
        format_="parquet",
    )


def test_rows_of_the_app_give_the_clicks_between_their_open_and_close(spark: SparkSession) -> None:
    events = click_frame(spark, [row[:4] for row in APP], "event_type string")
    rows = with_app_times(events, app_source()).orderBy("user_id", "item_id").collect()
    expected = {(user, item): times for user, item, _, _, times in APP if times}
    assert {
        (row["user_id"], row["item_id"]): (row["app_open"], row["app_close"]) for row in rows
    } == {
        key: tuple(None if time is None else at(time) for time in times)
        for key, times in expected.items()
    }
    assert with_app_times(events, log("-")) is events


def test_rows_of_the_app_need_no_item_and_have_none(spark: SparkSession) -> None:
    rows = [
        ("u", None, TIME, "open", "f"),
        ("u", "home", TIME, "exit", "f"),
        ("u", None, TIME, "view", "f"),
        ("u", "i", TIME, None, "f"),
    ]
    frame = spark.createDataFrame(
        rows, "user string, item string, time string, kind string, m2grl_source_file string"
    )
    found = map_events(frame, app_source(), NOW).select("item_id", "reason").collect()
    assert [tuple(row) for row in found] == [
        (None, None),
        (None, None),
        (None, "no item_id"),
        ("i", None),
    ]


def test_app_times_that_cannot_be_are_unknown_and_counted(spark: SparkSession) -> None:
    rows = [(TIME, TIME, "f"), ("soon", None, "f"), ("1970-01-01 00:00:00", "", "f")]
    frame = spark.createDataFrame(
        rows, "opened string, closed string, m2grl_source_file string"
    ).selectExpr("'u' user", "'i' item", f"'{TIME}' time", "*")
    source = log("-", columns={"app_open": "opened", "app_close": "closed"}, format_="parquet")
    found = map_events(frame, source, NOW).select("app_open", "reason", "flaw").collect()
    assert [tuple(row) for row in found] == [
        (at("10:00"), None, None),
        (None, None, "unreadable app_open"),
        (None, None, "app_open out of range"),
    ]


ITEM_TABLES = {
    # Rows, malformed ones, ones without an item; and the values that are left of each table.
    "shop.csv": (
        'item,tag,name\na,x|y,A\nb,x,B,more\n,x,C\n"  ",x,D\nNONE,x,E\na,y,A\nd,z\ne,,\n',
        (8, 2, 3),
        {("a", "tag", "x", 1), ("a", "tag", "y", 2), ("a", None, "A", 2)},
    ),
    "of text.csv": (
        "item,tag,name\nf,12,F\nf,many,\nx,not a number,G,H\n",
        (3, 1, 0),
        {("f", "half", "6", 1)},
    ),
    "without rows.csv": ("item,tag,name\n", (0, 0, 0), set[tuple[str, str, str, int]]()),
    "none wanted.csv": (
        "item,tag,name\ng,x,G\nh\n,x,H\n",
        (1, 1, 0),
        set[tuple[str, str, str, int]](),
    ),
}


def test_rows_of_item_tables_that_say_nothing_of_an_item_are_counted(
    spark: SparkSession, tmp_path: Path
) -> None:
    for name, (text, _, _) in ITEM_TABLES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "says nothing.csv").write_text("item\na\nb,c\n", encoding="utf-8")
    tables: dict[str, dict[str, Any]] = {
        "shop.csv": {"attributes": {"tag": "split(tag, '[|]')"}, "title": "name"},
        "says nothing.csv": {},
        "of text.csv": {
            "attributes": {
                "half": "CASE WHEN tag = 'many' THEN NULL ELSE CAST(tag AS int) DIV 2 END"
            }
        },
        "without rows.csv": {"attributes": {"tag": "tag"}},
        "none wanted.csv": {"attributes": {"tag": "tag"}, "where": "false"},
    }
    items = [
        {"path": str(tmp_path / name), "format": "csv", "item_id": "item"} | options
        for name, options in tables.items()
    ]
    source = log("-", null_ids=("NONE",), items=items)
    seen = item_tables.item_observations(source)
    table = item_tables.item_table(spark, source, seen)
    assert table is not None
    assert {tuple(row) for row in table.collect()} == set().union(
        *(values for _, _, values in ITEM_TABLES.values())
    )
    options = {
        f"source.items[{number}]": name for number, name in enumerate(tables) if name in ITEM_TABLES
    }
    rows = item_tables.item_rows(seen)
    assert {options[option]: tuple(counts.values()) for option, counts in rows.items()} == {
        name: counts for name, (_, counts, _) in ITEM_TABLES.items()
    }
    assert list(rows["source.items[0]"]) == [
        "rows",
        "malformed row",
        "no item_id",
    ]
    examples = item_tables.item_examples(seen)
    told = {options[option]: list(found) for option, found in examples.items()}
    assert told == {
        "shop.csv": ["malformed row", "no item_id"],
        "of text.csv": ["malformed row"],
        "without rows.csv": [],
        "none wanted.csv": ["malformed row"],
    }
    assert {
        reason: (row, file.rsplit("/", 1)[-1])
        for reason, (row, file) in examples["source.items[0]"].items()
    } == {
        "malformed row": ("b,x,B,more", "shop.csv"),
        "no item_id": ('[{"attribute":"tag","value":"x"},{"value":"C"}]', "shop.csv"),
    }


def test_options_of_the_reader_win(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(f"# no header\nu;'i;j';{TIME}\nu;i\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no log\n", encoding="utf-8")
    options = {
        "Header": "false",
        "sep": ";",
        "quote": "'",
        "comment": "#",
        "pathGlobFilter": "*.txt",
        "columnNameOfCorruptRecord": "bad",
    }
    source = log(
        tmp_path, columns={"user_id": "_c0", "item_id": "_c1", "timestamp": "_c2"}, options=options
    )
    rows = collected(spark, source)
    assert [(row["item_id"], row["reason"], row["row"]) for row in rows[1:]] == [
        ("i", "malformed row", "u;i")
    ]
    assert (rows[0]["item_id"], rows[0]["reason"]) == ("i;j", None)


def test_parquet_times_in_nanoseconds_are_explained(spark: SparkSession, tmp_path: Path) -> None:
    times = pa.array([datetime(2024, 3, 1)], pa.timestamp("ns"))
    pq.write_table(
        pa.table({"user": ["u"], "item": ["i"], "time": times}), tmp_path / "log.parquet"
    )
    source, setting = (
        log(tmp_path / "log.parquet", "parquet"),
        "spark.sql.legacy.parquet.nanosAsLong",
    )
    before = spark.conf.get(setting)
    try:
        spark.conf.set(setting, "false")
        with pytest.raises(
            PipelineError,
            match=(
                r"log\.parquet' cannot be read as parquet: .*nanosAsLong is true: with that, "
                r"source\.time\.unit ="
            ),
        ):
            read_rows(spark, source)
        spark.conf.set(setting, "true")
        with pytest.raises(
            PipelineError, match=r"timestamp is a bigint: set source\.time\.unit to .* nanoseconds"
        ):
            map_events(read_rows(spark, source), source)
    finally:
        spark.conf.set(setting, str(before))


@pytest.fixture
def movie_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The shipped project over a small log in the layout of MovieLens 20M and 25M."""
    folder = tmp_path / "ml-25m"
    folder.mkdir()
    monkeypatch.setenv("M2GRL_DATA", str(tmp_path))
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,7,0.5,1147868817\n",
        encoding="utf-8",
    )
    movies = (
        'movieId,title,genres\n296,"Fiction, Pulp (1994)",Comedy|Crime\n7,"""Seven"" '
        '(1995)",(no genres listed)\n'
    )
    (folder / "movies.csv").write_text(movies, encoding="utf-8")
    scores = (
        "movieId,tagId,relevance\n296,1,0.02875\n296,2,0.5\n296,3,0.97650\n7,2,0.49975\n7,3,1\n"
    )
    (folder / "genome-scores.csv").write_text(scores, encoding="utf-8")
    (folder / "genome-tags.csv").write_text("tagId,tag\n1,007\n2,noir\n3,crime\n", encoding="utf-8")
    return load([DEFAULT.parent / "ml-25m.toml"])


def test_the_tag_genome_links_movies_and_tags_above_a_relevance(
    spark: SparkSession, movie_lens: Project
) -> None:
    check_log(movie_lens.source)
    check_items(movie_lens.source)
    items = item_tables.item_table(spark, movie_lens.source)
    assert items is not None
    rows = {tuple(row) for row in items.select("item_id", "attribute", "value").collect()}
    tags = {(item, value) for item, attribute, value in rows if attribute == "tag"}
    assert tags == {("296", "2"), ("296", "3"), ("7", "3")}
    assert {value for _, attribute, value in rows if attribute is None} == {
        "Fiction, Pulp (1994)",
        '"Seven" (1995)',
    }
    # 0.5 and more; all movies and tags are nodes here.
    view = movie_lens.relations["item_tag"].view
    values = views.item_values(items, items, movie_lens.views[view], on_events=False)
    movies, tags_ = (
        spark.createDataFrame([(id_, 9) for id_ in ids], "id string, count long")
        for ids in (["296", "7"], ["1", "2", "3"])
    )
    assert {tuple(row)[:2] for row in item_links(values, movies, tags_).collect()} == tags
    events = collected(spark, movie_lens.source)
    assert [(row["user_id"], row["item_id"], row["value"], row["reason"]) for row in events] == [
        ("1", "296", 5.0, None),
        ("1", "7", 0.5, None),
    ]
    assert events[0]["timestamp"] == datetime(2006, 5, 17, 15, 34, 4)
