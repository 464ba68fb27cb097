"""The lake's writes: what a table is like after each, and how long its past lasts."""

import json
import os
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import Row, SparkSession

from pipeline.lake import GoneError, Lake, dates_in, older_versions

FIRST, SECOND = date(2024, 5, 1), date(2024, 5, 2)
TIMES = ("timestamp", "deletionTimestamp", "modificationTime")
"""What Delta's log calls the times of what was done."""


def folders(table: Path) -> list[str]:
    return sorted(path.name for path in table.iterdir() if path.name.startswith("date="))


@pytest.mark.parametrize("at_first", [True, False])
def test_another_layout_waits_for_the_next_write_of_the_whole_table(
    spark: SparkSession, tmp_path: Path, at_first: bool
) -> None:
    """Delta would refuse to replace a day of a table in another layout than it has."""
    days = {FIRST: ["a", "b"], SECOND: ["c"]}
    rows = spark.createDataFrame(
        [(day, item) for day, items in days.items() for item in items], "date date, item_id string"
    )
    Lake(spark, tmp_path, at_first).write("clicks", rows, ("date",))
    before = folders(tmp_path / "clicks")
    assert before == (["date=2024-05-01", "date=2024-05-02"] if at_first else [])

    lake = Lake(spark, tmp_path, not at_first)
    later = spark.createDataFrame([(SECOND, "d")], "date date, item_id string")
    lake.write("clicks", later, ("date",), dates_in([SECOND]))
    assert sorted(lake.read("clicks").collect()) == [
        Row(FIRST, "a"),
        Row(FIRST, "b"),
        Row(SECOND, "d"),
    ]
    assert folders(tmp_path / "clicks") == before

    Lake(spark, tmp_path / "new", True).write("clicks", later, ("date",), dates_in([SECOND]))
    assert folders(tmp_path / "new/clicks") == ["date=2024-05-02"]
    lake.write("clicks", rows, ("date",))
    assert sorted(lake.read("clicks").collect()) == [
        Row(FIRST, "a"),
        Row(FIRST, "b"),
        Row(SECOND, "c"),
    ]


def aged(lake: Lake, table: str, hours: int) -> None:
    """Makes all that was ever done to a table so many hours older."""
    folder = lake.root / table
    assert isinstance(folder, Path)
    for commit in (folder / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in commit.read_text(encoding="utf-8").splitlines()]
        for told in (told for action in actions for told in action.values()):
            told |= {name: told[name] - hours * 3_600_000 for name in TIMES if name in told}
        commit.write_text(
            "".join(json.dumps(action) + "\n" for action in actions), encoding="utf-8"
        )
        # Hadoop's checksum of what the file held before.
        commit.with_name(f".{commit.name}.crc").unlink(missing_ok=True)
    for path in folder.rglob("*"):
        then = path.stat().st_mtime - hours * 3600
        os.utime(path, (then, then))
    lake.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]


def readable(lake: Lake) -> list[int]:
    """The versions of the table t that can be read, which have a row more each."""
    found = []
    for version in range(3):
        with suppress(GoneError), older_versions():
            assert lake.read("t", version).count() == version + 1
            found.append(version)
    return found


@pytest.fixture
def lake(spark: SparkSession, tmp_path: Path) -> Lake:
    """A lake with a table t: version 0 was written 400 hours ago and replaced 200 hours ago,
    version 1 just now."""
    lake = Lake(spark, tmp_path)
    for rows in (1, 2, 3):
        lake.write("t", spark.range(rows).coalesce(1))
        if rows < 3:
            aged(lake, "t", 200)
    return lake


def test_a_version_that_nobody_vacuumed_is_read_and_restored_after_weeks(lake: Lake) -> None:
    """Delta by itself would let none be read that was replaced more than a week ago."""
    assert readable(lake) == [0, 1, 2]
    lake.restore("t", 0)
    assert lake.read("t").count() == 1


def test_a_vacuum_removes_what_was_replaced_longer_ago_than_it_is_told(lake: Lake) -> None:
    """Part of an hour counts as a whole one; Delta by itself would round 0.3 to none, and take a
    week for any other number."""
    found = {}
    for hours in (200.3, 0.3, 0):
        lake.vacuum("t", hours)
        found[hours] = readable(lake)
    assert found == {200.3: [0, 1, 2], 0.3: [1, 2], 0: [2]}
