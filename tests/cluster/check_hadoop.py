"""From a log in HDFS to vectors: the pipeline on YARN, the training through pyarrow, against real servers of both.

Run by `make test-hadoop`, which fetches the servers. It takes some minutes.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import places
from pipeline.files import remove_folder, write_text
from pipeline.manifest import read_manifest
from pipeline.places import Place, names, place
from tests.cluster import shop
from tests.cluster.hadoop import hadoop
from tests.cluster.machines import preprocess, preprocess_on_yarn, run

# Run here a second time, in HDFS: `root` and `folder` are this module's.
from tests.pipeline.test_daily import (  # noqa: F401
    test_of_two_writers_one_gets_an_error,
    test_of_two_writers_that_both_looked_first_one_gets_an_error,
)
from tests.pipeline.test_places import (  # noqa: F401
    test_a_manifest_is_kept_once,
    test_a_text_is_whole_and_replaces_an_older_one,
    test_moving_and_removing,
    test_names,
    test_tables,
    test_the_manifest_says_what_is_missing_or_damaged,
    test_what_a_stream_file_holds,
    test_what_is_absent,
)

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif("M2GRL_HADOOP_JARS" not in os.environ, reason="no Hadoop: run this by `make test-hadoop`"),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """HDFS's URI, and the folder with the cluster's settings; the servers run on."""
    with hadoop(tmp_path_factory.mktemp("hadoop")) as running:
        yield running


@pytest.fixture(scope="module")
def store(servers: tuple[str, Path]) -> str:
    """The file system's URI."""
    return servers[0]


def client_of(store: str) -> Any:
    """hdfs-native's client of the file system."""
    return place(store).store[0].handler.client


@pytest.fixture
def root(store: str) -> Iterator[Place]:
    """A lake's folder."""
    where = place(f"{store}/lake")
    yield where
    remove_folder(where)


@pytest.fixture
def folder(store: str) -> Iterator[Place]:
    """An empty folder, with characters that URIs would give a meaning."""
    where = place(f"{store}/a b%20[1]#?;")
    yield where
    remove_folder(where)


@dataclass(frozen=True)
class Done:
    """What was run once for all tests."""

    config: Path
    folder: Path
    """Of this machine."""
    output: str
    """The URI of --output."""
    store: Place
    """The project's folder in HDFS."""


@pytest.fixture(scope="module")
def raw(store: str) -> Place:
    """The folder of the log."""
    where = place(f"{store}/raw")
    for name, text in shop.files().items():
        write_text(where / name, text)
    return where


@pytest.fixture(scope="module")
def done(servers: tuple[str, Path], raw: Place, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The project of the log in HDFS, preprocessed on YARN by another user than the servers'; the output's URI leaves the host out."""
    (store, settings), folder = servers, tmp_path_factory.mktemp("cluster")
    config, output = shop.write_project(folder, raw), f"{store}/out"
    client_of(store).set_permission("/", 0o777)
    try:
        preprocess_on_yarn(settings, "ann", folder, config, ["--output", "hdfs:///out"])
    except AssertionError as error:
        raise AssertionError(f"see {settings.parent}/containers/*/*/stdout") from error
    return Done(config, folder, output, place(f"{output}/shop"))


def test_all_output_is_in_hdfs(done: Done) -> None:
    found = names(done.store, recursive=True)
    assert {"shards/manifest.json", "heldout/manifest.json", "statistics.json"} <= set(found)
    assert any(name.startswith("lake/events/_delta_log/") for name in found)
    assert not [name for name in found if "_scratch" in name or "_temporary" in name or ".part" in name]
    client = client_of(str(done.store))
    owners = {client.get_file_info(f"/out/shop/{name}").owner for name in ("shards/manifest.json", "lake/events/_delta_log")}
    assert owners == {"ann"}


def test_shards_are_those_of_local_files(done: Done) -> None:
    for name, text in shop.files().items():
        (done.folder / name).parent.mkdir(exist_ok=True)
        (done.folder / name).write_text(text, encoding="utf-8")
    preprocess([shop.write_project(done.folder, done.folder), "--output", done.folder / "local"])
    local = done.folder / "local" / "shop"
    assert shop.held(read_manifest(done.store / "shards")) == shop.held(read_manifest(local / "shards"))
    assert shop.held_out(done.store / "heldout") == shop.held_out(local / "heldout")


def test_the_trainer_reads_shards_from_hdfs(done: Done, raw: Place) -> None:
    where = ["--output", done.output, "--local-output", str(done.folder / "learned")]
    config = str(shop.write_project(done.folder, raw))
    for job in ("train", "export", "similar", "evaluate", "report"):
        run(["python", f"jobs/{job}.py", config, *where])
    learned = done.folder / "learned" / "shop"
    nodes = read_manifest(done.store / "shards").views["item"].vocabulary.nodes
    assert pq.ParquetFile(learned / "embeddings" / "item.parquet").metadata.num_rows == nodes
    assert json.loads((learned / "evaluation.json").read_text(encoding="utf-8"))["cases"]["users"] > 100
    assert (learned / "report.html").is_file()


def test_verify_reads_hdfs(done: Done) -> None:
    printed = run(["python", "jobs/preprocess.py", str(done.config), "--verify", f"{done.store}/shards"])
    assert "files are as manifest.json says" in printed


def test_what_hdfs_refuses_is_told_in_one_message(store: str, raw: Place, tmp_path: Path) -> None:
    """Spark, which may not write, and the client beside it, which may not read."""
    config, another = shop.write_project(tmp_path, raw), os.environ | {"HADOOP_USER_NAME": "bob"}
    write_text(place(f"{store}/closed/manifest.json"), "{}")
    client_of(store).set_permission("/closed", 0o700)
    for start, asked in (("spark-submit", ["--output", f"{store}/closed"]), ("python", ["--verify", f"{store}/closed"])):
        command = [start, "jobs/preprocess.py", str(config), *asked]
        failed = subprocess.run(command, capture_output=True, text=True, check=False, env=another)
        said = failed.stdout + failed.stderr
        assert failed.returncode == 1
        assert "Permission denied: user=bob" in said
        assert "Traceback" not in said
        assert "org.apache.hadoop.hdfs.server" not in said


def test_hdfs_without_a_host_is_the_default_one(servers: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    uri, settings = servers
    write_text(place(f"{uri}/there/file"), "text")
    monkeypatch.setenv("HADOOP_CONF_DIR", str(settings))
    assert place("hdfs:///there/file").read_text(encoding="utf-8") == "text"
    places._file_system.cache_clear()
