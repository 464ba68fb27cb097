"""DuckDB and polars, beside which the pipeline is timed, write the same tables from the same small
log; check_peers.py has the pipeline write them too."""

import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from jobs.common.config import Project
from tests.bench import peer_duckdb, peer_polars, spark_hash, tables
from tests.bench.inputs import globo, multiplied, rules
from tests.bench.pipeline import _unequal, summary
from tests.bench.process import measured
from tests.bench.recount import Recount

BEGIN = 1_506_826_800_000
FIELDS = ["user_id", "session_id", "session_start", "click_article_id", "click_timestamp"]
GAPS = [
    1,
    1_999,
    2_000,
    2_001,
    60_000,
    1_799_999,
    1_800_000,
    1_800_001,
    3_599_999,
    3_600_000,
    40_000_000,
]
"""Milliseconds between clicks, on both sides of every boundary; never 0: equal times have an order
of each engine's own."""


def made_up_clicks(users: int = 150) -> pa.Table:
    """A log with app sessions that overlap, returns to the same article, and exact duplicates."""
    dice = random.Random(5)
    rows = []
    for user in range(10_000_000, 10_000_000 + users):
        now = BEGIN + dice.randrange(3_600_000)
        apps: list[tuple[int, int]] = []
        for _ in range(dice.randrange(1, 40)):
            now += dice.choice(GAPS)
            if not apps or dice.random() < 0.3:
                apps.append((user * 1000 + len(apps), now - dice.choice([0, 30_000, 1_800_000])))
            click = (
                user,
                *dice.choice([apps[-1], apps[-1], dice.choice(apps)]),
                min(int(dice.expovariate(0.15)), 40),
                now,
            )
            rows += [click] * dice.choice([1, 1, 1, 2])
    dice.shuffle(rows)
    return pa.table(
        [pa.array(column, pa.int64()) for column in zip(*rows, strict=True)], names=FIELDS
    )


def write_log(folder: Path) -> tuple[Path, Path]:
    """The folder of made-up clicks, and the file of their articles."""
    clicks, articles = folder / "clicks", folder / "articles.csv"
    clicks.mkdir()
    pq.write_table(made_up_clicks(), clicks / "made-up.parquet")
    lines = ["article_id,category_id,how"] + [
        f"{article},{-1 if article % 7 == 0 else 1000 + article % 5},made up"
        for article in range(41)
    ]
    articles.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return clicks, articles


def small_project(clicks: Path, articles: Path) -> Project:
    """Globo's settings over another log, nothing held out."""
    project = globo()
    source = project.source.model_copy(
        update={
            "path": str(clicks),
            "items": (project.source.items[0].model_copy(update={"path": str(articles)}),),
        }
    )
    split = project.split.model_copy(update={"kind": "none", "cut": None, "hours": None})
    shards = project.shards.model_copy(update={"encodings": ("windows",), "row_group_rows": 1000})
    return project.model_copy(update={"source": source, "split": split, "shards": shards})


def test_both_peers_write_the_same_tables(tmp_path: Path) -> None:
    clicks, articles = write_log(tmp_path)
    told, outputs = rules(small_project(clicks, articles), threads=2), []
    for name, peer in (("duckdb", peer_duckdb), ("polars", peer_polars)):
        (tmp_path / name).mkdir()
        peer.run(clicks, articles, tmp_path / name, told)
        outputs.append(tables.of_peer(tmp_path / name))
        check_shards(outputs[-1], told.files, told.row_group_rows)
    one, other = outputs
    assert one.rows == other.rows
    assert one.rows["clean"] > 1000
    differing = tables.differences(duckdb.connect(), one, other)
    assert differing == {table: {"only_here": 0, "only_there": 0} for table in one.files}


def check_shards(output: tables.Output, files: int, row_group_rows: int) -> None:
    """The windows are what the contract says, so that nobody is timed for less."""
    written = [pq.ParquetFile(path) for path in output.files["shards/item/windows"]]
    assert len(written) == files
    for file in written:
        assert file.schema_arrow.field("nodes").type.value_type == pa.int32()
        assert (
            max(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
            <= 2 * row_group_rows
        )
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_difference_is_found(tmp_path: Path) -> None:
    """One click more, of a user without clicks at equal times, is seen and not laid to ties."""
    clicks, articles = write_log(tmp_path)
    told = rules(globo(), threads=2)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    peer_duckdb.run(clicks, articles, tmp_path / "one", told)
    peer_duckdb.run(clicks, articles, tmp_path / "other", replace(told, minimum_stay=2001))
    one, other = tables.of_peer(tmp_path / "one"), tables.of_peer(tmp_path / "other")
    connection = duckdb.connect()
    assert tables.differences(connection, one, other)["clean"]["only_here"] > 0
    assert tables.unexplained(connection, one, other, tied_users=["1"])["clean"] > 0


def test_delta_files_are_those_of_the_newest_version(tmp_path: Path) -> None:
    log = tmp_path / "_delta_log"
    log.mkdir()
    (log / "00000000000000000000.json").write_text(
        '{"add": {"path": "date=2024-01-01/a%20b.parquet"}}\n{"add": {"path": "c.parquet"}}\n'
    )
    (log / "00000000000000000001.json").write_text(
        '{"remove": {"path": "c.parquet"}}\n{"add": {"path": "d.parquet"}}\n{"commitInfo": {}}\n'
    )
    assert tables.delta_files(tmp_path) == [
        tmp_path / "d.parquet",
        tmp_path / "date=2024-01-01/a b.parquet",
    ]


def test_copies_are_clicks_of_other_users(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    pq.write_table(
        made_up_clicks().set_column(
            0, "user_id", pc.subtract(made_up_clicks()["user_id"], 10_000_000)
        ),
        log,
    )
    folder = multiplied(log, 3, tmp_path / "input")
    copied, once = pq.read_table(folder), pq.read_table(log)
    assert copied.num_rows == 3 * once.num_rows
    for name in ("user_id", "session_id"):
        assert pc.count_distinct(copied[name]).as_py() == 3 * pc.count_distinct(once[name]).as_py()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert multiplied(log, 3, tmp_path / "input") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "_complete.json").unlink()
    multiplied(log, 3, tmp_path / "input")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} != before


def test_what_a_command_takes(tmp_path: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    burn = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {spin!r}])"
    busy = measured([sys.executable, "-c", burn], os.environ, 2**40, tmp_path / "busy.log")
    assert busy.failed is None
    # The child's time counts, which is its own clock's, however fast the machine.
    assert busy.cpu_seconds >= 0.5
    broken = measured(
        [sys.executable, "-c", "import sys; sys.exit('no such column')"],
        os.environ,
        2**40,
        tmp_path / "broken.log",
    )
    assert broken.failed == "status 1: no such column"


def test_a_command_that_holds_too_much_is_ended(tmp_path: Path) -> None:
    hold = "import time; held = bytearray(300 * 2**20); time.sleep(60)"
    greedy = measured(
        [sys.executable, "-c", hold], os.environ, 200 * 2**20, tmp_path / "greedy.log"
    )
    assert greedy.failed == "held more than 0.2 GiB and was ended"
    assert greedy.wall_seconds < 60


def test_the_hash_is_sparks(spark: SparkSession) -> None:
    rows = [
        ("ü" * (n % 3) + "a" * n, n * 10**13 - 5, f"item {n}" * (n % 4), n - 20) for n in range(80)
    ]
    frame = spark.createDataFrame(rows, "a string, b bigint, c string, d int")
    expected = [row[0] for row in frame.select(F.xxhash64("a", "b", "c", "d")).collect()]
    texts, longs, others, ints = zip(*rows, strict=True)
    hashes = spark_hash.with_long(spark_hash.with_text(spark_hash.start(len(rows)), texts), longs)
    hashes = spark_hash.with_int(spark_hash.with_text(hashes, others), ints)
    assert hashes.view(np.int64).tolist() == expected


def test_a_run_that_fails_is_recorded_as_failed() -> None:
    seen = {
        "wall_seconds": 4.0,
        "cpu_seconds": 2.0,
        "peak_rss_bytes": 9,
        "seconds": {"clean": 1.0},
        "rows": {},
        "bytes": {},
        "bytes_in_all": 5,
    }
    slower = seen | {"wall_seconds": 8.0}
    figures = summary([dict(seen), dict(slower), dict(slower)], clicks=1_000_000)
    assert figures["wall_seconds"] == {"min": 4.0, "median": 8.0, "max": 8.0}
    assert (figures["clicks_per_second"]["median"], figures["microseconds_per_click"]) == (
        125_000,
        8.0,
    )
    assert _unequal(
        {
            "m2grl": {"rows": {"clean": 5, "sessions": 2}},
            "duckdb": {"rows": {"clean": 5, "sessions": 3}},
            "polars": {},
        }
    ) == {"sessions": {"m2grl": 2, "duckdb": 3}}
    failed = summary(
        [seen, {"wall_seconds": 1.0, "failed": "status 1: no space left"}], clicks=1_000_000
    )
    assert failed["failed"] == "status 1: no space left"
    assert "clicks_per_second" not in failed


@pytest.mark.parametrize(("option", "value"), [("where", "true"), ("null_ids", ("0",))])
def test_a_count_refuses_what_it_does_not_know(option: str, value: object) -> None:
    source = globo().source.model_copy(update={option: value})
    with pytest.raises(ValueError, match=f"globo: this count does not know source.{option}"):
        Recount(globo().model_copy(update={"source": source}))
