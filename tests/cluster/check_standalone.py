"""The pipeline on a real Spark cluster: a master and two workers as processes, driver and executors
with the packed environment alone.

Run by `make test-cluster`; it takes about two minutes on two idle cores, so the other tests go
without it.
"""

import json

import pytest
from pyspark.sql import SparkSession

from jobs.common.config import Paths
from pipeline.contracts.shards import Manifest
from tests.cluster import shop
from tests.cluster.machines import preprocess, preprocess_on, spark_cluster

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Paths]:
    """One project, run in this machine's Spark and on the cluster."""
    folder = tmp_path_factory.mktemp("standalone")
    for name, text in shop.files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    config = shop.write_project(folder, folder)
    preprocess([config, "--output", folder / "local"])
    with spark_cluster(folder) as master:
        preprocess_on(master, folder, [config, "--output", f"file://{folder}/cluster"])
    # Both workers had executors, which counted files in Python.
    assert all(
        list((folder / f"worker-{number}").glob("app-*/*/environment")) for number in range(2)
    )
    return {name: Paths(folder / name / "shop") for name in ("local", "cluster")}


def test_shards_are_the_same_to_the_byte(runs: dict[str, Paths]) -> None:
    local, cluster = (shop.held(Manifest.read(paths.shards)) for paths in runs.values())
    assert all(files and files[0].rows for files in local.values())
    assert cluster == local


def test_held_out_cases_are_the_same_to_the_byte(runs: dict[str, Paths]) -> None:
    local, cluster = (shop.held_out(paths.heldout) for paths in runs.values())
    assert cluster == local


def test_figures_are_the_same(runs: dict[str, Paths]) -> None:
    local, cluster = (
        json.loads(paths.statistics.read_text(encoding="utf-8")) for paths in runs.values()
    )
    assert local.pop("seconds").keys() == cluster.pop("seconds").keys()
    assert local["funnel"]["clicks"]
    assert cluster == local


def test_tables_hold_the_same_rows(runs: dict[str, Paths], spark: SparkSession) -> None:
    tables = Manifest.read(runs["local"].shards).inputs
    assert len(tables) >= 12
    for table in tables:
        local, cluster = (
            spark.read.format("delta").load(str(paths.lake / table)) for paths in runs.values()
        )
        assert local.schema == cluster.schema
        assert local.exceptAll(cluster).isEmpty(), table
        assert local.count() == cluster.count(), table
