"""What a run that dies, or two at a time, leave of the lake's tables; test_days_of_a_shop.py and
check_daily.py take in a log day by day so."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.common.config import load
from pipeline.contracts.sealed import MANIFEST
from pipeline.errors import PipelineError
from pipeline.lake import Lake
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess
from pipeline.runs.renew import differing
from pipeline.shards import cases
from pipeline.storage.locations import Location, names
from tests.jobs.test_preprocess import project


class KilledError(Exception):
    """Stands for the end of a process."""


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
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("u", "i", "10:00:00"), ("u", "j", "10:00:05"), ("u", "i", "10:00:09")]
    lines = "".join(f"{user},{item},2024-03-01 {time}\n" for user, item, time in rows)
    settings = load([project(tmp_path, lines)])
    run = Pipeline(spark, settings, settings.paths.output, Identity({}, "hash", "version"))
    write = cases.write_cases

    def overtaken(folder: Location, clicks: DataFrame) -> None:
        Lake(spark, run.lake.root).write("edges/item", run.lake.read("edges/item"))
        write(folder, clicks)

    monkeypatch.setattr(cases, "write_cases", overtaken)
    with pytest.raises(PipelineError, match=r"another run has written .*/edges/item meanwhile"):
        preprocess(run)
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
