"""A small made-up log taken in day by day, with late rows, a delivery repeated and runs killed, is
that log taken in at once; check_daily.py does the same with a real one, where that is there.

It has app events, values of items that change, a table of items and a time split.

The tests share one lake of each kind, and leave it as they found it, but for the last two.
"""

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.contracts import heldout
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from pipeline.errors import PipelineError
from pipeline.lake import Lake, Note
from pipeline.runs.ingest import STOPPED
from pipeline.runs.maintenance import drop_before, remove_user
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import Preprocessed, preprocess, update
from pipeline.runs.rebuild import checksums, rebuild
from pipeline.storage.locations import names
from tests.pipeline.deliveries import ingest_and_renew
from tests.pipeline.runs.test_daily import killed_after, rows_of

# Its fixture takes the log in seven times, on a machine that may do other things too.
pytestmark = pytest.mark.timeout(1800)
FIRST, SECOND, LATE, LAST = (date(2024, 3, day) for day in (1, 2, 3, 4))
"""The days of which something came; on the third, nothing but one late row of the first."""
TABLES = (
    "events",
    "clean",
    "sessions",
    "items",
    "edges/item",
    "edges/category",
    "links/item_category",
)
SETTINGS = {
    "name": "shop",
    "clean": {"stay": "derived", "maximum_clicks_per_day": 7},
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


def without_brands(folder: Path) -> PipelineConfig:
    """A view less is a quarter of a run less."""
    config = settings(folder)
    views = {name: view for name, view in config.views.items() if name != "brand"}
    return config.model_copy(update={"views": views})


Line = tuple[str, str, datetime | str, str, str, str, date]
"""user, item, time, kind, category, brand, brought"""


def click(user: str, item: int, time: datetime, brought: date) -> Line:
    """The log tells the category of two items of three, and a brand, which are others from the last
    day on."""
    last = time.date() == LAST
    category = "" if item % 3 == 0 else f"category {(item + last) % 4}"
    return (
        user,
        f"item {item}",
        time,
        "view",
        category,
        f"brand {(item + last) % 5}",
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


NO_EVENT = ("no event",)


def brought_rows() -> list[Line]:
    """Every event that was ever brought: what a day brought is told by a column. And a row that
    names no user."""
    draw, noon = random.Random(3), datetime(2024, 3, 1, 12)
    rows = [row for user in range(20) for row in visits(draw, f"user {user}")]
    rows += [click("late", 1, noon, FIRST), click("late", 2, noon + timedelta(minutes=10), FIRST)]
    rows += [
        click("late", 4, noon + timedelta(minutes=5), LATE),
        click("late", 1, noon + timedelta(days=1), SECOND),
    ]
    # Sessions over the midnight before the last day.
    rows += [
        click(user, item, noon + timedelta(days=2, hours=11.9, minutes=5 * item), LAST)
        for user in ("owl 1", "owl 2")
        for item in range(4)
    ]
    return [*rows, ("", "item 1", noon, "view", "", "", SECOND)]


def write_rows(folder: Path, rows: Iterable[Line | tuple[str]]) -> None:
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("user", "item", "time", "kind", "category", "brand", "brought"), *rows])


def write_log(folder: Path) -> None:
    """All rows, one more that tells nothing, and the table of items."""
    write_rows(folder, [*brought_rows(), NO_EVENT])
    lines = "".join(f"item {item},category {item % 4}\n" for item in range(0, 12, 2))
    (folder / "items.csv").write_text("item,category\n" + lines, encoding="utf-8")


@dataclass
class Runs:
    """The same log, taken in day by day and at once, and the files of `clean` before and after the
    late row came."""

    spark: SparkSession
    folder: Path
    daily: Pipeline
    once: Pipeline
    results: list[Preprocessed]
    """Of the last day, and of the whole log."""
    before: set[str]
    after: set[str]

    def again(self, out: str) -> Pipeline:
        """Another run over a lake."""
        return pipeline(self.spark, self.folder, out)


def files_of_clean(lake: Lake) -> set[str]:
    """The files of the newest version, as paths below the table."""
    return {uri.rpartition("/clean/")[2] for uri in lake.read("clean").inputFiles()}


def pipeline(spark: SparkSession, folder: Path, out: str) -> Pipeline:
    output = Paths(folder / out).output
    return Pipeline(spark, without_brands(folder), output, Identity({}, "hash", "version"))


@pytest.fixture(scope="module")
def runs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("days")
    write_log(folder)

    def killed(table: str, day: date) -> None:
        with killed_after(table):
            preprocess(pipeline(spark, folder, "daily"), day)

    killed("sessions", FIRST)
    # What comes of the second day is wrong at first.
    wrong = [
        (f"{row[0]}0", *row[1:]) if row[-1] == SECOND and i % 2 else row
        for i, row in enumerate(brought_rows())
    ]
    write_rows(folder, [*wrong, NO_EVENT])
    killed("clean", SECOND)
    write_log(folder)
    killed("events", SECOND)
    killed("clean", SECOND)
    daily, once = pipeline(spark, folder, "daily"), pipeline(spark, folder, "once")
    before = files_of_clean(daily.lake)
    killed("item_days", LATE)
    after = files_of_clean(daily.lake)
    results = [preprocess(daily, LAST), preprocess(once)]
    return Runs(spark, folder, daily, once, results, before, after)


def test_days_one_by_one_are_the_log_at_once(runs: Runs) -> None:
    for table in TABLES:
        found = rows_of(runs.once.lake, table)
        assert found
        assert rows_of(runs.daily.lake, table) == found, table
    for view in ("item", "category"):
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
    daily, once = ({**found, "funnel": dict(found["funnel"])} for found in figures)
    for told in ("raw rows", "rejected"):
        del daily["funnel"][told], once["funnel"][told]
    assert daily == once
    assert once["funnel"]["app events"] > 0
    assert once["funnel"]["dropped"]["stay below minimum"] > 0
    assert once["funnel"]["dropped"]["too many clicks a day"] > 0
    assert once["items whose value changed"]["category"] > 0
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


def test_a_day_again_changes_nothing(runs: Runs) -> None:
    lake = runs.daily.lake
    before = {table: rows_of(lake, table) for table in TABLES}
    versions = {table: lake.version(table) for table in ("clean", "sessions", "item_days")}
    with killed_after("vocabulary/item"):
        preprocess(runs.again("daily"), SECOND)
    assert {table: rows_of(lake, table) for table in TABLES} == before
    # Not even a commit.
    assert {table: lake.version(table) for table in versions} == versions


def test_a_day_with_too_many_rejects_does_not_come_in(runs: Runs) -> None:
    day, lake = date(2024, 3, 6), runs.daily.lake
    rows = [click(user, 1, datetime(2024, 3, 6, 9), day) for user in ("", "", "u")]
    write_rows(runs.folder, [*brought_rows(), *rows])
    version = lake.version("events")
    with pytest.raises(PipelineError, match=r"2 of 3 rows \(66.7%\) .*Nothing has changed"):
        preprocess(runs.again("daily"), day)
    assert lake.version("events") == version
    assert [row["reason"] for row in lake.read(STOPPED).collect()] == ["no user_id"] * 2


def test_an_empty_day(runs: Runs) -> None:
    before = rows_of(runs.daily.lake, "events")
    write_rows(runs.folder, brought_rows())
    with killed_after("events"):
        preprocess(runs.again("daily"), date(2024, 3, 8))
    assert rows_of(runs.daily.lake, "events") == before


def test_events_of_a_stopped_run_are_not_let_in_by_a_day(runs: Runs) -> None:
    write_log(runs.folder)
    with killed_after("events"):
        preprocess(runs.again("stopped"))
    with pytest.raises(
        PipelineError,
        match=r"stopped before the rejects .* were counted; run preprocess without --date once",
    ):
        preprocess(runs.again("stopped"), FIRST)
    with killed_after("clean"):
        preprocess(runs.again("stopped"))
    with killed_after("rejects"):
        preprocess(runs.again("stopped"), FIRST)


def test_an_older_set_of_shards_is_written_again_to_the_byte(runs: Runs) -> None:
    lake, older = runs.once.lake, Manifest.read(runs.once.output.shards)
    config = without_brands(runs.folder).model_dump(mode="json")
    older = older.model_copy(update={"config": config})
    # The tables go on.
    lake.write("clean", lake.read("clean").limit(0))
    again = Output.under(runs.folder / "again", lake.root)
    manifest = rebuild(runs.again("once"), older, again)
    assert checksums(manifest) == checksums(older)
    assert sum(1 for _ in verify(again.shards, Manifest.read(again.shards))) > 0
    lake.restore("clean", older.inputs["clean"])


def test_a_day_of_duplicates_is_counted_and_taken_back(runs: Runs) -> None:
    """It changes no click, so the counts have to follow the events and not the clicks."""
    day, lake = date(2024, 3, 7), runs.once.lake
    known, versions = runs.results[1].figures["funnel"]["dropped"], []
    clicks = defaultdict(list)
    for row in brought_rows():
        if row[0] and row[3] == "view" and row[-1] == FIRST:
            clicks[row[0]].append(row)
    # Of users who stay under the limit of a day with them.
    some = [theirs[0] for theirs in clicks.values() if len(theirs) < 5][:5]
    assert len(some) == 5
    for times in (3, 2, 0):
        write_rows(runs.folder, [*brought_rows(), *[(*row[:-1], day) for row in some * times]])
        renewed = ingest_and_renew(runs.once, day, may_be_empty=not times)
        assert renewed.funnel["dropped"] == known | {"duplicate": known["duplicate"] + 5 * times}
        inputs = {table: lake.version(table) for table in ("events", "clean")}
        note = Note(inputs=inputs, counts=renewed.counts)
        lake.write("statistics", lake.read("statistics"), note=note)
        versions.append(lake.version("clean"))
    assert versions[1:] == versions[:-1]


def test_a_user_is_removed_and_old_days_are_dropped(runs: Runs) -> None:
    lake, config = runs.again("daily").lake, without_brands(runs.folder)
    # Of a session over midnight.
    over_midnight = lake.read("clean").where("to_date(session_start) < date")
    user = over_midnight.select(F.max("user_id").alias("user_id")).first()["user_id"]
    assert user == "owl 2"
    dates = [(row["user_id"], row["date"]) for row in lake.read("events").collect()]
    kept = max(day for _, day in dates) - timedelta(days=1)
    assert remove_user(lake, user, config.source) == sum(name == user for name, _ in dates)
    older = [(name, day) for name, day in dates if name != user and day < kept]
    assert drop_before(lake, 2) == len(older) > 0
    updated = runs.again("daily")
    with killed_after("sessions"):
        update(updated)
    # What the killed run counted: all is up to date, so nothing is written.
    renewed = ingest_and_renew(updated, "nothing")
    counted = runs.results[0].figures["funnel"]
    assert renewed.funnel["raw rows"] < counted["raw rows"]
    found = rows_of(lake, "clean")
    for table in ("events", "clean", "sessions"):
        gone = (F.col("user_id") == user) | (F.col("date") < F.lit(kept))
        assert lake.read(table).where(gone).isEmpty()
    assert {row["id"] for row in sessions_of(lake.read("clean"))} == {
        row["id"] for row in sessions_of(lake.read("sessions"))
    }
    # What was mended is what the events that are left give anew.
    lake.write("clean", lake.read("clean").limit(0))
    anew = ingest_and_renew(runs.again("daily"), "nothing")
    assert rows_of(lake, "clean") == found
    assert anew.funnel["dropped"] == renewed.funnel["dropped"]


def sessions_of(frame: DataFrame) -> list[Row]:
    """The user and begin of each session."""
    start = "start" if "start" in frame.columns else "session_start"
    return frame.select(F.concat_ws(" ", "user_id", start).alias("id")).distinct().collect()


def test_upkeep_leaves_the_rows_and_vacuum_ends_the_past(runs: Runs) -> None:
    lake = Lake(runs.spark, runs.daily.lake.root)
    before, version, note = (
        rows_of(lake, "sessions"),
        lake.version("sessions"),
        lake.note("sessions"),
    )
    files = len(names(lake.root / "sessions", r".*\.parquet", recursive=True))
    assert "sessions" in lake.tables()
    assert {table for table in lake.tables() if "/" in table} >= {
        "edges/item",
        "edges/category",
        "links/item_category",
        "vocabulary/item",
    }
    lake.optimize("sessions")
    assert rows_of(lake, "sessions") == before
    assert (lake.note("sessions"), lake.changed("sessions", version)) == (note, [])
    assert (lake.like("sessions", version), lake.like("sessions", version - 1)) == (
        lake.version("sessions"),
        version - 1,
    )
    lake.vacuum("sessions", 0)
    assert rows_of(lake, "sessions") == before
    assert len(names(lake.root / "sessions", r".*\.parquet", recursive=True)) < files
