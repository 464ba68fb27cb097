"""What all tests share: one Spark session, and the real data where it is there."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.spark import open_session

# Spark hands out and takes times in this process's zone.
os.environ["TZ"] = "UTC"
time.tzset()
# Tests run each piece of code a few times only: Java's second compiler would take longer to compile
# it than it saves. With the first alone Java sets aside 48 MB for code, which many plans fill: it
# then stops compiling, and fails in the end.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")
QUICK = {
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    # A plan meets a few rows: compiling it would take longer than it saves. Jobs that tests start
    # as processes compile theirs.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""Settings of the tests' session."""
DATA = Path(os.environ.get("M2GRL_DATA", "../shared/data"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = open_session("tests")
    session.conf.unset("spark.sql.adaptive.coalescePartitions.initialPartitionNum")
    for name, value in QUICK.items():
        session.conf.set(name, value)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real data sets, for tests that are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no folder of real data at {DATA}; set M2GRL_DATA")
    return DATA
