"""A log taken in day by day, with late rows, deliveries repeated and runs killed, is the log taken
in at once."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import MANIFEST, Manifest, read_manifest
from pipeline.contracts.verify import verify
from pipeline.errors import PipelineError
from pipeline.lake import Lake, Note
from pipeline.runs.intake import STOPPED, Intake, differing
from pipeline.runs.maintenance import drop_before, remove_user
from pipeline.runs.preprocess import Identity, Pipeline
from pipeline.shards import cases
from pipeline.storage.locations import Location, names

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


class KilledError(Exception):
    """Stands for the end of a process."""


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


@contextmanager
def killed_after(table: str) -> Iterator[None]:
    """The process dies once a table is written."""
    write = Lake.write

    def dying(self: Lake, name: str, *arguments: Any, **named: Any) -> DataFrame:
        write(self, name, *arguments, **named)
        if name == table:
            raise KilledError
        return self.read(name)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Lake, "write", dying)
        with pytest.raises(KilledError):
            yield


def rows_of(lake: Lake, table: str) -> list[tuple[Any, ...]]:
    frame = lake.read(table)
    # Two runs have folders of their own.
    frame = frame.drop("source_file")
    return sorted((tuple(row) for row in frame.select(*sorted(frame.columns)).collect()), key=repr)


@dataclass
class Runs:
    """The same log, taken in day by day and at once."""

    folder: Path
    daily: Pipeline
    once: Pipeline
    raw_rows: int


@pytest.fixture(scope="module")
def runs(spark: SparkSession, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder, brought = tmp_path_factory.mktemp("daily"), deliveries(data)
    first, second, third, fourth = DAYS
    deliver(folder, first, brought[first])
    with killed_after("sessions"):
        pipeline(spark, folder, "daily").run(first)
    # What comes of the second day is wrong at first.
    wrong = brought[second].sample(frac=0.5, random_state=1)
    deliver(folder, second, wrong.assign(user=wrong["user"] + "0"))
    with killed_after("clean"):
        pipeline(spark, folder, "daily").run(second)
    deliver(folder, second, brought[second])
    with killed_after("events"):
        pipeline(spark, folder, "daily").run(second)
    deliver(folder, third, brought[third])
    with killed_after("item_days"):
        pipeline(spark, folder, "daily").run(third)
    deliver(folder, fourth, brought[fourth])
    daily, once = pipeline(spark, folder, "daily"), pipeline(spark, folder, "once")
    daily.run(fourth)
    once.run()
    return Runs(folder, daily, once, sum(map(len, brought.values())))


@pytest.mark.parametrize("table", BY_RAW_ID)
def test_days_one_by_one_are_the_log_at_once(runs: Runs, table: str) -> None:
    found = rows_of(runs.once.lake, table)
    assert found
    assert rows_of(runs.daily.lake, table) == found


def test_the_figures_are_those_of_the_whole_log(runs: Runs) -> None:
    assert runs.once.figures["funnel"]["raw rows"] == runs.raw_rows
    assert runs.once.figures["funnel"]["dropped"]["too many clicks a day"] > 0
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
        assert runs.daily.figures[name] == runs.once.figures[name], name


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


def test_a_day_again_changes_nothing(spark: SparkSession, runs: Runs) -> None:
    before = {table: rows_of(runs.daily.lake, table) for table in BY_RAW_ID}
    versions = {
        table: runs.daily.lake.version(table) for table in ("clean", "sessions", "item_days")
    }
    with killed_after("vocabulary/item"):
        pipeline(spark, runs.folder, "daily").run(DAYS[1])
    assert {table: rows_of(runs.daily.lake, table) for table in BY_RAW_ID} == before
    # Not even a commit.
    assert {table: runs.daily.lake.version(table) for table in versions} == versions


def test_a_day_with_too_many_rejects_does_not_come_in(spark: SparkSession, runs: Runs) -> None:
    day = date(2017, 10, 7)
    deliver(
        runs.folder,
        day,
        pd.DataFrame(
            {
                "user": ["", "", "u"],
                "article": 1,
                "time": 1_507_334_400_000,
                "visit": 1,
                "opened": 0,
                "device": 1,
            }
        ),
    )
    version = runs.daily.lake.version("events")
    with pytest.raises(PipelineError, match=r"2 of 3 rows \(66.7%\) .*Nothing has changed"):
        pipeline(spark, runs.folder, "daily").run(day)
    assert runs.daily.lake.version("events") == version
    assert [row["reason"] for row in runs.daily.lake.read(STOPPED).collect()] == ["no user_id"] * 2


def test_events_of_a_stopped_run_are_not_let_in_by_a_day(spark: SparkSession, runs: Runs) -> None:
    with killed_after("events"):
        pipeline(spark, runs.folder, "stopped").run()
    with pytest.raises(
        PipelineError,
        match=r"stopped before the rejects .* were counted; run preprocess without --date once",
    ):
        pipeline(spark, runs.folder, "stopped").run(DAYS[0])
    with killed_after("clean"):
        pipeline(spark, runs.folder, "stopped").run()
    with killed_after("rejects"):
        pipeline(spark, runs.folder, "stopped").run(DAYS[0])


def test_an_empty_day(spark: SparkSession, runs: Runs) -> None:
    day, before = date(2017, 10, 8), rows_of(runs.daily.lake, "events")
    (runs.folder / f"day {day:%Y/%m/%d}").mkdir()
    (runs.folder / f"day {day:%Y/%m/%d}" / "part.csv").touch()
    with killed_after("events"):
        pipeline(spark, runs.folder, "daily").run(day)
    assert rows_of(runs.daily.lake, "events") == before


def test_an_older_set_of_shards_is_written_again_to_the_byte(
    spark: SparkSession, runs: Runs
) -> None:
    shards = runs.once.output.shards
    older = read_manifest(shards)
    older = older.model_copy(update={"config": settings(runs.folder).model_dump(mode="json")})
    # The tables go on.
    runs.once.lake.write("clean", runs.once.lake.read("clean").limit(0))
    again = Output.under(runs.folder / "again", runs.once.output.lake)
    manifest = pipeline(spark, runs.folder, "once").rebuild(older, again)
    assert checksums(manifest) == checksums(older)
    assert sum(1 for _ in verify(again.shards, read_manifest(again.shards))) > 0
    runs.once.lake.restore("clean", older.inputs["clean"])


def test_a_day_of_duplicates_is_counted_and_taken_back(spark: SparkSession, runs: Runs) -> None:
    """It changes no click, so the counts have to follow the events and not the clicks."""
    day, lake = date(2017, 10, 9), runs.once.lake
    known, versions = runs.once.figures["funnel"]["dropped"], []
    there = pd.read_csv(runs.folder / f"day {DAYS[0]:%Y/%m/%d}" / "part.csv", dtype=str).dropna()
    # Of users who stay under the limit of a day with them.
    some = (
        there.groupby("user")
        .filter(lambda theirs: len(theirs) < 15)
        .groupby("user")
        .head(1)
        .head(10)
    )
    for times in (3, 2, 0):
        deliver(runs.folder, day, pd.concat([some.head(0)] + [some] * times))
        intake = Intake(spark, settings(runs.folder), lake, day, may_be_empty=not times)
        intake.take_in()
        intake.clean()
        assert intake.funnel["dropped"] == known | {"duplicate": known["duplicate"] + 10 * times}
        note = Note(
            inputs={table: lake.version(table) for table in ("events", "clean")},
            counts=intake.counts,
        )
        lake.write("statistics", lake.read("statistics"), note=note)
        versions.append(lake.version("clean"))
    assert versions[1:] == versions[:-1]


def checksums(manifest: Manifest) -> dict[str, list[str]]:
    found = {name: [view.vocabulary.sha256] for name, view in manifest.views.items()}
    return found | {
        f"{name} stream": [file.sha256 for file in streams[0].files]
        for name, streams in manifest.streams.items()
    }


def test_a_user_is_removed_and_old_days_are_dropped(spark: SparkSession, runs: Runs) -> None:
    lake = pipeline(spark, runs.folder, "daily").lake
    clean = lake.read("clean")
    user = clean.where("to_date(session_start) < date").first()[
        "user_id"
    ]  # of a session over midnight
    theirs = lake.read("events").where(F.col("user_id") == user).count()
    counted = runs.daily.figures["funnel"]
    assert remove_user(lake, user, settings(runs.folder).source) == theirs
    assert drop_before(lake, 2) == sum(
        1
        for row in rows_of(runs.once.lake, "events")
        if row_date(runs.once.lake, row) < DAYS[2] and user not in row
    )
    updated = pipeline(spark, runs.folder, "daily")
    with killed_after("sessions"):
        updated.update()
    assert updated.figures["funnel"]["raw rows"] < counted["raw rows"]
    found = rows_of(lake, "clean")
    for table in ("events", "clean", "sessions"):
        assert (
            lake.read(table).where((F.col("user_id") == user) | (F.col("date") < DAYS[2])).isEmpty()
        )
    assert {row["id"] for row in sessions_of(lake.read("clean"))} == {
        row["id"] for row in sessions_of(lake.read("sessions"))
    }
    # What was mended is what the events that are left give anew.
    lake.write("clean", lake.read("clean").limit(0))
    anew = Intake(
        spark, settings(runs.folder), pipeline(spark, runs.folder, "daily").lake, "nothing"
    )
    anew.clean()
    assert rows_of(lake, "clean") == found
    assert anew.funnel["dropped"] == updated.figures["funnel"]["dropped"]


def sessions_of(frame: DataFrame) -> list[Row]:
    """The user and begin of each session."""
    start = "start" if "start" in frame.columns else "session_start"
    return frame.select(F.concat_ws(" ", "user_id", start).alias("id")).distinct().collect()


def row_date(lake: Lake, row: tuple[Any, ...]) -> date:
    return row[sorted(lake.read("events").columns).index("date")]  # type: ignore[no-any-return]


def test_upkeep_leaves_the_rows_and_vacuum_ends_the_past(spark: SparkSession, runs: Runs) -> None:
    lake = Lake(spark, runs.daily.lake.root)
    before, version = rows_of(lake, "sessions"), lake.version("sessions")
    note, files = (
        lake.note("sessions"),
        len(names(lake.root / "sessions", r".*\.parquet", recursive=True)),
    )
    assert "sessions" in lake.tables()
    assert {table for table in lake.tables() if "/" in table} >= {
        "edges/item",
        "edges/device",
        "links/item_device",
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


@pytest.fixture
def root(tmp_path: Path) -> Location:
    """Where a lake may lie."""
    return tmp_path


def test_of_two_writers_one_gets_an_error(spark: SparkSession, root: Location) -> None:
    one, other = Lake(spark, root), Lake(spark, root)
    rows = spark.createDataFrame([("a", 1)], "id string, row int")
    one.hold(["links/x"])
    other.hold(["links/x"])
    one.check_alone()
    other.write("links/x", rows)
    for late in (one.check_alone, lambda: one.write("links/x", rows)):
        with pytest.raises(
            PipelineError, match=f"another run has written {root}/links/x meanwhile"
        ):
            late()


def test_a_run_that_another_one_overtook_after_its_last_table_publishes_nothing(
    spark: SparkSession, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path, DAYS[0], deliveries(data)[DAYS[0]])
    run, write = pipeline(spark, tmp_path, "out"), cases.write_cases

    def overtaken(folder: Location, clicks: DataFrame) -> None:
        Lake(spark, run.lake.root).write("edges/item", run.lake.read("edges/item"))
        write(folder, clicks)

    monkeypatch.setattr(cases, "write_cases", overtaken)
    with pytest.raises(PipelineError, match=r"another run has written .*/edges/item meanwhile"):
        run.run(DAYS[0])
    assert not (run.output.shards / MANIFEST).exists()
    assert not list(names(run.output.manifests, r".*\.json"))


def test_of_two_writers_that_both_looked_first_one_gets_an_error(
    spark: SparkSession, root: Location, tmp_path: Path
) -> None:
    """Neither has seen the other's commit, so that only Delta can tell them apart."""
    if spark.sparkContext.defaultParallelism < 2:
        pytest.skip("two writes at a time need two cores")
    one, other = Lake(spark, root), Lake(spark, root)
    one.write("links/x", spark.createDataFrame([("a", 1)], "id string, row int"))
    one._expected = {}
    with ThreadPoolExecutor(2) as threads:
        begun = [
            threads.submit(
                lake.write,
                "links/x",
                once_both_write(spark, tmp_path / "writing", name),
                (),
                "row = 1",
            )
            for name, lake in (("b", one), ("c", other))
        ]
    errors = {name: write.exception() for name, write in zip("bc", begun, strict=True)}
    (winner,) = (name for name, error in errors.items() if error is None)
    (error,) = filter(None, errors.values())
    assert isinstance(error, PipelineError)
    assert str(error).startswith(f"another run has written {root}/links/x meanwhile")
    assert [row["id"] for row in one.read("links/x").collect()] == [winner]
    assert one.newest("links/x") == 1


def once_both_write(spark: SparkSession, folder: Path, name: str) -> DataFrame:
    """A row that comes into being while its table is written, and not before two such writes are
    under way: each has taken its snapshot."""
    folder.mkdir(exist_ok=True)

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        (folder / name).touch()
        for _ in range(600):
            if len(list(folder.iterdir())) == 2:
                return batches
            time.sleep(0.1)
        raise TimeoutError(f"{name} waited a minute for the other write")

    rows = spark.createDataFrame([(name, 1)], "id string, row int").coalesce(1)
    return rows.mapInArrow(wait, "id string, row int")


def test_a_table_whose_first_commit_never_came_is_none(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "clean" / "_delta_log").mkdir(parents=True)
    lake = Lake(spark, tmp_path)
    assert (lake.exists("clean"), lake.note("clean"), lake.tables()) == (False, None, [])


def test_a_version_is_like_the_one_that_put_its_files_together(
    spark: SparkSession, tmp_path: Path
) -> None:
    lake = Lake(spark, tmp_path)
    for _ in range(2):
        lake.write("numbers", spark.range(0, 10, 1, 2))
        lake.optimize("numbers")
    assert [lake.like("numbers", version) for version in range(4)] == [1, 1, 3, 3]
    assert (lake.changed("numbers", 2), lake.changed("numbers", 1)) == ([], None)


def test_users_whose_rows_differ(spark: SparkSession) -> None:
    columns = "user_id string, a string, b string"
    one = [
        ("same", "1", None),
        ("same", None, "1"),
        ("moved", "1", None),
        ("twice", "1", "2"),
        ("gone", "1", "2"),
    ]
    other = [
        ("same", None, "1"),
        ("same", "1", None),
        ("moved", None, "1"),
        ("twice", "1", "2"),
        ("twice", "1", "2"),
        ("new", "1", "2"),
    ]
    found = differing(
        spark.createDataFrame(one, columns), spark.createDataFrame(other, columns), ["user_id"]
    )
    assert sorted(row["user_id"] for row in found.collect()) == ["gone", "moved", "new", "twice"]
