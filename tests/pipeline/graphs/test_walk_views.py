"""A whole run whose views are trained on sessions, on random walks and on edges: all of them
through one manifest."""

import csv
import json
import random
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from tests.pipeline.frames import DAY
from tests.pipeline.runs.test_reference import run_pipeline
from tests.trainer.shards import expand
from trainer.data.streams import StreamFiles, StreamRows

WALKS, LENGTH, WINDOW = 3, 6, 2
VIEWS: dict[str, dict[str, Any]] = {
    "item": {},
    "category": {
        "attribute": "category",
        "sequences": "walks",
        "walks": {"walks_per_node": WALKS, "length": LENGTH, "p": 0.5, "q": 2.0},
    },
    "shop": {"attribute": "shop", "sequences": "edges"},
    # The same graph, followed in click order only.
    "brand": {"attribute": "shop", "sequences": "edges", "directed": True},
}
Edges = Counter[tuple[int, int]]


@dataclass
class Run:
    """What one run wrote."""

    paths: Paths
    manifest: Manifest
    edges: dict[str, Edges]
    """View -> weight of each edge, by row of the vocabulary."""

    def rows(self, view: str, encoding: str) -> StreamRows:
        """A stream as the trainer reads it."""
        (stream,) = (
            stream for stream in self.manifest.views[view].streams if stream.encoding == encoding
        )
        return StreamFiles(self.paths.shards, stream).read(0, stream.rows)

    def pairs(self, view: str, encoding: str) -> Edges:
        """(centre, context) of a stream, as often as it holds them."""
        rows = self.rows(view, encoding)
        if rows.centres is None:
            return Edges(
                (centre, context)
                for nodes in sequences(rows)
                for _, centre, context in expand(nodes, WINDOW)
            )
        return Edges(
            zip(rows.centres.repeat(rows.lengths).tolist(), rows.values.tolist(), strict=True)
        )


def sequences(rows: StreamRows) -> list[list[int]]:
    return [rows.values[begin:end].tolist() for begin, end in pairwise(rows.offsets.tolist())]


@pytest.fixture(scope="module")
def run(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("walks")
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "category", "shop"])
        draw = random.Random(5)
        for click in range(150):
            item = min(draw.randrange(12), draw.randrange(12))
            writer.writerow(
                [
                    f"u{draw.randrange(6)}",
                    f"i{item}",
                    DAY + timedelta(minutes=25 * click),
                    f"c{item % 7}",
                    f"s{item % 4}",
                ]
            )
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    source = {
        "path": str(folder / "log.csv"),
        "format": "csv",
        "columns": columns,
        "attributes": {"category": "category", "shop": "shop"},
    }
    settings = {
        "name": "walks",
        "seed": 3,
        "source": source,
        "lake": {"partition_by_date": False},
        "views": VIEWS,
    }
    settings |= {
        "sessions": {"idle_gap_seconds": 4 * 3600.0},
        "shards": {"window": WINDOW, "files": 2, "row_group_rows": 8},
    }
    paths = Paths(folder / "out")
    run_pipeline(spark, PipelineConfig.model_validate(settings), paths)
    manifest = Manifest.read(paths.shards)
    edges = {}
    for view in VIEWS:
        table = spark.read.format("delta").load(str(paths.lake / "edges" / view))
        rows = {
            node["id"]: node["row"]
            for node in pq.read_table(
                paths.shards / manifest.views[view].vocabulary.path
            ).to_pylist()
        }
        edges[view] = Edges(
            {
                (rows[edge["source"]], rows[edge["target"]]): edge["weight"]
                for edge in table.collect()
            }
        )
    return Run(paths, manifest, edges)


def test_the_manifest_says_what_each_view_is_trained_on(run: Run) -> None:
    streams = {
        view: [
            (stream.source, stream.encoding, stream.window)
            for stream in run.manifest.views[view].streams
        ]
        for view in VIEWS
    }
    assert streams == {
        "item": [("sessions", "windows", WINDOW), ("sessions", "pairs", None)],
        "category": [("walks", "windows", WINDOW), ("walks", "pairs", None)],
        "shop": [("edges", "pairs", None)],
        "brand": [("edges", "pairs", None)],
    }
    checked = list(verify(run.paths.shards, run.manifest))
    assert len(checked) == len(VIEWS) + 2 * (
        2 + 2 + 1 + 1
    )  # the vocabularies, and two files of each stream


def test_walks_step_along_the_edges_of_their_graph(run: Run) -> None:
    walks, edges = sequences(run.rows("category", "windows")), run.edges["category"]
    neighbours = set(edges) | {(target, source) for source, target in edges}
    assert {step for walk in walks for step in pairwise(walk)} <= neighbours
    assert {len(walk) for walk in walks} == {LENGTH}
    # Every node starts as many walks as configured.
    assert Counter(walk[0] for walk in walks) == dict.fromkeys(
        {node for edge in edges for node in edge}, WALKS
    )


def test_an_edge_list_has_as_many_pairs_as_the_graph_weighs(run: Run) -> None:
    weights = run.edges["shop"]
    assert run.edges["brand"] == weights
    assert max(weights.values()) > 1
    both = Edges(weights)
    for (source, target), weight in weights.items():
        both[target, source] += weight
    assert run.pairs("shop", "pairs") == both
    assert run.pairs("brand", "pairs") == weights
    assert (both.total(), weights.total()) == tuple(
        run.manifest.views[view].streams[0].pairs for view in ("shop", "brand")
    )


def test_both_encodings_hold_the_same_pairs_and_the_statistics_their_number(run: Run) -> None:
    counted = json.loads(run.paths.statistics.read_text(encoding="utf-8"))
    for view in ("item", "category"):
        found = run.pairs(view, "windows")
        assert found == run.pairs(view, "pairs")
        assert counted["pairs"][view] == found.total()
    assert {view: counted["edges"][view]["weight"] for view in VIEWS} == {
        view: edges.total() for view, edges in run.edges.items()
    }
    assert (counted["pairs"]["shop"], counted["pairs"]["brand"]) == (
        2 * run.edges["shop"].total(),
        run.edges["brand"].total(),
    )
    # Sessions, not the graph: some users come back after the idle gap, so their items have fewer
    # steps than edges.
    items = sequences(run.rows("item", "windows"))
    assert sum(len(nodes) - 1 for nodes in items) < run.edges["item"].total()
