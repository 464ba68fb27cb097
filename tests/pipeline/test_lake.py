"""The lake's writes: what a table is like after each."""

from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import Row, SparkSession

from pipeline.lake import Lake, dates_in

FIRST, SECOND = date(2024, 5, 1), date(2024, 5, 2)


def folders(table: Path) -> list[str]:
    return sorted(path.name for path in table.iterdir() if path.name.startswith("date="))


@pytest.mark.parametrize("at_first", [True, False])
def test_another_layout_waits_for_the_next_write_of_the_whole_table(spark: SparkSession, tmp_path: Path, at_first: bool) -> None:
    """Delta would refuse to replace a day of a table in another layout than it has."""
    days = {FIRST: ["a", "b"], SECOND: ["c"]}
    rows = spark.createDataFrame([(day, item) for day, items in days.items() for item in items], "date date, item_id string")
    Lake(spark, tmp_path, at_first).write("clicks", rows, ("date",))
    before = folders(tmp_path / "clicks")
    assert before == (["date=2024-05-01", "date=2024-05-02"] if at_first else [])

    lake = Lake(spark, tmp_path, not at_first)
    later = spark.createDataFrame([(SECOND, "d")], "date date, item_id string")
    lake.write("clicks", later, ("date",), dates_in([SECOND]))
    assert sorted(lake.read("clicks").collect()) == [Row(FIRST, "a"), Row(FIRST, "b"), Row(SECOND, "d")]
    assert folders(tmp_path / "clicks") == before

    Lake(spark, tmp_path / "new", True).write("clicks", later, ("date",), dates_in([SECOND]))
    assert folders(tmp_path / "new/clicks") == ["date=2024-05-02"]
    lake.write("clicks", rows, ("date",))
    assert sorted(lake.read("clicks").collect()) == [Row(FIRST, "a"), Row(FIRST, "b"), Row(SECOND, "c")]
