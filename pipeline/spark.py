"""The one door to Spark: its session, and Delta tables under one root."""

import shutil
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

DELTA_CLASS = "io.delta.sql.DeltaSparkSessionExtension"
SCRATCH = "_scratch"


class PipelineError(Exception):
    """The pipeline cannot go on; the message says what, where and what to do."""


def open_session(name: str) -> SparkSession:
    """The Spark session of this process. All times are UTC.

    Raises PipelineError where Delta is not on Spark's class path.
    """
    spark = SparkSession.builder.appName(name).config("spark.sql.session.timeZone", "UTC").getOrCreate()
    try:
        loader = spark._jvm.java.lang.Thread.currentThread().getContextClassLoader()  # type: ignore[union-attr]
        loader.loadClass(DELTA_CLASS)
    except Py4JJavaError:
        raise PipelineError(
            "Delta is not on Spark's class path: `make setup` fetches it for this machine (then `source .venv/m2grl.env`); "
            "elsewhere start with `spark-submit --packages io.delta:delta-spark_4.2_2.13:4.4.0`"
        ) from None
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    return spark


class Lake:
    """Delta tables under one root. A write replaces a table in one commit: readers see the old one or the new one."""

    def __init__(self, spark: SparkSession, root: Path) -> None:
        self.spark = spark
        self.root = root

    def write(self, table: str, frame: DataFrame) -> DataFrame:
        """Replaces a table and reads it back."""
        frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(str(self.root / table))
        return self.read(table)

    def read(self, table: str) -> DataFrame:
        """The newest version of a table."""
        return self.spark.read.format("delta").load(str(self.root / table))

    def exists(self, table: str) -> bool:
        """Whether the table was ever written."""
        return (self.root / table / "_delta_log").is_dir()

    def version(self, table: str) -> int:
        """Number of a table's newest version: the newest commit of its log, of which each is one file."""
        return max(int(commit.stem) for commit in (self.root / table / "_delta_log").glob("*.json"))

    def scratch(self, name: str, frame: DataFrame) -> DataFrame:
        """Writes what several steps read once, so that none of them computes it again; `sweep` removes it."""
        path = str(self.root / SCRATCH / name)
        frame.write.mode("overwrite").parquet(path)
        return self.spark.read.parquet(path)

    def sweep(self) -> None:
        """Removes all scratch tables."""
        shutil.rmtree(self.root / SCRATCH, ignore_errors=True)


def cause(error: Exception) -> str:
    """The first line of what Spark or the Java below it says went wrong."""
    text = str(error)
    if isinstance(error, Py4JJavaError):
        java = error.java_exception
        while java.getCause() is not None:
            java = java.getCause()
        text = str(java.toString())
    elif isinstance(error, PySparkException) and error.getMessage():
        text = str(error.getMessage())
    return (text.strip() or type(error).__name__).splitlines()[0]
