"""A small made-up log taken in day by day, with app events, values of items that change, a table of
items and a time split, is that log taken in at once; test_daily.py does the same with a real one,
where that is there."""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.contracts import heldout
from pipeline.lake import Lake
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import Preprocessed, preprocess
from tests.pipeline.runs.test_daily import killed_after, rows_of

FIRST, SECOND, LATE, LAST = (date(2024, 3, day) for day in (1, 2, 3, 4))
"""The days of which something came; on the third, nothing but one late row of the first."""
TABLES = (
    "events",
    "clean",
    "sessions",
    "items",
    "edges/item",
    "edges/category",
    "edges/brand",
    "links/item_category",
)
SETTINGS = {
    "name": "shop",
    "clean": {"stay": "derived"},
    "views": {
        "item": {"minimum_count": 3},
        "category": {"attribute": "category"},
        "brand": {"attribute": "brand"},
    },
    "relations": {"item_category": {"view": "category"}},
    "split": {"kind": "time", "cut": "2024-03-04T12:00:00"},
    "shards": {"encodings": ["windows"], "files": 2},
}


def settings(folder: Path) -> PipelineConfig:
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time", "event_type": "kind"}
    source = {
        "path": f"{folder}/log.csv",
        "format": "csv",
        "columns": columns,
        "day": "brought",
        "attributes": {"category": "category", "brand": "brand"},
        "event_types": ["view"],
        "open_types": ["open"],
        "close_types": ["close"],
        "max_rejected_share": 0.5,
        "items": [
            {
                "path": f"{folder}/items.csv",
                "format": "csv",
                "item_id": "item",
                "attributes": {"category": "category"},
            }
        ],
    }
    return PipelineConfig.model_validate(SETTINGS | {"source": source})


Line = tuple[str, str, datetime | str, str, str, str, date]
"""user, item, time, kind, category, brand, brought"""


def click(user: str, item: int, time: datetime, brought: date) -> Line:
    """The log tells the category of two items of three, and a brand, which is another one from the
    last day on."""
    category = "" if item % 3 == 0 else f"category {item % 4}"
    return (
        user,
        f"item {item}",
        time,
        "view",
        category,
        f"brand {(item + (time.date() == LAST)) % 5}",
        brought,
    )


def visits(draw: random.Random, user: str) -> Iterator[Line]:
    """A user's visits, some over midnight; a tenth of the rows of the first day come on the
    second."""
    for day in (FIRST, SECOND, LAST):
        time = datetime(day.year, day.month, day.day) + timedelta(
            hours=draw.choice([8, 13, 23]), seconds=draw.randrange(3600)
        )
        yield user, "", time, "open", "", "", day
        for _ in range(draw.randint(2, 6)):
            time += timedelta(seconds=draw.choice([1, 2, 60, 600, 2400, 4000]))
            late = time.date() == FIRST and draw.random() < 0.1
            yield click(user, draw.randrange(12), time, SECOND if late else day)
        if draw.random() < 0.7:
            yield user, "", time + timedelta(seconds=draw.choice([1, 30])), "close", "", "", day


def write_log(folder: Path) -> None:
    """Everything that was ever brought: what a day brought is told by a column. A row that names no
    user, and one that tells nothing."""
    draw, noon = random.Random(3), datetime(2024, 3, 1, 12)
    rows = [row for user in range(20) for row in visits(draw, f"user {user}")]
    rows += [click("late", 1, noon, FIRST), click("late", 2, noon + timedelta(minutes=10), FIRST)]
    rows += [
        click("late", 4, noon + timedelta(minutes=5), LATE),
        click("late", 1, noon + timedelta(days=1), SECOND),
    ]
    rows += [("", "item 1", noon, "view", "", "", SECOND)]
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [("user", "item", "time", "kind", "category", "brand", "brought"), *rows, ("no event",)]
        )
    lines = "".join(f"item {item},category {item % 4}\n" for item in range(0, 12, 2))
    (folder / "items.csv").write_text("item,category\n" + lines, encoding="utf-8")


@dataclass
class Runs:
    """The same log, taken in day by day and at once, and the files of `clean` before and after the
    late row came."""

    daily: Pipeline
    once: Pipeline
    results: list[Preprocessed]
    before: set[str]
    after: set[str]


def files_of_clean(lake: Lake) -> set[str]:
    """The files of the newest version, as paths below the table."""
    return {uri.rpartition("/clean/")[2] for uri in lake.read("clean").inputFiles()}


@pytest.fixture(scope="module")
def runs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("days")
    write_log(folder)

    def pipeline(out: str) -> Pipeline:
        return Pipeline(
            spark, settings(folder), Paths(folder / out).output, Identity({}, "hash", "version")
        )

    for day, table in ((FIRST, "sessions"), (SECOND, "clean")):
        with killed_after(table):
            preprocess(pipeline("daily"), day)
    daily, once = pipeline("daily"), pipeline("once")
    before = files_of_clean(daily.lake)
    with killed_after("clean"):
        preprocess(pipeline("daily"), LATE)
    after = files_of_clean(daily.lake)
    results = [preprocess(daily, LAST), preprocess(once)]
    return Runs(daily, once, results, before, after)


def test_days_one_by_one_are_the_log_at_once(runs: Runs) -> None:
    for table in TABLES:
        found = rows_of(runs.once.lake, table)
        assert found
        assert rows_of(runs.daily.lake, table) == found, table
    for view in ("item", "category", "brand"):
        known = [
            {
                row["id"]: (row["count"], row["first_date"])
                for row in lake.read(f"vocabulary/{view}").where("count > 0").collect()
            }
            for lake in (runs.daily.lake, runs.once.lake)
        ]
        assert known[0] == known[1]


def test_the_figures_and_the_held_out_cases_are_those_of_the_log_at_once(runs: Runs) -> None:
    figures = [
        {name: found for name, found in result.figures.items() if name != "seconds"}
        for result in runs.results
    ]
    daily, once = ({"funnel": found.pop("funnel"), **found} for found in figures)
    for told in ("raw rows", "rejected"):
        del daily["funnel"][told], once["funnel"][told]
    assert daily == once
    assert once["funnel"]["app events"] > 0
    assert once["funnel"]["dropped"]["stay below minimum"] > 0
    assert once["items whose value changed"]["brand"] > 0
    assert min(part["clicks"] for part in once["parts"].values()) > 0
    for name in (heldout.SESSIONS, heldout.HISTORY, heldout.COUNTS):
        cases = [
            pq.read_table(run.output.heldout / name).to_pylist() for run in (runs.daily, runs.once)
        ]
        assert cases[0] == cases[1] != []


def test_a_malformed_row_that_tells_no_day_is_a_reject_of_each(runs: Runs) -> None:
    rejects = [
        {(row["reason"], row["batch"]) for row in run.lake.read("rejects").collect()}
        for run in (runs.daily, runs.once)
    ]
    both = {("no user_id", SECOND)}
    assert rejects == [
        both | {("malformed row", day) for day in (FIRST, SECOND, LATE, LAST)},
        both | {("malformed row", None)},
    ]


def test_a_late_row_renews_the_files_of_its_own_date_alone(runs: Runs) -> None:
    assert {file.split("/")[0] for file in runs.before} == {
        f"date={day}" for day in (FIRST, SECOND, LATE)
    }
    of_first = {file for file in runs.before if file.startswith(f"date={FIRST}/")}
    assert runs.before - runs.after == of_first
    assert {file.split("/")[0] for file in runs.after - runs.before} == {f"date={FIRST}"}
