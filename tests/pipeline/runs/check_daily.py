"""A real log taken in day by day, with late rows, deliveries repeated and runs killed, is the log
taken in at once; test_days_of_a_shop.py does the same with a small made-up one."""

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import Preprocessed, preprocess
from tests.pipeline.runs.test_daily import killed_after, rows_of

pytestmark = pytest.mark.timeout(1800)
DAYS = [date(2017, 10, day) for day in (3, 4, 5, 6)]
USERS = 150
BY_RAW_ID = [
    "events",
    "rejects",
    "clean",
    "sessions",
    "edges/item",
    "edges/device",
    "links/item_device",
]


def settings(folder: Path) -> PipelineConfig:
    columns = {
        "user_id": "user",
        "item_id": "article",
        "timestamp": "time",
        "app_session_id": "visit",
        "app_open": "opened",
    }
    source = {
        "path": f"{folder}/day {{date:%Y/%m/%d}}/*.csv",
        "format": "csv",
        "columns": columns,
        "time": {"unit": "milliseconds"},
    }
    return PipelineConfig.model_validate(
        {
            "name": "news",
            "source": source | {"attributes": {"device": "device"}, "max_rejected_share": 0.5},
            "clean": {"stay": "derived", "maximum_clicks_per_day": 25},
            "views": {"item": {"minimum_count": 2}, "device": {"attribute": "device"}},
            "relations": {"item_device": {"view": "device"}},
            "shards": {"encodings": ["windows"], "files": 2},
        }
    )


def deliveries(data: Path) -> dict[date, pd.DataFrame]:
    """What each day brought: its rows, but a tenth of those of the day before, which come late; and
    a row that is no event."""
    log = pd.read_parquet(data / "globo" / "clicks.parquet")
    log = log.rename(
        columns={
            "user_id": "user",
            "click_article_id": "article",
            "click_timestamp": "time",
            "session_id": "visit",
        }
    )
    log = log.rename(columns={"session_start": "opened", "click_deviceGroup": "device"})[
        ["user", "article", "time", "visit", "opened", "device"]
    ]
    log["date"] = pd.to_datetime(log["time"], unit="ms").dt.date
    log = log[log["date"].isin(DAYS)]
    busy = (
        log.groupby("user")["date"]
        .nunique()
        .sort_values(ascending=False, kind="stable")
        .index[:USERS]
    )
    log = log[log["user"].isin(busy)]
    late = (log.groupby("date").cumcount() % 10 == 3) & (log["date"] < DAYS[-1])
    log["brought"] = log["date"].where(~late, log["date"].map(lambda day: day + timedelta(days=1)))
    broken = pd.DataFrame(
        {"user": "", "article": 1, "time": 0, "visit": 1, "opened": 0, "device": 1, "brought": DAYS}
    )
    together = pd.concat([log.drop(columns="date").astype({"user": str}), broken])
    return {day: rows.drop(columns="brought") for day, rows in together.groupby("brought")}


def deliver(folder: Path, day: date, rows: pd.DataFrame) -> None:
    target = folder / f"day {day:%Y/%m/%d}"
    target.mkdir(parents=True, exist_ok=True)
    rows.to_csv(target / "part.csv", index=False)


def pipeline(spark: SparkSession, folder: Path, out: str) -> Pipeline:
    paths = Paths(folder / out)
    return Pipeline(spark, settings(folder), paths.output, Identity({}, "hash", "version"))


@dataclass
class Runs:
    """The same log, taken in day by day and at once."""

    folder: Path
    daily: Pipeline
    once: Pipeline
    of_daily: Preprocessed
    of_once: Preprocessed
    raw_rows: int


@pytest.fixture(scope="module")
def runs(spark: SparkSession, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder, brought = tmp_path_factory.mktemp("daily"), deliveries(data)
    first, second, third, fourth = DAYS
    deliver(folder, first, brought[first])
    with killed_after("sessions"):
        preprocess(pipeline(spark, folder, "daily"), first)
    # What comes of the second day is wrong at first.
    wrong = brought[second].sample(frac=0.5, random_state=1)
    deliver(folder, second, wrong.assign(user=wrong["user"] + "0"))
    with killed_after("clean"):
        preprocess(pipeline(spark, folder, "daily"), second)
    deliver(folder, second, brought[second])
    with killed_after("events"):
        preprocess(pipeline(spark, folder, "daily"), second)
    deliver(folder, third, brought[third])
    with killed_after("item_days"):
        preprocess(pipeline(spark, folder, "daily"), third)
    deliver(folder, fourth, brought[fourth])
    daily, once = pipeline(spark, folder, "daily"), pipeline(spark, folder, "once")
    results = (preprocess(daily, fourth), preprocess(once))
    return Runs(folder, daily, once, *results, sum(map(len, brought.values())))


@pytest.mark.parametrize("table", BY_RAW_ID)
def test_days_one_by_one_are_the_log_at_once(runs: Runs, table: str) -> None:
    found = rows_of(runs.once.lake, table)
    assert found
    assert rows_of(runs.daily.lake, table) == found


def test_the_figures_are_those_of_the_whole_log(runs: Runs) -> None:
    assert runs.of_once.figures["funnel"]["raw rows"] == runs.raw_rows
    assert runs.of_once.figures["funnel"]["dropped"]["too many clicks a day"] > 0
    for name in (
        "funnel",
        "items whose value changed",
        "parts",
        "sequences",
        "nodes",
        "edges",
        "links",
        "pairs",
        "histograms",
    ):
        assert runs.of_daily.figures[name] == runs.of_once.figures[name], name


def test_vocabularies_differ_in_order_only(runs: Runs) -> None:
    for view in ("item", "device"):
        daily, once = (
            {
                row["id"]: (row["count"], row["first_date"])
                for row in lake.read(f"vocabulary/{view}").where("count > 0").collect()
            }
            for lake in (runs.daily.lake, runs.once.lake)
        )
        assert daily == once
