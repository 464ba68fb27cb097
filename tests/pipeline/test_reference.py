"""Spark's pipeline from a log file to shards, against the plain-Python reference, on random logs."""

import csv
import random
import shutil
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from jobs.config import Paths
from pipeline import heldout
from pipeline.config import PipelineConfig, View
from pipeline.manifest import Manifest, ShardFile, Stream, check_file, read_manifest
from pipeline.preprocess import Identity, Output, Pipeline
from pipeline.sequences import shuffled
from tests.pipeline import reference
from tests.pipeline.reference import Event, Session

SEED = 11
WINDOW = 2
TYPES = ("view", "cart")
BEGIN = datetime(2024, 3, 1, 20)
CUT = BEGIN + timedelta(hours=40)
FIELDS = ["user_id", "item_id", "timestamp", "type", "opened", "closed", "category"]


def random_log(seed: int, users: int = 80, events: int = 40) -> list[Event]:
    """Users with gaps around every boundary, equal times, exact duplicates, overlapping app sessions and missing closes."""
    dice = random.Random(seed)
    gaps = [0, 0.5, 1.999, 2, 2.001, 60, 1799.999, 1800, 1801, 3599.999, 3600, 3601, 40_000]
    found = []
    for user in range(users):
        now = BEGIN + timedelta(seconds=dice.randrange(3600))
        opened: list[tuple[datetime, datetime | None]] = []
        for _ in range(dice.randrange(1, events)):
            now += timedelta(seconds=dice.choice(gaps))
            if not opened or dice.random() < 0.25:
                closed = now + timedelta(seconds=dice.choice([0, 600, 1800, 7200]))
                opened.append((now - timedelta(seconds=dice.choice([0, 30])), dice.choice([closed, None])))
            app = dice.choice([opened[-1], opened[-1], dice.choice(opened), (None, None)])
            item = min(int(dice.expovariate(0.15)), 40)
            category = dice.choice(["", "-1", f"c{item % 5}"]) if item % 7 == 0 else f"c{item % 5}"
            event = Event(f"u{user}", f"i{item}", now, dice.choice([*TYPES, "browse"]), *app, category)
            found += [event] * dice.choice([1, 1, 1, 2])
    dice.shuffle(found)
    return found


def write_log(path: Path, events: list[Event]) -> None:
    """The log as CSV with some rows that are none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for event in events:
            writer.writerow(
                [
                    event.user,
                    event.item,
                    *(str(v) if v else "" for v in (event.time,)),
                    event.type,
                    event.opened or "",
                    event.closed or "",
                    event.category,
                ]
            )
        writer.writerows([["", "i1", str(BEGIN), "view", "", "", "c1"], ["u1", "i1", "yesterday", "view", "", "", "c1"]])


def settings(path: Path) -> PipelineConfig:
    """The log with an item view that leaves rare items out, and a category view with unknown values."""
    return PipelineConfig.model_validate(
        {
            "name": "random",
            "seed": SEED,
            "source": {
                "path": str(path),
                "format": "csv",
                "columns": {
                    "user_id": "user_id",
                    "item_id": "item_id",
                    "timestamp": "timestamp",
                    "event_type": "type",
                    "app_open": "opened",
                    "app_close": "closed",
                },
                "event_types": TYPES,
                "attributes": {"category": "category"},
            },
            "clean": {"stay": "derived"},
            "sessions": {"maximum_length": 7},
            "views": {"item": {"minimum_count": 3, "top": 20}, "category": {"attribute": "category", "null_values": ["", "-1"]}},
            "relations": {"item_category": {"view": "category"}},
            "shards": {"window": WINDOW, "files": 3, "row_group_rows": 10},
            "split": {"kind": "time", "cut": CUT.isoformat(), "hours": 30.0},
        }
    )


class Run:
    """What Spark and the reference make of one random log."""

    def __init__(self, spark: SparkSession, folder: Path, seed: int) -> None:
        self.spark, self.paths = spark, Paths(folder / "out")
        self.log = random_log(seed)
        write_log(folder / "log.csv", self.log)
        self.settings = settings(folder / "log.csv")
        output = Output(self.paths.lake, self.paths.shards, self.paths.heldout, self.paths.statistics)
        self.manifest = Pipeline(spark, self.settings, output, Identity({}, "hash", "version")).run()
        self._refer()

    def _refer(self) -> None:
        tie = self.ties()
        users = reference.by_user(self.log, lambda event: (tie[event.user, event.time, event.item], event.item, event.type))
        clicks = {user: reference.clicks(events, set(TYPES)) for user, events in users.items()}
        self.sessions = [session for found in clicks.values() for session in reference.sessions(found, 7)]
        before = [Session(s.user, [click for click in s.clicks if click.time < CUT]) for s in self.sessions]
        self.train = [session for session in before if session.clicks]
        self.test = [session for session in self.sessions if CUT <= session.start < CUT + timedelta(hours=30)]
        self.category = self.latest_category()
        nodes = {"item": self.occurrences("item"), "category": self.occurrences("category")}
        self.rows = {"item": reference.vocabulary(nodes["item"], 3, 20), "category": reference.vocabulary(nodes["category"], 1, None)}

    def ties(self) -> dict[tuple[str, datetime, str], int]:
        """Spark's hash of (user, time, item, seed)."""
        keys = list({(event.user, event.time, event.item) for event in self.log})
        frame = self.spark.createDataFrame(keys, "user_id string, timestamp timestamp, item_id string")
        hashed = frame.select("*", F.xxhash64("user_id", "timestamp", "item_id", F.lit(SEED)).alias("hash")).collect()
        return {(row["user_id"], row["timestamp"], row["item_id"]): row["hash"] for row in hashed}

    def latest_category(self) -> dict[str, str]:
        """The known category that an item's clicks of the training part said last."""
        latest: dict[str, tuple[datetime, str]] = {}
        for session in self.train:
            for click in session.clicks:
                if click.category not in ("", "-1", None):
                    latest[click.item] = max(latest.get(click.item, (datetime.min, "")), (click.time, str(click.category)))
        return {item: category for item, (_, category) in latest.items()}

    def nodes(self, session: Session, view: str) -> list[str]:
        """A session's nodes, unknown ones left out."""
        items = [click.item for click in session.clicks]
        return items if view == "item" else [self.category[item] for item in items if item in self.category]

    def occurrences(self, view: str) -> list[str]:
        """The nodes of all training clicks."""
        return [node for session in self.train for node in self.nodes(session, view)]

    def sequences(self, view: str) -> list[list[str]]:
        """Training sequences of a view."""
        inside = [[node for node in self.nodes(session, view) if node in self.rows[view]] for session in self.train]
        return [nodes for nodes in map(reference.without_repeats, inside) if len(nodes) > 1]

    def histories(self, view: str) -> list[list[str]]:
        """Each user's whole training history."""
        users: dict[str, list[str]] = {}
        for session in self.train:
            users.setdefault(session.user, []).extend(node for node in self.nodes(session, view) if node in self.rows[view])
        return [reference.without_repeats(nodes) for nodes in users.values()]

    def stream(self, view: str, encoding: str) -> Stream:
        return next(stream for stream in self.manifest.views[view].streams if stream.encoding == encoding)

    def table(self, name: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self.spark.read.format("delta").load(str(self.paths.lake / name)).collect()]


@pytest.fixture(scope="module", params=[1])
def run(request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(spark, tmp_path_factory.mktemp("random"), request.param)


def test_rows_that_are_no_events_are_kept_with_their_reason(run: Run) -> None:
    assert sorted(row[1] for row in run.table("rejects")) == ["no user_id", "unreadable timestamp"]


def test_sessions(run: Run) -> None:
    found = Counter((row[0], row[2], row[3], tuple(row[5])) for row in run.table("sessions"))  # type: ignore[arg-type]
    expected = Counter((s.user, s.start, s.clicks[-1].time, tuple(click.item for click in s.clicks)) for s in run.sessions)
    assert found == expected


@pytest.mark.parametrize("view", ["item", "category"])
def test_vocabulary(run: Run, view: str) -> None:
    counts = Counter(run.occurrences(view))
    assert {row[0]: (row[1], row[2]) for row in run.table(f"vocabulary/{view}")} == {
        node: (row, counts[node]) for node, row in run.rows[view].items()
    }


@pytest.mark.parametrize("view", ["item", "category"])
def test_edges(run: Run, view: str) -> None:
    found = {(row[0], row[1]): row[2] for row in run.table(f"edges/{view}")}
    assert found == reference.edges(run.histories(view))
    assert found


def test_links(run: Run) -> None:
    counts = Counter(run.occurrences("item"))
    expected = {(item, run.category[item], counts[item]) for item in run.rows["item"] if item in run.category}
    assert set(run.table("links/item_category")) == expected


@pytest.mark.parametrize("view", ["item", "category"])
def test_both_encodings_hold_the_pairs_of_the_sequences(run: Run, view: str) -> None:
    names = list(run.rows[view])
    expected = reference.pairs(run.sequences(view), WINDOW)
    windows = [[names[node] for node in row["nodes"]] for row in read_stream(run, run.stream(view, "windows"))]
    assert Counter(map(tuple, windows)) == Counter(map(tuple, run.sequences(view)))
    rows = read_stream(run, run.stream(view, "pairs"))
    assert Counter((names[row["centre"]], names[context]) for row in rows for context in row["contexts"]) == expected
    assert run.stream(view, "windows").pairs == run.stream(view, "pairs").pairs == expected.total()


def read_stream(run: Run, stream: Stream) -> list[dict[str, list[int]]]:
    """All rows of a stream's files, which are those that the manifest lists."""
    return [row for file in stream.files for row in read_rows(run.paths, file)]


def read_rows(paths: Paths, file: ShardFile) -> list[dict[str, list[int]]]:
    """The rows of one listed file."""
    check_file(paths.shards, file.path, file.bytes, file.sha256)
    return pq.read_table(paths.shards / file.path, partitioning=None).to_pylist()


def test_row_groups_are_as_long_as_configured(run: Run) -> None:
    file = pq.ParquetFile(run.paths.shards / run.stream("item", "pairs").files[0].path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert set(sizes[:-1]) == {10}
    assert sizes[-1] <= 10


def test_held_out_cases(run: Run) -> None:
    heldout.check(run.paths.heldout)
    sessions = pq.read_table(run.paths.heldout / heldout.SESSIONS).to_pylist()
    expected = [(session.user, [click.item for click in session.clicks]) for session in run.test]
    assert sorted((row["user_id"], row["item_ids"]) for row in sessions) == sorted(expected)
    histories: dict[str, list[str]] = {session.user: [] for session in run.test}
    for session in run.train:
        if session.user in histories:
            histories[session.user] += [click.item for click in session.clicks]
    found = pq.read_table(run.paths.heldout / heldout.HISTORY).to_pylist()
    assert {row["user_id"]: row["item_ids"] for row in found} == histories
    counts = pq.read_table(run.paths.heldout / heldout.COUNTS).to_pylist()
    assert {row["item_id"]: row["clicks"] for row in counts} == Counter(run.occurrences("item"))


def test_the_manifest_read_back_is_the_one_written(run: Run) -> None:
    assert read_manifest(run.paths.shards) == run.manifest


def test_the_same_log_in_another_order_and_partitioning_gives_the_same_bytes(run: Run, spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_log(tmp_path / "parts" / "2.csv", run.log[::-2])
    write_log(tmp_path / "parts" / "1.csv", run.log[-2::-2])
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        paths = Paths(tmp_path / "out")
        output = Output(paths.lake, paths.shards, paths.heldout, paths.statistics)
        again = Pipeline(spark, settings(tmp_path / "parts"), output, Identity({}, "hash", "version")).run()
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    assert checksums(again) == checksums(run.manifest)


def test_running_again_gives_the_same_and_other_limits_keep_every_row(run: Run, spark: SparkSession, tmp_path: Path) -> None:
    shutil.copytree(run.paths.root, tmp_path / "out")
    paths = Paths(tmp_path / "out")
    output = Output(paths.lake, paths.shards, paths.heldout, paths.statistics)
    again = Pipeline(spark, run.settings, output, Identity({}, "hash", "version")).run()
    assert checksums(again) == checksums(run.manifest)
    stricter = run.settings.model_copy(update={"views": run.settings.views | {"item": View(minimum_count=3, top=5)}})
    fewer = Pipeline(spark, stricter, output, Identity({}, "hash", "version")).run()
    nodes = pq.read_table(paths.shards / fewer.views["item"].vocabulary.path).to_pylist()
    assert {row["id"]: row["row"] for row in nodes} == run.rows["item"]
    assert [row["id"] for row in nodes if row["count"]] == [id_ for id_, row in run.rows["item"].items() if row < 5]
    seen = {node for file in fewer.views["item"].streams[0].files for row in read_rows(paths, file) for node in row["nodes"]}
    assert seen <= set(range(5))


def checksums(manifest: Manifest) -> dict[str, list[str]]:
    """SHA-256 of every stream's files in order, and of the vocabularies."""
    found = {f"vocabulary {name}": [view.vocabulary.sha256] for name, view in manifest.views.items()}
    for name, part in {**manifest.views, **manifest.relations}.items():
        for stream in part.streams:
            found[f"{name} {stream.encoding}"] = [file.sha256 for file in stream.files]
    return found


def test_another_seed_gives_another_order(spark: SparkSession) -> None:
    frame = spark.range(100).withColumn("nodes", F.array("id"))
    orders = [[row["nodes"] for row in shuffled(frame, ["id"], ["nodes"], 2, seed).collect()] for seed in (1, 2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
