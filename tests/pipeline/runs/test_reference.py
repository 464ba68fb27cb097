"""Spark's pipeline from a log file to shards, against the plain-Python reference, on random
logs."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.contracts import heldout
from pipeline.contracts.sealed import check_file
from pipeline.contracts.shards import Manifest, ShardFile, Stream
from pipeline.figures import statistics
from pipeline.lake import Lake
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess
from pipeline.shards.streams import shuffled
from tests.pipeline import logs, reference
from tests.pipeline.logs import CUT, TEST_HOURS, TYPES
from tests.pipeline.reference import Expected, Said

SEED = 11
WINDOW = 2
LONG_AGO = date(2024, 1, 1)


@dataclass(frozen=True)
class Case:
    """A way to configure the pipeline, and the columns that it reads."""

    columns: frozenset[str]
    settings: dict[str, Any]
    said: tuple[Said, ...]
    """What the item table says."""
    known: tuple[str, ...] = ()
    """Items that an older run over the same lake has given the first rows of the vocabulary."""


APPS = Case(
    frozenset({"event_type", "app_open", "app_close", "category"}),
    {
        "source": {"event_types": TYPES, "attributes": {"category": "category"}},
        "clean": {"stay": "derived"},
        "sessions": {"maximum_length": 7},
        "views": {
            "item": {"minimum_count": 5, "top": 20},
            "category": {"attribute": "category", "null_values": ["", "-1"], "several": "first"},
        },
        "relations": {"item_category": {"view": "category"}},
        "split": {"kind": "time", "cut": CUT.isoformat(), "hours": TEST_HOURS},
        "shards": {"encodings": ["windows"]},
    },
    tuple(
        (item, "category", kind) for i, item in enumerate(logs.ALL) for kind in ("y", "z")[i % 4 :]
    ),
    ("e", "rare 8", "gone", "00"),
)
"""App sessions, derived stays, a time cut, a category on the events, to which a table of items adds
others, and an older vocabulary."""

TAGS = Case(
    frozenset({"app_session_id", "stay_seconds", "value"}),
    {
        "source": {},
        "clean": {"stay": "given", "minimum_value": 3},
        "views": {
            "item": {"top": 15},
            "tag": {"attribute": "tag", "null_values": ["tag 6"], "top": 5},
        },
        "relations": {"item_tag": {"view": "tag", "rows": "clicks"}},
        "split": {"kind": "last_items", "items": 2, "minimum_items": 5},
        "shards": {"encodings": ["windows", "pairs"]},
    },
    (
        *(
            (item, "tag", f"tag {(i * j) % 7}")
            for i, item in enumerate(logs.ALL)
            for j in range(i % 5)
        ),
        ("never clicked", "tag", "never clicked"),
    ),
)
"""The log's own sessions and stays, ratings, each user's last clicks as the test, and tags by
weight, some items without any."""
CASES = {"apps": APPS, "tags": TAGS}


def settings(case: Case, log: Path, format_: str, items: Path) -> PipelineConfig:
    """The case's configuration for a log and an item table."""
    columns = {
        name: name
        for name in ("user_id", "item_id", "timestamp", *sorted(case.columns - {"category"}))
    }
    source = case.settings["source"] | {"path": str(log), "format": format_, "columns": columns}
    attributes = {attribute: attribute for _, attribute, _ in case.said}
    source["items"] = [
        {"path": str(items), "format": "json", "item_id": "item", "attributes": attributes}
    ]
    shards = case.settings["shards"] | {"window": WINDOW, "files": 3, "row_group_rows": 10}
    return PipelineConfig.model_validate(
        case.settings | {"name": "random", "seed": SEED, "source": source, "shards": shards}
    )


def write_items(path: Path, said: Iterable[Said]) -> None:
    """A table of items with arrays of values; an item with two values or more has two rows."""
    values: dict[tuple[str, str], list[str]] = {}
    for item, attribute, value in said:
        values.setdefault((item, attribute), []).append(value)
    rows = [
        {"item": item, name: part}
        for (item, name), found in values.items()
        for part in (found[:1], found[1:])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_pipeline(spark: SparkSession, settings: PipelineConfig, paths: Paths) -> Manifest:
    pipeline = Pipeline(spark, settings, paths.output, Identity({}, "hash", "version"))
    return preprocess(pipeline).manifest


class Run:
    """What Spark and the reference make of one random log."""

    def __init__(self, spark: SparkSession, folder: Path, case: Case) -> None:
        self.spark, self.folder, self.case, self.paths = spark, folder, case, Paths(folder / "out")
        self.log = logs.users(logs.drawn(2000)[400:520])
        logs.write_csv(folder / "log.csv", self.log)
        write_items(folder / "items.json", case.said)
        self.settings = settings(case, folder / "log.csv", "csv", folder / "items.json")
        if case.known:
            rows = [(item, row, 5, LONG_AGO) for row, item in enumerate(case.known)]
            older = spark.createDataFrame(rows, "id string, row int, count long, first_date date")
            Lake(spark, self.paths.lake).write("vocabulary/item", older)
        self.known = {"item": {item: row for row, item in enumerate(case.known)}}
        self.manifest = run_pipeline(spark, self.settings, self.paths)
        tie = self.ties()
        self.events = logs.with_columns(self.log, case.columns)
        self.expected = Expected(
            self.events,
            case.said,
            self.settings,
            case.columns,
            lambda event: tie[event.user_id, event.timestamp, event.item_id],
        )
        draws = self.draws()
        self.expected.learn(
            lambda session, position, view: draws[session.user_id, session.start, position, view],
            self.known,
        )

    def ties(self) -> dict[tuple[str, datetime, str], int]:
        """Spark's hash of (user, time, item, seed)."""
        keys = list({(event.user_id, event.timestamp, event.item_id) for event in self.log})
        frame = self.spark.createDataFrame(
            keys, "user_id string, timestamp timestamp, item_id string"
        )
        hashed = frame.select(
            "*", F.xxhash64("user_id", "timestamp", "item_id", F.lit(SEED)).alias("hash")
        ).collect()
        return {(row["user_id"], row["timestamp"], row["item_id"]): row["hash"] for row in hashed}

    def draws(self) -> dict[tuple[str, datetime, int, str], int]:
        """Spark's hash of (session, position, view, seed)."""
        sessions = self.spark.read.format("delta").load(str(self.paths.lake / "sessions"))
        clicks = sessions.select(
            "user_id", "start", "session_id", F.posexplode("item_ids").alias("position", "item")
        )
        hashed = {
            view: F.xxhash64("session_id", "position", F.lit(view), F.lit(SEED)).alias(view)
            for view in self.settings.views
        }
        rows = clicks.select("user_id", "start", "position", *hashed.values()).collect()
        return {
            (row["user_id"], row["start"], row["position"], view): row[view]
            for row in rows
            for view in hashed
        }

    def stream(self, name: str, encoding: str) -> list[dict[str, Any]]:
        """All rows of a stream's files, which are those that the manifest lists."""
        return [
            row for file in self.listed(name, encoding).files for row in read_rows(self.paths, file)
        ]

    def listed(self, name: str, encoding: str) -> Stream:
        return next(stream for stream in self.manifest.streams[name] if stream.encoding == encoding)

    def names(self, view: str) -> dict[int, str]:
        """Row -> raw id of the nodes in use."""
        return {row: node for node, row in self.expected.rows[view].items()}

    def table(self, name: str) -> list[Row]:
        return self.spark.read.format("delta").load(str(self.paths.lake / name)).collect()


def read_rows(paths: Paths, file: ShardFile) -> list[dict[str, Any]]:
    """The rows of one listed file."""
    check_file(paths.shards, file.path, file.bytes, file.sha256)
    rows: list[dict[str, Any]] = pq.read_table(
        paths.shards / file.path, partitioning=None
    ).to_pylist()
    return rows


@pytest.fixture(scope="module")
def run_of(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Runs a case when it is first asked for."""

    @cache
    def of(name: str) -> Run:
        return Run(spark, tmp_path_factory.mktemp("random"), CASES[name])

    return of


@pytest.fixture(params=CASES)
def run(request: pytest.FixtureRequest, run_of: Callable[[str], Run]) -> Run:
    return run_of(request.param)


def test_rows_that_are_no_events_are_kept_with_their_reason(run: Run) -> None:
    assert sorted(row["reason"] for row in run.table("rejects")) == [
        "no user_id",
        "unreadable timestamp",
    ]


def test_every_row_is_a_click_or_is_counted_where_it_was_dropped(run: Run) -> None:
    funnel = json.loads(run.paths.statistics.read_text())["funnel"]
    dropped = run.expected.dropped + Counter(duplicate=len(run.events) - len(set(run.events)))
    assert {reason: count for reason, count in funnel["dropped"].items() if count} == dropped
    assert len(dropped) == 3
    assert funnel["raw rows"] - len(logs.NO_EVENTS) - dropped.total() == funnel["clicks"]
    assert funnel["clicks"] == sum(len(session.clicks) for session, _ in run.expected.sessions)


def test_the_table_of_statistics_is_the_file(run: Run) -> None:
    figures = json.loads(run.paths.statistics.read_text())
    found = {
        (row["name"], row["bin_from"], row["bin_to"]): row["count"]
        for row in run.table("statistics")
    }
    assert found == {
        (name, from_, to): count for name, from_, to, count in statistics.long_form(figures)
    }
    assert found["funnel/clicks", None, None] == figures["funnel"]["clicks"]
    assert len(found) == len(run.table("statistics"))


def test_sessions(run: Run) -> None:
    rows = run.table("sessions")
    found = Counter(
        (row["user_id"], row["start"], row["end"], row["date"], tuple(row["item_ids"]))
        for row in rows
    )
    sessions = [session for session, _ in run.expected.sessions]
    assert found == Counter(
        (
            s.user_id,
            s.start,
            s.clicks[-1].timestamp,
            s.start.date(),
            tuple(click.item_id for click in s.clicks),
        )
        for s in sessions
    )
    assert len({(row["user_id"], row["session_id"]) for row in rows}) == len(sessions)


def test_vocabularies(run: Run) -> None:
    for view, rows in run.expected.rows.items():
        counts = Counter(run.expected.occurrences[view])
        expected = {node: (row, 0) for node, row in run.known.get(view, {}).items()} | {
            node: (rows[node], counts[node]) for node in rows
        }
        assert {
            row["id"]: (row["row"], row["count"]) for row in run.table(f"vocabulary/{view}")
        } == expected
        listed = pq.read_table(
            run.paths.shards / run.manifest.views[view].vocabulary.path
        ).to_pylist()
        assert [(row["id"], row["row"], row["count"]) for row in listed] == sorted(
            ((n, *e) for n, e in expected.items()), key=lambda n: n[1]
        )
    # The limits leave some out.
    assert set(run.expected.rows["item"]) < set(run.expected.occurrences["item"])


def test_a_node_keeps_its_row_and_the_date_it_was_first_seen(run_of: Callable[[str], Run]) -> None:
    run = run_of("apps")
    first: dict[str, date] = {}
    for click in run.expected.part("train"):
        first[click.item_id] = min(first.get(click.item_id, date.max), click.timestamp.date())
    rows = run.expected.rows["item"]
    assert {row["id"]: row["first_date"] for row in run.table("vocabulary/item")} == {
        **{item: first[item] for item in rows},
        **dict.fromkeys(run.case.known, LONG_AGO),
    }
    # In use, clicked too rarely, not clicked at all, in use.
    assert [(item in first, rows.get(item)) for item in run.case.known] == [
        (True, 0),
        (True, None),
        (False, None),
        (True, 3),
    ]


def test_edges(run: Run) -> None:
    for view in run.settings.views:
        found = {
            (row["source"], row["target"]): row["weight"] for row in run.table(f"edges/{view}")
        }
        assert found == reference.edges(run.expected.histories(view))
        assert found


def test_links(run: Run) -> None:
    for name, relation in run.settings.relations.items():
        found = [tuple(row) for row in run.table(f"links/{name}")]
        assert Counter(found) == Counter(run.expected.links(relation.view))
        assert found


def test_relation_rows_hold_an_item_with_all_its_values(run: Run) -> None:
    items = run.names("item")
    for name, relation in run.settings.relations.items():
        values = run.names(relation.view)
        linked: dict[str, set[str]] = {}
        for item, value, _ in run.expected.links(relation.view):
            linked.setdefault(item, set()).add(value)
        times = (
            Counter(run.expected.occurrences["item"])
            if relation.rows == "clicks"
            else Counter(linked.keys())
        )
        found = Counter(
            (items[row["centre"]], frozenset(values[node] for node in row["contexts"]))
            for row in run.stream(name, "pairs")
        )
        assert found == {(item, frozenset(linked[item])): times[item] for item in linked}


def test_windows_are_the_sequences(run: Run) -> None:
    for view in run.settings.views:
        names, sequences = run.names(view), run.expected.sequences(view)
        assert Counter(
            tuple(names[node] for node in row["nodes"]) for row in run.stream(view, "windows")
        ) == Counter(map(tuple, sequences))
        assert run.listed(view, "windows").pairs == reference.pairs(sequences, WINDOW).total()


def test_both_encodings_hold_the_pairs_of_the_sequences(run_of: Callable[[str], Run]) -> None:
    run = run_of("tags")
    for view in run.settings.views:
        names, expected = run.names(view), reference.pairs(run.expected.sequences(view), WINDOW)
        found = Counter(
            (names[row["centre"]], names[context])
            for row in run.stream(view, "pairs")
            for context in row["contexts"]
        )
        assert found == expected
        assert (
            run.listed(view, "windows").pairs == run.listed(view, "pairs").pairs == expected.total()
        )


def test_row_groups_are_as_long_as_configured(run: Run) -> None:
    files = [
        file.path
        for name in run.manifest.streams
        for stream in run.manifest.streams[name]
        for file in stream.files
    ]
    metadata = [pq.ParquetFile(run.paths.shards / path).metadata for path in files]
    sizes = [
        [found.row_group(i).num_rows for i in range(found.num_row_groups)] for found in metadata
    ]
    assert {size for groups in sizes for size in groups[:-1]} == {10}
    assert all(0 < groups[-1] <= 10 for groups in sizes)


def test_held_out_cases(run: Run) -> None:
    heldout.check(run.paths.heldout)
    expected: dict[str, list[list[str]]] = {}
    for session, part in run.expected.sessions:
        items = [
            click.item_id
            for click, found in zip(session.clicks, part, strict=True)
            if found == "test"
        ]
        if items:
            expected.setdefault(session.user_id, []).append(items)
    sessions: dict[str, list[list[str]]] = {}
    for row in pq.read_table(run.paths.heldout / heldout.SESSIONS).to_pylist():
        sessions.setdefault(row["user_id"], []).append(row["item_ids"])
    assert sessions == expected
    histories: dict[str, list[str]] = {user: [] for user in expected}
    for click in run.expected.part("train"):
        if click.user_id in histories:
            histories[click.user_id].append(click.item_id)
    found = pq.read_table(run.paths.heldout / heldout.HISTORY).to_pylist()
    assert {row["user_id"]: row["item_ids"] for row in found} == histories
    counts = pq.read_table(run.paths.heldout / heldout.COUNTS).to_pylist()
    assert {row["item_id"]: row["clicks"] for row in counts} == Counter(
        run.expected.occurrences["item"]
    )


def test_the_manifest_read_back_is_the_one_written(run: Run) -> None:
    assert Manifest.read(run.paths.shards) == run.manifest


def test_the_same_log_in_another_order_layout_and_partitioning_gives_the_same_bytes(
    run_of: Callable[[str], Run], spark: SparkSession, tmp_path: Path
) -> None:
    run = run_of("tags")
    logs.write_parquet(tmp_path / "log", run.log, files=3)
    write_items(tmp_path / "items.json", run.case.said[::-1])
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        again = run_pipeline(
            spark,
            settings(run.case, tmp_path / "log", "parquet", tmp_path / "items.json"),
            Paths(tmp_path / "out"),
        )
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", str(before))
    assert checksums(again) == checksums(run.manifest)


def checksums(manifest: Manifest) -> dict[str, list[str]]:
    """SHA-256 of every stream's files in order, and of the vocabularies."""
    found = {
        f"vocabulary {name}": [view.vocabulary.sha256] for name, view in manifest.views.items()
    }
    for name, streams in manifest.streams.items():
        for stream in streams:
            found[f"{name} {stream.encoding}"] = [file.sha256 for file in stream.files]
    return found


def test_another_seed_gives_another_order(spark: SparkSession) -> None:
    frame = spark.range(100).withColumn("nodes", F.array("id"))
    orders = [
        [row["nodes"] for row in shuffled(frame, ["id"], ["nodes"], 2, seed).collect()]
        for seed in (1, 2)
    ]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
