"""Writing a shard folder: streams and vocabularies as Parquet, then the manifest that lists
them."""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.contracts.shards import ShardFile, Vocabulary
from pipeline.shards.counting import Contents, of_file, of_stream_file
from pipeline.storage.locations import Location, names, spark_path

PARQUET = {
    "compression": "zstd",
    "parquet.enable.dictionary": "false",
    "parquet.writer.version": "v2",
}
"""Node numbers repeat too little for a dictionary of them to pay. Without one, and in version 2 of
the format, a column has one encoding. Of several, the footer would list them in an order that
changes from one Java process to the next, and with it the file's bytes."""


def write_stream(
    folder: Location, name: str, shuffled: DataFrame, row_group_rows: int, window: int | None
) -> tuple[ShardFile, ...]:
    """Writes a stream under folder/name, a file a partition, and counts what each file holds, in
    the order of the partitions."""
    target = folder / name
    limits = {"parquet.block.row.count.limit": str(row_group_rows)}
    shuffled.write.mode("overwrite").options(**PARQUET, **limits).parquet(spark_path(target))
    # Their names begin with the partition's number: part-00000-...
    file_names = names(target, r"part-\d+-.*\.parquet")
    locations = [target / file for file in file_names]
    count = partial(of_stream_file, window=window)
    counted = counted_by_tasks(shuffled.sparkSession, locations, count)
    files = []
    for file, contents in zip(file_names, counted, strict=True):
        if contents.rows:
            files.append(ShardFile(path=f"{name}/{file}", **contents._asdict()))
        else:
            # Spark writes an empty file where the first partition is empty.
            (target / file).unlink()
    return tuple(files)


def counted_by_tasks(
    spark: SparkSession, files: Sequence[Location], count: Callable[[Location], Contents]
) -> list[Contents]:
    """Counts files where Spark's tasks run, a task a file, in one job: on a cluster no byte of them
    comes to the driver.

    Where the tasks run in this very process, threads do it: the start of Python workers would take
    longer than the counting.
    """
    master = spark.conf.get("spark.master", "") or ""
    if re.match(r"local(\[|$)", master):
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(count, files))
    a_task_each = spark.sparkContext.parallelize(files, max(1, len(files)))
    return a_task_each.map(count).collect()


def write_vocabulary(
    folder: Location, name: str, nodes: DataFrame, titles: DataFrame | None, version: int
) -> Vocabulary:
    """Writes a vocabulary in row order; titles (id, title) are added where there are any.

    One file, written by one task: a row in memory at a time, after a sort that goes to disk where
    it must.
    """
    if titles is None:
        titled = nodes.withColumn("title", F.lit(None).cast("string"))
    else:
        titled = nodes.join(titles, "id", "left")
    ordered = titled.select("row", "id", "count", "title").coalesce(1).sortWithinPartitions("row")
    path = f"vocabulary/{name}"
    file = write_one(ordered, folder / path)
    (contents,) = counted_by_tasks(nodes.sparkSession, [file], of_file)
    return Vocabulary(
        path=f"{path}/{file.name}",
        nodes=contents.rows,
        bytes=contents.bytes,
        sha256=contents.sha256,
        version=version,
    )


def write_one(frame: DataFrame, folder: Location) -> Location:
    """Writes a frame of one partition as the only Parquet file of a folder; returns the file."""
    frame.write.mode("overwrite").options(**PARQUET).parquet(spark_path(folder))
    (file,) = names(folder, r"[^._].*\.parquet")
    return folder / file
