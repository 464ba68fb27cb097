"""Each way to call the jobs that use Spark, as a command line, over a small log of two days."""

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import maintain, preprocess
from jobs.common.config import load
from jobs.preprocessing import sparkjobs
from pipeline.config import PipelineConfig
from pipeline.contracts.layout import Output
from pipeline.contracts.sealed import MANIFEST
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from pipeline.errors import PipelineError
from pipeline.lake import GoneError, Lake
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.rebuild import checksums, rebuild
from pipeline.storage.files import remove_folder
from pipeline.storage.locations import names
from tests.jobs.test_preprocess import project

pytestmark = pytest.mark.timeout(1200)
FIRST, SECOND = date(2024, 3, 1), date(2024, 3, 2)
LEAVER = "user who leaves"
"""Of the second day, with an item that nobody else clicks and a row that is no event."""
HEADER = "user,item,time\n"
CONFIG = """
name = "shop"
output = "build"
[source]
path = "${SHOP}/clicks/{date}.csv"
format = "csv"
max_rejected_share = 0.5
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
    for day, users in ((FIRST, ["a", "b"]), (SECOND, ["b", "c", LEAVER])):
        lines = "".join(
            f"{user},{'only his' if (user, item) == (LEAVER, 3) else f'item {item}'},"
            f"{day} 10:00:{item:02}\n"
            for user in users
            for item in range(4)
        )
        if LEAVER in users:
            lines += f"{LEAVER},,{day} 11:00:00\n"
        (shop.folder / "clicks" / f"{day}.csv").write_text(HEADER + lines, encoding="utf-8")
        shop.call(preprocess.main, "--date", str(day))
        if day == FIRST:
            shutil.copytree(shop.shards, shop.folder / "older")
    return shop


@pytest.fixture(scope="module")
def left(
    original: Shop, session: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Shop, str]:
    """The shop without a user, its files put together; and what was printed."""
    shop = Shop(tmp_path_factory.mktemp("left") / "copy")
    shutil.copytree(original.folder, shop.folder)
    session.setenv("SHOP", str(shop.folder))
    printed = io.StringIO()
    with redirect_stdout(printed):
        shop.call(maintain.main, "--remove-user", LEAVER, "--compact")
    return shop, printed.getvalue()


@pytest.fixture
def shop(original: Shop, session: pytest.MonkeyPatch, tmp_path: Path) -> Shop:
    shutil.copytree(original.folder, tmp_path / "copy")
    session.setenv("SHOP", str(tmp_path / "copy"))
    return Shop(tmp_path / "copy")


def holding(folder: Path, text: str) -> list[Path]:
    """The Parquet files under a folder in which a text stands."""
    return [
        path
        for path in sorted(folder.rglob("*.parquet"))
        if text in str(pq.ParquetFile(path).read().to_pylist())
    ]


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
            (LEAVER, SECOND),
        }
    older, now = Manifest.read(original.folder / "older"), Manifest.read(original.shards)
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
    assert sum(stream.pairs for stream in Manifest.read(shop.shards).streams["item"]) == 2 * 12


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
        assert users_of(shop.lake(spark), table) == {("b", SECOND), ("c", SECOND), (LEAVER, SECOND)}
    assert sum(stream.pairs for stream in Manifest.read(shop.shards).streams["item"]) == 3 * 12


def test_shards_of_an_older_manifest_are_rebuilt_until_their_versions_are_vacuumed(
    shop: Shop, spark: SparkSession
) -> None:
    older, again = shop.folder / "older", shop.folder / "again"
    shop.call(maintain.main, "--rebuild", str(older), "--to", str(again))
    (manifest,) = again.rglob("shards/manifest.json")
    assert checksums(Manifest.read(manifest.parent)) == checksums(Manifest.read(older))
    assert checksums(Manifest.read(older)) != checksums(Manifest.read(shop.shards))

    shop.call(maintain.main, "--vacuum-hours", "0")
    lake = shop.lake(spark)
    for table in ("events", "clean", "vocabulary/item"):
        assert len(names(lake.root / table, r".*\.parquet", recursive=True)) == len(
            lake.read(table).inputFiles()
        )
    with pytest.raises(SystemExit, match=r"^maintain\.py: .*vacuumed"):
        shop.call(maintain.main, "--rebuild", str(older), "--to", str(again))


def test_a_command_line_that_asks_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        maintain.main([str(project(tmp_path, ""))])
    assert ended.value.code == 2
    assert "say what to do: --remove-user" in capsys.readouterr().err


def test_a_user_is_removed_from_every_file(
    original: Shop, left: tuple[Shop, str], spark: SparkSession
) -> None:
    lake = original.folder / "build/shop/lake"
    assert {path.parts[len(lake.parts)] for path in holding(lake, LEAVER)} >= {
        "events",
        "rejects",
        "clean",
        "sessions",
    }
    assert holding(lake, "only his")
    shop, printed = left
    root = shop.folder / "build/shop"
    assert f"5 rows of user '{LEAVER}' removed" in printed
    assert not holding(root, LEAVER)
    assert len(holding(root, "item 0")) > 0
    # The item that nobody else clicked keeps its row, unused.
    vocabulary = shop.lake(spark).read("vocabulary/item").where("id = 'only his'").collect()
    assert [row["count"] for row in vocabulary] == [0]
    assert sum(1 for _ in verify(shop.shards, Manifest.read(shop.shards))) > 0


def test_shards_are_rebuilt_as_long_as_their_rows_are_there(
    left: tuple[Shop, str], session: pytest.MonkeyPatch, spark: SparkSession, tmp_path: Path
) -> None:
    """Files of the versions that the manifest names may have been put together and vacuumed
    since."""
    shop, _ = left
    session.setenv("SHOP", str(shop.folder))
    settings = load([shop.folder / "shop.toml"]).model_copy(
        update={"output": str(shop.folder / "build")}
    )
    output, again = settings.paths.output, Output.under(tmp_path / "again", settings.paths.lake)
    config = settings.model_dump(mode="json", include=set(PipelineConfig.model_fields))
    pipeline = Pipeline(spark, settings, output, Identity(config, "hash", "version"))
    older = Manifest.read(output.shards)
    # Of the runs before too, whose shards are gone.
    *_, before, kept = (
        Manifest.read_file(output.manifests / name) for name in sorted(names(output.manifests))
    )
    assert (before.inputs["clean"] < kept.inputs["clean"], kept) == (True, older)
    assert older.inputs["events"] < pipeline.lake.version("events")
    with pytest.raises(
        PipelineError, match="the manifest is of project 'fair', the configuration of 'shop'"
    ):
        rebuild(pipeline, older.model_copy(update={"name": "fair"}), again)
    other = {"item": older.views["item"].model_copy(update={"streams": ()})}
    with pytest.raises(
        PipelineError,
        match=f"{again.shards} is not to the byte what the manifest lists: item/windows differ",
    ):
        rebuild(pipeline, older.model_copy(update={"views": other}), again)
    assert not (again.shards / MANIFEST).exists()
    remove_folder(output.shards)
    kept_file = output.manifests / sorted(names(output.manifests))[-1]
    rebuild(pipeline, maintain.manifest_of(str(kept_file)), again)
    manifest = Manifest.read(again.shards)
    assert checksums(manifest) == checksums(older)
    assert manifest.inputs["events"] > older.inputs["events"]
    pipeline.lake.write("clean", pipeline.lake.read("clean").limit(1))
    pipeline.lake.vacuum("clean", 0)
    with pytest.raises(
        GoneError, match=r"files of an older version were vacuumed: .*clean.* does not exist"
    ):
        rebuild(pipeline, older, again)
