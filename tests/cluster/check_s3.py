"""From a log in S3 to vectors: the pipeline on a Spark cluster through s3a, the training through pyarrow, against a real S3 server.

Run by `make test-s3`, which fetches the server and s3a's jars. It takes some minutes.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import files, heldout
from pipeline.files import write_text
from pipeline.manifest import ManifestError, check_file, read_manifest
from pipeline.places import Place, names, place
from tests.cluster import shop
from tests.cluster.machines import preprocess, preprocess_on, run, s3_server, spark_cluster

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif("M2GRL_S3_SERVER" not in os.environ, reason="no S3 server: run this by `make test-s3`"),
]


@dataclass(frozen=True)
class Done:
    """What was run once for all tests."""

    config: Path
    folder: Path
    """Of this machine."""
    store: Place
    """The project's folder in the bucket."""
    printed: str


def jars() -> str:
    """Delta's, as the machine's own settings say, and s3a's."""
    settings = (Path(os.environ["SPARK_CONF_DIR"]) / "spark-defaults.conf").read_text(encoding="utf-8")
    (delta,) = (line.split()[1] for line in settings.splitlines() if line.startswith("spark.jars "))
    return ",".join([delta, *map(str, Path(os.environ["M2GRL_S3_JARS"]).glob("*.jar"))])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """The project of the log in the bucket, preprocessed in the cluster; the server runs on."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder, "clicks") as access, pytest.MonkeyPatch.context() as patched:
        for name, value in access.items():
            patched.setenv(name, value)
        for name, text in shop.files().items():
            write_text(place(f"s3a://clicks/raw/{name}"), text)
        config = shop.write_project(folder, place("s3a://clicks/raw"))
        s3a = {"endpoint": access["AWS_ENDPOINT_URL"], "endpoint.region": access["AWS_REGION"], "path.style.access": "true"}
        with spark_cluster(folder) as master:
            # Executors inherit the keys from the workers, which were started with them.
            conf = {"spark.jars": jars()} | {f"spark.hadoop.fs.s3a.{name}": value for name, value in s3a.items()}
            printed = preprocess_on(master, folder, [config, "--output", "s3a://clicks/out"], conf)
        yield Done(config, folder, place("s3a://clicks/out/shop"), printed)


def test_all_output_is_in_the_bucket(done: Done) -> None:
    found = names(done.store, recursive=True)
    assert {"shards/manifest.json", "heldout/manifest.json", "statistics.json"} <= set(found)
    assert any(name.startswith("lake/events/_delta_log/") for name in found)
    assert not [name for name in found if "_scratch" in name or "_temporary" in name or ".part" in name]
    assert not (done.folder / "out").exists()


def test_shards_are_those_of_local_files(done: Done) -> None:
    for name, text in shop.files().items():
        (done.folder / name).parent.mkdir(exist_ok=True)
        (done.folder / name).write_text(text, encoding="utf-8")
    preprocess([shop.write_project(done.folder, done.folder), "--output", done.folder / "local"])
    local = done.folder / "local" / "shop"
    assert shop.held(read_manifest(done.store / "shards")) == shop.held(read_manifest(local / "shards"))
    assert shop.held_out(done.store / "heldout") == shop.held_out(local / "heldout")


def test_a_listed_file_is_checked(done: Done) -> None:
    heldout.check(done.store / "heldout")
    file = read_manifest(done.store / "shards").streams["item"][0].files[0]
    check_file(done.store / "shards", file.path, file.bytes, file.sha256)
    with pytest.raises(ManifestError, match=r"s3a://clicks/out/shop/shards/item/windows/part.* has \d+ bytes, manifest\.json says 1;"):
        check_file(done.store / "shards", file.path, 1, file.sha256)


def test_an_object_too_large_for_one_copy_is_moved(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "COPIED_AT_ONCE", 10)
    text, (old, new) = "0123456789" * 10, (done.store / name for name in ("old", "new"))
    write_text(old, text)
    files.move(old, new)
    assert (old.exists(), new.read_text(encoding="utf-8")) == (False, text)


def test_the_trainer_reads_shards_from_the_bucket(done: Done) -> None:
    where = ["--output", "s3a://clicks/out", "--local-output", str(done.folder / "learned")]
    config = str(shop.write_project(done.folder, place("s3a://clicks/raw")))
    for job in ("train", "export", "similar", "evaluate", "report"):
        run(["python", f"jobs/{job}.py", config, *where])
    learned = done.folder / "learned" / "shop"
    nodes = read_manifest(done.store / "shards").views["item"].vocabulary.nodes
    assert pq.ParquetFile(learned / "embeddings" / "item.parquet").metadata.num_rows == nodes
    assert json.loads((learned / "evaluation.json").read_text(encoding="utf-8"))["cases"]["users"] > 100
    assert (learned / "report.html").is_file()


def test_verify_reads_the_bucket(done: Done) -> None:
    printed = run(["python", "jobs/preprocess.py", str(done.config), "--verify", f"{done.store}/shards"])
    assert "files are as manifest.json says" in printed
