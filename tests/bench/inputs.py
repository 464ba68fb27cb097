"""The log of the benchmark: globo's clicks, as often as wanted, each time by other users."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.common.config import Project, load
from pipeline.config import ITEM_VIEW
from pipeline.storage.files import write_text
from tests.bench.rules import CATEGORY, Rules

GLOBO = Path(__file__).parents[2] / "jobs" / "configs" / "globo.toml"
OFFSETS = {"user_id": 1_000_000, "session_id": 10**16}
"""What a copy adds to its ids, times its number: more than the largest id of the log."""
STAMP = "_complete.json"
"""Written last: a folder without it is written anew. Spark passes over names that begin so."""


def globo() -> Project:
    """The shipped project whose log is multiplied."""
    return load([GLOBO])


def rules(project: Project, threads: int) -> Rules:
    """A project like globo, as its peers are told of it."""
    return Rules(
        minimum_stay=round(project.clean.minimum_stay_seconds * 1000),
        idle_gap=round(project.sessions.idle_gap_seconds * 1000),
        merge_gap=round(project.sessions.merge_gap_seconds * 1000),
        minimum_item_count=project.views[ITEM_VIEW].minimum_count,
        minimum_category_count=project.views[CATEGORY].minimum_count,
        unknown_categories=project.views[CATEGORY].null_values,
        files=project.shards.files,
        row_group_rows=project.shards.row_group_rows,
        seed=project.seed,
        threads=threads,
    )


def multiplied(log: Path, copies: int, folder: Path) -> Path:
    """A folder of Parquet with `copies` times the log's clicks, a file a copy; written where it is
    not there yet.

    One batch of rows is in memory at a time. Raises ValueError where an id of the log reaches the
    offset of the copies.
    """
    target = folder / f"copies-{copies}"
    stamp = {
        "copies": copies,
        "bytes": log.stat().st_size,
        "rows": pq.ParquetFile(log).metadata.num_rows * copies,
    }
    if _stamped(target) != stamp:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for copy in range(copies):
            _write_copy(log, copy, target / f"part-{copy:03d}.parquet")
        write_text(target / STAMP, json.dumps(stamp) + "\n")
    return target


def _stamped(folder: Path) -> Any:
    path = folder / STAMP
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write_copy(log: Path, copy: int, path: Path) -> None:
    source = pq.ParquetFile(log)
    with pq.ParquetWriter(path, source.schema_arrow, compression="zstd") as writer:
        for batch in source.iter_batches(batch_size=500_000):
            writer.write_table(_moved(pa.Table.from_batches([batch]), copy))


def _moved(rows: pa.Table, copy: int) -> pa.Table:
    """The rows with the ids of other users and sessions."""
    for name, offset in OFFSETS.items():
        ids = rows.column(name)
        if pc.max(ids).as_py() >= offset:
            raise ValueError(
                f"the log's {name} {pc.max(ids).as_py()} is not below {offset}, by which copies "
                "differ"
            )
        rows = rows.set_column(rows.column_names.index(name), name, pc.add(ids, copy * offset))
    return rows
