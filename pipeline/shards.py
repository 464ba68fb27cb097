"""Writing a shard folder: streams and vocabularies as Parquet, then the manifest that lists them."""

import re
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.files import sha256
from pipeline.manifest import ShardFile, Vocabulary
from pipeline.sequences import FILE

PARQUET = {"compression": "zstd", "parquet.enable.dictionary": "false"}
"""Node numbers repeat too little for a dictionary of them to pay."""


def write_stream(folder: Path, name: str, shuffled: DataFrame, row_group_rows: int, window: int | None) -> tuple[ShardFile, ...]:
    """Writes a stream under folder/name and counts what each file holds, in the order of the file numbers.

    `shuffled` has the columns of one encoding, and `file`.
    """
    target = folder / name
    limits = {"parquet.block.row.count.limit": str(row_group_rows)}
    shuffled.write.mode("overwrite").options(**PARQUET, **limits).partitionBy(FILE).parquet(str(target))
    paths = sorted(target.glob(f"{FILE}=*/*.parquet"), key=_number)
    return tuple(_count(folder, path, window) for path in paths)


def _number(path: Path) -> int:
    match = re.fullmatch(rf"{FILE}=(\d+)", path.parent.name)
    assert match is not None  # the glob matched it
    return int(match.group(1))


def _count(folder: Path, path: Path, window: int | None) -> ShardFile:
    """What a written file holds, read back from it."""
    parquet = pq.ParquetFile(path)
    tokens = pairs = 0
    for group in range(parquet.num_row_groups):
        lists = parquet.read_row_group(group).column("contexts" if window is None else "nodes")
        lengths = pc.list_value_length(lists).to_numpy()
        tokens += len(lengths) if window is None else int(lengths.sum())
        # A sequence of n nodes has n - distance pairs in each direction at every distance up to the window.
        pairs += int(lengths.sum()) if window is None else 2 * sum(int((lengths - d).clip(min=0).sum()) for d in range(1, window + 1))
    return ShardFile(
        path=str(path.relative_to(folder)),
        rows=parquet.metadata.num_rows,
        tokens=tokens,
        pairs=pairs,
        bytes=path.stat().st_size,
        sha256=sha256(path),
    )


def write_vocabulary(folder: Path, name: str, nodes: DataFrame, titles: DataFrame | None, version: int) -> Vocabulary:
    """Writes a vocabulary in row order; titles (id, title) are added where there are any."""
    titled = nodes.withColumn("title", F.lit(None).cast("string")) if titles is None else nodes.join(titles, "id", "left")
    ordered = titled.select("row", "id", "count", "title").coalesce(1).sortWithinPartitions("row")
    path = write_one(ordered, folder / "vocabulary" / name)
    count = pq.ParquetFile(path).metadata.num_rows
    return Vocabulary(path=str(path.relative_to(folder)), nodes=count, bytes=path.stat().st_size, sha256=sha256(path), version=version)


def write_one(frame: DataFrame, folder: Path) -> Path:
    """Writes a frame of one partition as the only Parquet file of a folder; returns the file."""
    frame.write.mode("overwrite").option("compression", "zstd").parquet(str(folder))
    (path,) = folder.glob("*.parquet")
    return path
