"""DuckDB, polars and the pipeline write the same tables from the same small log, and an independent
count gives the same figures."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import Paths
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess
from tests.bench import peer_duckdb, peer_polars, tables
from tests.bench.count_sources import side_by_side
from tests.bench.inputs import rules
from tests.bench.recount import Recount
from tests.bench.test_peers import FIELDS, check_shards, small_project, write_log
from tests.conftest import DATA

pytestmark = pytest.mark.timeout(1800)


def real_clicks() -> pa.Table:
    """Clicks of some of globo's users, without those who have two at one time."""
    log = pq.read_table(DATA / "globo" / "clicks.parquet", columns=FIELDS)
    some = log.filter(pc.equal(pc.bit_wise_and(log["user_id"], 127), 1))
    moments = some.group_by(["user_id", "click_timestamp"]).aggregate([([], "count_all")])
    tied = moments.filter(pc.greater(moments["count_all"], 1))["user_id"]
    return some.filter(pc.invert(pc.is_in(some["user_id"], value_set=tied.combine_chunks())))


def write_both_logs(folder: Path) -> tuple[Path, Path]:
    """The clicks' folder and the articles' file: made-up users and, where it is there, a part of
    the real log."""
    clicks, articles = write_log(folder)
    if (DATA / "globo").is_dir():
        pq.write_table(real_clicks(), clicks / "real.parquet")
        known = (
            (DATA / "globo" / "article_category_derived.csv")
            .read_text(encoding="utf-8")
            .splitlines()[1:]
        )
        with articles.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in known if int(line.split(",")[0]) > 40)
    return clicks, articles


def test_all_write_the_same_tables(spark: SparkSession, tmp_path: Path) -> None:
    clicks, articles = write_both_logs(tmp_path)
    project, paths = small_project(clicks, articles), Paths(tmp_path / "ours")
    pipeline = Pipeline(spark, project, paths.output, Identity({}, "hash", "version"))
    figures = preprocess(pipeline).figures
    ours = tables.of_pipeline(tmp_path / "ours")
    assert ours.rows["clean"] > 3000
    # The made-up log has what the real one lacks.
    assert figures["funnel"]["dropped"]["duplicate"] > 500

    told = rules(project, threads=2)
    connection = duckdb.connect()
    for name, peer in (("duckdb", peer_duckdb), ("polars", peer_polars)):
        folder = tmp_path / name
        folder.mkdir()
        assert set(peer.run(clicks, articles, folder, told)) == {
            "clean",
            "sessions",
            "vocabulary",
            "edges",
            "links",
            "shards",
        }
        theirs = tables.of_peer(folder)
        assert theirs.rows == ours.rows
        differing = tables.differences(connection, ours, theirs)
        assert differing == {table: {"only_here": 0, "only_there": 0} for table in ours.files}, name
        check_shards(theirs, told.files, told.row_group_rows)

    counted = side_by_side(figures, Recount(project).run())
    assert {figure: both for figure, both in counted.items() if both[0] != both[1]} == {}
    assert counted["pairs: item"][0] > 1000
