"""What Spark writes under a shard folder, counted back from the files."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.shards.counting import of_stream_file
from pipeline.shards.streams import shuffled
from pipeline.shards.writer import write_one, write_stream


def test_a_stream_is_listed_file_by_file(spark: SparkSession, tmp_path: Path) -> None:
    rows = spark.createDataFrame(
        [(i, [i] * (i % 4)) for i in range(20)], "key long, nodes array<int>"
    )
    files = write_stream(
        tmp_path,
        "item/windows",
        shuffled(rows, ["key"], ["nodes"], 3, seed=1),
        row_group_rows=2,
        window=1,
    )
    assert len(files) == 3
    assert (sum(file.rows for file in files), sum(file.tokens for file in files)) == (
        20,
        5 * (0 + 1 + 2 + 3),
    )
    assert sum(file.pairs for file in files) == 5 * 2 * (0 + 0 + 1 + 2)
    for number, file in enumerate(files):
        assert file.path.startswith(f"item/windows/part-{number:05}-")
        assert tuple(of_stream_file(tmp_path / file.path, 1)) == (
            file.rows,
            file.tokens,
            file.pairs,
            file.bytes,
            file.sha256,
        )


def test_a_column_has_one_encoding(spark: SparkSession, tmp_path: Path) -> None:
    """Java lists several in an order of its own in each process, and the same rows would make other
    bytes."""
    rows = spark.range(2000).selectExpr(
        "cast(id as int) row",
        "cast(id as string) id",
        "id count",
        "array(id, null) nodes",
        "null title",
    )
    file = write_one(
        rows.withColumn("title", rows["title"].cast("string")).coalesce(1), tmp_path / "one"
    )
    assert isinstance(file, Path)
    group = pq.ParquetFile(file).metadata.row_group(0)
    assert {
        group.column(i).path_in_schema: len(group.column(i).encodings)
        for i in range(group.num_columns)
    } == dict.fromkeys(["row", "id", "count", "nodes.list.element", "title"], 1)


def test_files_of_a_stream_are_even(spark: SparkSession, tmp_path: Path) -> None:
    """Within five standard deviations of a fair draw, whatever the keys: those of users in order,
    of sessions an hour apart."""
    rows, count = 20_000, 8
    keys = spark.range(rows).selectExpr(
        "concat('user', id) user",
        "timestamp_seconds(3600 * id) start",
        "array(cast(id as int)) nodes",
    )
    files = write_stream(
        tmp_path,
        "item/windows",
        shuffled(keys, ["user", "start"], ["nodes"], count, seed=1),
        1000,
        window=1,
    )
    sigma = (rows * (1 / count) * (1 - 1 / count)) ** 0.5
    assert [file.rows for file in files] == [pytest.approx(rows / count, abs=5 * sigma)] * count


def test_no_file_stands_beside_those_listed(spark: SparkSession, tmp_path: Path) -> None:
    """Spark writes the first partition's file even where the partition is empty."""
    rows = spark.createDataFrame([("k", [1, 2])], "key string, nodes array<int>").repartitionById(
        2, F.lit(1)
    )
    files = write_stream(tmp_path, "item/windows", rows.select("nodes"), row_group_rows=2, window=1)
    assert [file.rows for file in files] == [1]
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("part-*.parquet")] == [
        file.path for file in files
    ]
