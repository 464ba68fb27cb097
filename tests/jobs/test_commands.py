"""Each way to call the jobs that use Spark, as a command line, over a small log of two days."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import maintain, preprocess
from jobs.preprocessing import sparkjobs
from pipeline.contracts.shards import read_manifest
from pipeline.lake import Lake
from pipeline.runs.rebuild import checksums
from pipeline.storage.locations import names

FIRST, SECOND = date(2024, 3, 1), date(2024, 3, 2)
HEADER = "user,item,time\n"
CONFIG = """
name = "shop"
output = "build"
[source]
path = "${SHOP}/clicks/{date}.csv"
format = "csv"
[source.columns]
user_id = "user"
item_id = "item"
timestamp = "time"
[views.item]
[shards]
encodings = ["windows"]
files = 1
"""


@dataclass
class Shop:
    """A project whose files all lie in one folder, so that each test has a copy of its own."""

    folder: Path

    @property
    def shards(self) -> Path:
        return self.folder / "build/shop/shards"

    def lake(self, spark: SparkSession) -> Lake:
        return Lake(spark, self.folder / "build/shop/lake")

    def call(self, main: Callable[[list[str]], None], *options: str) -> None:
        main([str(self.folder / "shop.toml"), "--output", str(self.folder / "build"), *options])


@pytest.fixture(scope="module")
def session(spark: SparkSession) -> Iterator[pytest.MonkeyPatch]:
    """The jobs run in the session of the tests, and leave it open."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sparkjobs, "open_session", lambda _: spark)
        patched.setattr(spark, "stop", lambda: None)
        yield patched


@pytest.fixture(scope="module")
def original(session: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Both days were taken in; what there was after the first is kept in `older`."""
    shop = Shop(tmp_path_factory.mktemp("commands"))
    (shop.folder / "shop.toml").write_text(CONFIG, encoding="utf-8")
    (shop.folder / "clicks").mkdir()
    session.setenv("SHOP", str(shop.folder))
    for day, users in ((FIRST, "ab"), (SECOND, "bcd")):
        lines = "".join(
            f"{user},item {item},{day} 10:00:{item:02}\n" for user in users for item in range(4)
        )
        (shop.folder / "clicks" / f"{day}.csv").write_text(HEADER + lines, encoding="utf-8")
        shop.call(preprocess.main, "--date", str(day))
        if day == FIRST:
            shutil.copytree(shop.shards, shop.folder / "older")
    return shop


@pytest.fixture
def shop(original: Shop, session: pytest.MonkeyPatch, tmp_path: Path) -> Shop:
    shutil.copytree(original.folder, tmp_path / "copy")
    session.setenv("SHOP", str(tmp_path / "copy"))
    return Shop(tmp_path / "copy")


def users_of(lake: Lake, table: str) -> set[tuple[str, date]]:
    return {
        (row["user_id"], row["date"])
        for row in lake.read(table).select("user_id", "date").distinct().collect()
    }


def test_days_are_taken_in_one_by_one(original: Shop, spark: SparkSession) -> None:
    lake = original.lake(spark)
    for table in ("events", "clean", "sessions"):
        assert users_of(lake, table) == {
            ("a", FIRST),
            ("b", FIRST),
            ("b", SECOND),
            ("c", SECOND),
            ("d", SECOND),
        }
    older, now = read_manifest(original.folder / "older"), read_manifest(original.shards)
    assert [
        sum(stream.pairs for stream in manifest.streams["item"]) for manifest in (older, now)
    ] == [2 * 12, 5 * 12]


def test_a_file_with_a_header_alone_is_an_empty_day_where_that_is_said(
    shop: Shop, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop.folder / "clicks" / f"{SECOND}.csv").write_text(HEADER, encoding="utf-8")
    with pytest.raises(
        SystemExit,
        match=(
            rf"^preprocess\.py: .*holds no row of {SECOND}, of which the lake has 12 events; "
            r".*--empty-day"
        ),
    ):
        shop.call(preprocess.main, "--date", str(SECOND))
    shop.call(preprocess.main, "--date", str(SECOND), "--empty-day")
    assert "8 raw rows, 8 clicks" in capsys.readouterr().out
    assert (
        users_of(shop.lake(spark), "clean")
        == users_of(shop.lake(spark), "sessions")
        == {("a", FIRST), ("b", FIRST)}
    )
    assert sum(stream.pairs for stream in read_manifest(shop.shards).streams["item"]) == 2 * 12


def test_a_set_of_shards_is_verified(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.call(preprocess.main, "--verify", str(shop.shards))
    assert (
        f"{shop.shards}: 2 files are as manifest.json says, 60 pairs in all"
        in capsys.readouterr().out
    )
    (file,) = (shop.shards / "item/windows").glob("*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(SystemExit, match=rf"^preprocess\.py: .*{file.name} is not the file"):
        shop.call(preprocess.main, "--verify", str(shop.shards))


def test_days_before_the_newest_are_dropped(
    shop: Shop, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.call(maintain.main, "--keep-days", "1")
    assert "8 events dropped" in capsys.readouterr().out
    for table in ("events", "clean", "sessions"):
        assert users_of(shop.lake(spark), table) == {("b", SECOND), ("c", SECOND), ("d", SECOND)}
    assert sum(stream.pairs for stream in read_manifest(shop.shards).streams["item"]) == 3 * 12


def test_shards_of_an_older_manifest_are_rebuilt_until_their_versions_are_vacuumed(
    shop: Shop, spark: SparkSession
) -> None:
    older, again = shop.folder / "older", shop.folder / "again"
    shop.call(maintain.main, "--rebuild", str(older), "--to", str(again))
    (manifest,) = again.rglob("shards/manifest.json")
    assert checksums(read_manifest(manifest.parent)) == checksums(read_manifest(older))
    assert checksums(read_manifest(older)) != checksums(read_manifest(shop.shards))

    shop.call(maintain.main, "--vacuum-hours", "0")
    lake = shop.lake(spark)
    for table in ("events", "clean", "vocabulary/item"):
        assert len(names(lake.root / table, r".*\.parquet", recursive=True)) == len(
            lake.read(table).inputFiles()
        )
    with pytest.raises(SystemExit, match=r"^maintain\.py: .*vacuumed"):
        shop.call(maintain.main, "--rebuild", str(older), "--to", str(again))
