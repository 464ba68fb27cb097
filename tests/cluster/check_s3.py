"""From a log in S3 to vectors: the pipeline on a Spark cluster through s3a, the training through
pyarrow, against a real S3 server.

Run by `make test-s3`, which fetches the server and s3a's jars. It takes some minutes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.contracts import heldout
from pipeline.contracts.sealed import ManifestError, check_file
from pipeline.contracts.shards import Manifest
from pipeline.storage import files
from pipeline.storage.files import write_text
from pipeline.storage.locations import location
from tests.cluster import shop
from tests.cluster.machines import preprocess_on, s3_server, spark_cluster
from tests.cluster.stored import (  # noqa: F401
    Done,
    test_all_output_is_in_the_store,
    test_shards_are_those_of_local_files,
    test_the_trainer_reads_shards_from_the_store,
    test_verify_reads_the_store,
)

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        "M2GRL_S3_SERVER" not in os.environ, reason="no S3 server: run this by `make test-s3`"
    ),
]


def jars() -> str:
    """Delta's, as the machine's own settings say, and s3a's."""
    settings = (Path(os.environ["SPARK_CONF_DIR"]) / "spark-defaults.conf").read_text(
        encoding="utf-8"
    )
    (delta,) = (line.split()[1] for line in settings.splitlines() if line.startswith("spark.jars "))
    return ",".join([delta, *map(str, Path(os.environ["M2GRL_S3_JARS"]).glob("*.jar"))])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """The project of the log in the bucket, preprocessed in the cluster; the server runs on."""
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder, "clicks") as access, pytest.MonkeyPatch.context() as patched:
        for name, value in access.items():
            patched.setenv(name, value)
        raw = location("s3a://clicks/raw")
        for name, text in shop.files().items():
            write_text(raw / name, text)
        config = shop.write_project(folder, raw)
        s3a = {
            "endpoint": access["AWS_ENDPOINT_URL"],
            "endpoint.region": access["AWS_REGION"],
            "path.style.access": "true",
        }
        with spark_cluster(folder) as master:
            # Executors inherit the keys from the workers, which were started with them.
            conf = {"spark.jars": jars()} | {
                f"spark.hadoop.fs.s3a.{name}": value for name, value in s3a.items()
            }
            preprocess_on(master, folder, [config, "--output", "s3a://clicks/out"], conf)
        yield Done(config, folder, raw, "s3a://clicks/out")


def test_a_listed_file_is_checked(done: Done) -> None:
    heldout.check(done.store / "heldout")
    file = Manifest.read(done.store / "shards").streams["item"][0].files[0]
    check_file(done.store / "shards", file.path, file.bytes, file.sha256)
    with pytest.raises(
        ManifestError,
        match=r"s3a://clicks/out/shop/shards/item/windows/part.* has \d+ bytes, "
        r"manifest\.json says 1;",
    ):
        check_file(done.store / "shards", file.path, 1, file.sha256)


def test_an_object_too_large_for_one_copy_is_moved(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "COPIED_AT_ONCE", 10)
    text, (old, new) = "0123456789" * 10, (done.store / name for name in ("old", "new"))
    write_text(old, text)
    files.move(old, new)
    assert (old.exists(), new.read_text(encoding="utf-8")) == (False, text)
