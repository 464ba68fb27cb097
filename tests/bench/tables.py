"""Reading what the engines wrote: the files of each table, their rows, and the rows in which two
outputs differ."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow.parquet as pq

from pipeline.contracts.shards import Manifest
from tests.bench.rules import STREAMS, TABLES

COLUMNS = {
    # A stay is a quotient: tools differ in its last bit.
    "clean": (
        'user_id, item_id, epoch_us("timestamp") AS time, round(stay_seconds, 3) AS stay, date'
    ),
    # session_id: each engine has a hash of its own.
    "sessions": 'user_id, epoch_us(start) AS start, epoch_us("end") AS "end", date, item_ids',
    "vocabulary": "id, row, count, first_date",
    "edges": "source, target, weight",
    "links": "item_id, value_id, weight",
    "windows": "nodes",
    "pairs": "centre, contexts",
}
"""What is compared of each kind of table: what every engine writes, in one form."""


@dataclass(frozen=True)
class Output:
    """What one engine wrote: files by the name of the table or `shards/STREAM`."""

    files: dict[str, list[Path]]

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each table, from the files' footers."""
        return {
            name: sum(pq.ParquetFile(path).metadata.num_rows for path in paths)
            for name, paths in self.files.items()
        }

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes of each table's Parquet files."""
        return {
            name: sum(path.stat().st_size for path in paths) for name, paths in self.files.items()
        }


def of_peer(folder: Path) -> Output:
    """The tables of a peer."""
    names = [*TABLES, *(f"shards/{stream}" for stream in STREAMS)]
    return Output({name: sorted((folder / name).glob("*.parquet")) for name in names})


def of_pipeline(folder: Path) -> Output:
    """The tables under a project's folder: the files that Delta's log and the manifest list."""
    lake, shards = folder / "lake", folder / "shards"
    listed = {
        f"{task}/{stream.encoding}": stream.files
        for task, streams in Manifest.read(shards).streams.items()
        for stream in streams
    }
    streams = {
        f"shards/{stream}": [shards / file.path for file in listed[stream]] for stream in STREAMS
    }
    return Output({name: delta_files(lake / name) for name in TABLES} | streams)


def delta_files(table: Path) -> list[Path]:
    """The files of a Delta table's newest version. Reads the log's commits: a table of this
    benchmark has no checkpoint yet."""
    files: set[str] = set()
    for commit in sorted((table / "_delta_log").glob("*.json")):
        for action in map(json.loads, commit.read_text(encoding="utf-8").splitlines()):
            files |= {action["add"]["path"]} if "add" in action else set()
            files -= {action["remove"]["path"]} if "remove" in action else set()
    return sorted(table / unquote(path) for path in files)


def differences(
    connection: duckdb.DuckDBPyConnection, ours: Output, theirs: Output
) -> dict[str, dict[str, int]]:
    """For each table: rows that only one of the two outputs has."""
    found = {}
    for name in ours.files:
        one, other = _relation(name, ours), _relation(name, theirs)
        found[name] = {
            "only_here": _count(connection, one, other),
            "only_there": _count(connection, other, one),
        }
    return found


def unexplained(
    connection: duckdb.DuckDBPyConnection, ours: Output, theirs: Output, tied_users: Iterable[str]
) -> dict[str, int]:
    """Differing rows of users none of whose clicks stand at the time of another: what an order of
    equal times cannot explain."""
    connection.execute("CREATE OR REPLACE TEMP TABLE tied (user_id VARCHAR)")
    connection.executemany("INSERT INTO tied VALUES (?)", [[user] for user in tied_users])
    found = {}
    for name in ("clean", "sessions"):
        one, other = (
            f"(FROM ({_relation(name, output)}) WHERE user_id NOT IN (FROM tied))"
            for output in (ours, theirs)
        )
        found[name] = _count(connection, f"FROM {one}", f"FROM {other}") + _count(
            connection, f"FROM {other}", f"FROM {one}"
        )
    return found


def _relation(name: str, output: Output) -> str:
    kind = next(kind for kind in COLUMNS if kind in name.split("/"))
    files = ", ".join(f"'{path}'" for path in output.files[name])
    return f"SELECT {COLUMNS[kind]} FROM read_parquet([{files}], hive_partitioning = true)"


def _count(connection: duckdb.DuckDBPyConnection, one: str, other: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM (({one}) EXCEPT ALL ({other}))").fetchone()
    assert row is not None  # an aggregate has a row
    return int(row[0])
