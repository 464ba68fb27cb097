"""Items trained on random walks, and their categories on edges, from the log to vectors: items that
are clicked together end up close."""

import csv
import json
import random
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from jobs.common.config import Paths
from pipeline.config import PipelineConfig
from pipeline.contracts.shards import Manifest
from pipeline.contracts.training import RECORDS
from tests.pipeline.frames import DAY
from tests.pipeline.runs.test_reference import run_pipeline
from trainer.config import Train
from trainer.export import export
from trainer.ranks.comm import LocalComm
from trainer.training import CHECKPOINTS, train

CIRCLES, ITEMS, SEED = 3, 6, 4
"""Circles of friends, who click on items of their own only."""
VIEWS = {
    "item": {
        "sequences": "walks",
        "walks": {"walks_per_node": 20, "length": 8, "p": 0.5, "q": 2.0},
    },
    "category": {"attribute": "category", "sequences": "edges"},
}
TRAIN = Train(epochs=20, dimension=16, batch_pairs=1000, lanes=4, learning_rate=0.3, log_steps=1)


def write_log(path: Path) -> None:
    """Each item of a circle is a category of its own."""
    draw = random.Random(SEED)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "category"])
        for visit in range(90):
            circle = visit % CIRCLES
            for click in range(5):
                item = f"{circle}-{draw.randrange(ITEMS)}"
                writer.writerow(
                    [
                        f"user {visit % 9}",
                        item,
                        DAY + timedelta(hours=visit, minutes=click),
                        f"kind {item}",
                    ]
                )


def test_items_on_walks_and_categories_on_edges(spark: SparkSession, tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv")
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
    source = {
        "path": str(tmp_path / "log.csv"),
        "format": "csv",
        "columns": columns,
        "attributes": {"category": "category"},
    }
    settings = {
        "name": "walked",
        "seed": SEED,
        "source": source,
        "views": VIEWS,
        "relations": {"item_category": {"view": "category"}},
    }
    paths = Paths(tmp_path / "out")
    run_pipeline(
        spark,
        PipelineConfig.model_validate(settings | {"shards": {"window": 3, "files": 2}}),
        paths,
    )
    streams = {
        view: {stream.source for stream in shards.streams}
        for view, shards in Manifest.read(paths.shards).views.items()
    }
    assert streams == {"item": {"walks"}, "category": {"edges"}}
    train(paths.shards, paths.model, TRAIN, SEED, LocalComm())
    records = map(json.loads, (paths.model / RECORDS).read_text(encoding="utf-8").splitlines())
    losses = [record["losses"] for record in records if "losses" in record]
    for task in ("item", "category", "item_category"):
        # A step may have no rows of a short stream.
        told = [each[task] for each in losses if each[task] is not None]
        assert told[-1] < told[0], task
    export(paths.shards, paths.model / CHECKPOINTS, paths.embeddings)
    for view in ("item", "category"):
        table = pq.read_table(paths.embeddings / f"{view}.parquet")
        vectors = np.array(table.column("vector").to_pylist())
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        circles = np.array(
            [name.removeprefix("kind ")[0] for name in table.column("id").to_pylist()]
        )
        nearest = np.argsort(-(vectors @ vectors.T), axis=1)[:, 1:ITEMS]
        assert (circles[nearest] == circles[:, None]).mean() == 1, view
