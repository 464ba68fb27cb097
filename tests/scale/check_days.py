"""The days of globo, three million clicks, taken in one by one with late rows, beside the same log
taken in at once.

Run by `make test-scale`; it takes half an hour on two idle cores, so the other tests go without it.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from tests.scale.preprocess import preprocess

pytestmark = pytest.mark.timeout(3600)
LAST = "2017-10-17"
"""The four weeks that follow hold 712 clicks; they are left out."""
LATE = 10
"""One row in so many comes with the next day's delivery."""
TABLES = [
    "events",
    "rejects",
    "clean",
    "sessions",
    "edges/item",
    "edges/category",
    "links/item_category",
]
FIGURES = ("funnel", "parts", "sequences", "nodes", "edges", "links", "pairs", "histograms")


def deliver(clicks: Path, folder: Path) -> list[date]:
    """A folder of Parquet for each day; returns the days in their order."""
    log = pd.read_parquet(clicks)
    days = pd.to_datetime(log["click_timestamp"], unit="ms").dt.floor("D")
    log, days = log[days <= LAST], days[days <= LAST]
    late = (log.groupby(days).cumcount() % LATE == 0) & (days < days.max())
    for day, rows in log.groupby(days.where(~late, days + pd.Timedelta(days=1))):
        target = folder / f"{day:%Y-%m-%d}"
        target.mkdir(parents=True)
        rows.to_parquet(target / "part.parquet", index=False)
    return sorted(date.fromisoformat(path.name) for path in folder.iterdir())


def globo(folder: Path) -> list[Path]:
    """The shipped project over the folders of the days."""
    config = folder / "days.toml"
    config.write_text(f'[source]\npath = "{folder}/days/{{date}}/*.parquet"\n', encoding="utf-8")
    return [Path("jobs/configs/globo.toml"), config]


def digest(rows: DataFrame) -> tuple[int, int]:
    """Number of rows, and a sum of their hashes, which their order does not change."""
    found = rows.select(
        F.xxhash64(F.to_json(F.struct(*sorted(rows.columns)))).cast("decimal(38)").alias("hash")
    )
    row = found.agg(F.count("*"), F.coalesce(F.sum("hash"), F.lit(0))).first()
    assert row is not None  # an aggregate has a row
    return int(row[0]), int(row[1])


def tables(spark: SparkSession, lake: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """What stands in the lake by raw ids."""
    for table in TABLES:
        yield table, digest(spark.read.format("delta").load(str(lake / table)))
    for view in ("item", "category"):
        nodes = spark.read.format("delta").load(str(lake / "vocabulary" / view)).where("count > 0")
        yield f"vocabulary/{view}", digest(nodes.select("id", "count", "first_date"))


def test_days_of_globo_one_by_one_are_the_log_at_once(
    spark: SparkSession, data: Path, tmp_path: Path
) -> None:
    days = deliver(data / "globo" / "clicks.parquet", tmp_path / "days")
    configs = globo(tmp_path)
    for day in days:
        daily = preprocess(configs, tmp_path / "daily", "--date", str(day))
    once = preprocess(configs, tmp_path / "once")
    assert once["funnel"]["clicks"] > 2_900_000
    for name in FIGURES:
        assert daily[name] == once[name], name
    found = {
        name: dict(tables(spark, tmp_path / name / "globo/lake")) for name in ("daily", "once")
    }
    assert found["once"]["events"][0] > 2_900_000
    assert found["once"]["edges/item"][0] > 100_000
    assert found["daily"] == found["once"]
