"""From a log in HDFS to vectors: the pipeline on YARN, the training through pyarrow, against real
servers of both.

Run by `make test-hadoop`, which fetches the servers. It takes some minutes.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import locations
from pipeline.storage.files import remove_folder, write_text
from pipeline.storage.locations import Location, location
from tests.cluster import shop
from tests.cluster.hadoop import hadoop
from tests.cluster.machines import preprocess_on_yarn
from tests.cluster.stored import (  # noqa: F401
    Done,
    test_all_output_is_in_the_store,
    test_shards_are_those_of_local_files,
    test_the_trainer_reads_shards_from_the_store,
    test_verify_reads_the_store,
)

# Run here a second time, in HDFS: `root` and `folder` are this module's.

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        "M2GRL_HADOOP_JARS" not in os.environ, reason="no Hadoop: run this by `make test-hadoop`"
    ),
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
    return location(store).store[0].handler.client


@pytest.fixture
def root(store: str) -> Iterator[Location]:
    """A lake's folder."""
    where = location(f"{store}/lake")
    yield where
    remove_folder(where)


@pytest.fixture
def folder(store: str) -> Iterator[Location]:
    """An empty folder, with characters that URIs would give a meaning."""
    where = location(f"{store}/a b%20[1]#?;")
    yield where
    remove_folder(where)


@pytest.fixture(scope="module")
def raw(store: str) -> Location:
    """The folder of the log."""
    where = location(f"{store}/raw")
    for name, text in shop.files().items():
        write_text(where / name, text)
    return where


@pytest.fixture(scope="module")
def done(
    servers: tuple[str, Path], raw: Location, tmp_path_factory: pytest.TempPathFactory
) -> Done:
    """The project of the log in HDFS, preprocessed on YARN by another user than the servers'; the
    output's URI leaves the host out."""
    (store, settings), folder = servers, tmp_path_factory.mktemp("cluster")
    config = shop.write_project(folder, raw)
    client_of(store).set_permission("/", 0o777)
    try:
        preprocess_on_yarn(settings, "ann", folder, config, ["--output", "hdfs:///out"])
    except AssertionError as error:
        raise AssertionError(f"see {settings.parent}/containers/*/*/stdout") from error
    return Done(config, folder, raw, f"{store}/out")


def test_the_output_is_the_submitters(done: Done) -> None:
    """The driver's own files and Spark's."""
    client = client_of(str(done.store))
    owners = {
        client.get_file_info(f"/out/shop/{name}").owner
        for name in ("shards/manifest.json", "lake/events/_delta_log")
    }
    assert owners == {"ann"}


def test_what_hdfs_refuses_is_told_in_one_message(
    store: str, raw: Location, tmp_path: Path
) -> None:
    """Spark, which may not write, and the client beside it, which may not read."""
    config, another = shop.write_project(tmp_path, raw), os.environ | {"HADOOP_USER_NAME": "bob"}
    write_text(location(f"{store}/closed/manifest.json"), "{}")
    client_of(store).set_permission("/closed", 0o700)
    for start, asked in (
        ("spark-submit", ["--output", f"{store}/closed"]),
        ("python", ["--verify", f"{store}/closed"]),
    ):
        command = [start, "jobs/preprocess.py", str(config), *asked]
        failed = subprocess.run(command, capture_output=True, text=True, check=False, env=another)
        said = failed.stdout + failed.stderr
        assert failed.returncode == 1
        assert "Permission denied: user=bob" in said
        assert "Traceback" not in said
        assert "org.apache.hadoop.hdfs.server" not in said


def test_hdfs_without_a_host_is_the_default_one(
    servers: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, settings = servers
    write_text(location(f"{uri}/there/file"), "text")
    monkeypatch.setenv("HADOOP_CONF_DIR", str(settings))
    assert location("hdfs:///there/file").read_text(encoding="utf-8") == "text"
    locations._file_system.cache_clear()
