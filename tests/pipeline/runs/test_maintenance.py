"""Forgetting users and old days: which rejects go, and which stay."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from pipeline.config import Source
from pipeline.lake import Lake
from pipeline.runs.ingest import EVENTS_BY, REJECTS_BY, STOPPED
from pipeline.runs.maintenance import drop_before, remove_user

Rows = Sequence[tuple[str, str, date | None]]
"""Of rejects: row, reason, batch."""
REJECTS = "row string, reason string, source_file string, batch date"
DAYS = [date(2024, 3, day) for day in (1, 2, 3)]


def source(user_id: str = "user") -> Source:
    columns = {"user_id": user_id, "item_id": "item", "timestamp": "time"}
    return Source.model_validate({"path": "log.csv", "format": "csv", "columns": columns})


def lake_of(spark: SparkSession, root: Path, rejects: Rows, stopped: Rows = ()) -> Lake:
    """A lake with an event a day of a user "ann", and rejects."""
    lake = Lake(spark, root)
    lake.write(
        "events",
        spark.createDataFrame(
            [("ann", day, day) for day in DAYS], "user_id string, date date, batch date"
        ),
        EVENTS_BY,
    )
    for table, rows in (("rejects", rejects), (STOPPED, stopped)):
        frame = spark.createDataFrame(
            [(row, reason, "log.csv", day) for row, reason, day in rows], REJECTS
        )
        lake.write(table, frame, REJECTS_BY if table == "rejects" else ())
    return lake


def left(lake: Lake, table: str = "rejects") -> set[str]:
    return {row["row"] for row in lake.read(table).collect()}


def as_json(**row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    ("user", "column", "theirs", "others"),
    [
        pytest.param(
            "1",
            "user",
            [as_json(user="1", time="x"), as_json(user=1, time="x")],
            [
                as_json(user="2", item="1", time="2024-03-1"),
                as_json(user="1 ", time="x"),
                as_json(user="1.5", time="x"),
            ],
            id="short",
        ),
        pytest.param(
            'O"Neil',
            "user",
            [as_json(user='O"Neil', time="x")],
            [as_json(user="x", item='O"Neil', time="x"), as_json(user='o"neil', time="x")],
            id="quoted",
        ),
        pytest.param(
            "u1",
            "concat('u', visitor.id)",
            [as_json(visitor={"id": 1}), as_json(visitor={"id": "1"})],
            [as_json(visitor={"id": "u1"})],
            id="SQL",
        ),
        pytest.param(
            "1",
            "row",
            [as_json(row="1", batch="7")],
            [as_json(row="7", batch="1")],
            id="a name of the rejects",
        ),
    ],
)
def test_of_a_row_that_was_parsed_the_column_of_the_user_counts(
    spark: SparkSession,
    tmp_path: Path,
    user: str,
    column: str,
    theirs: list[str],
    others: list[str],
) -> None:
    lake = lake_of(spark, tmp_path, [(row, "no timestamp", DAYS[0]) for row in theirs + others])
    assert remove_user(lake, user, source(column)) == len(theirs)
    assert left(lake) == set(others)


def test_of_another_row_the_id_as_a_whole_word_does(spark: SparkSession, tmp_path: Path) -> None:
    quoted, plain = 'O"Neil é', "1"
    malformed = [
        '"O""Neil é,i,2024',
        'O"Neil é,i',
        '{"user": "O\\"Neil é", "it',
        '{"user": "O\\"Neil \\u00e9", "it',
        "1,i,",
        "11,i1,",
        '"1',
    ]
    rows = [
        (row, "malformed row, a quote is not closed" if row[0] == '"' else "malformed row", None)
        for row in malformed
    ]
    renamed, nobodys = as_json(uid=1, item="2"), as_json(user=" ", item="1")
    lake = lake_of(
        spark,
        tmp_path,
        [*rows, (renamed, "no timestamp", DAYS[0]), (nobodys, "no user_id", DAYS[0])],
        rows,
    )
    assert remove_user(lake, quoted, source()) == 4
    assert left(lake) == {*malformed[4:], renamed, nobodys}
    assert remove_user(lake, plain, source()) == 3
    assert left(lake) == {"11,i1,", nobodys}
    assert left(lake, STOPPED) == set()


def test_rejects_go_with_the_days_that_brought_them(spark: SparkSession, tmp_path: Path) -> None:
    """A reject of no known day may be as old as any."""
    rows = [(str(day), "malformed row", day) for day in [*DAYS, None]]
    lake = lake_of(spark, tmp_path, rows, rows)
    assert drop_before(lake, 2) == 1
    assert left(lake) == left(lake, STOPPED) == {str(DAYS[1]), str(DAYS[2])}
