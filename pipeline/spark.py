"""The one door to Spark: its session, and Delta tables under one root."""

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipeline.files import remove_folder
from pipeline.places import Place, names, spark_path

DELTA_CLASS = "io.delta.sql.DeltaSparkSessionExtension"
SCRATCH = "_scratch"
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # Whole microseconds, which all readers know; the default, INT96, takes twice as long to write.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # Nobody searches the lake by a column's range; dates are folders.
    "spark.databricks.delta.stats.collect": "false",
    # Times in nanoseconds, as pandas writes them, are read as numbers.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # Groups are formed from sorted rows, as they come; hashing them first, as Spark would, takes twice as long.
    "spark.sql.execution.useObjectHashAggregateExec": "false",
}
"""Settings that the pipeline's results or speed rest on, whatever the cluster's own are."""


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
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    return spark


class Lake:
    """Delta tables under one root. A write replaces a table in one commit: readers see the old one or the new one."""

    def __init__(self, spark: SparkSession, root: Place, partition_by_date: bool = True) -> None:
        self.spark = spark
        self.root = root
        self.partition_by_date = partition_by_date

    def write(self, table: str, frame: DataFrame, by_date: bool = False) -> DataFrame:
        """Replaces a table and reads it back. `by_date`: it has a column `date`, by which it is partitioned where the lake is."""
        writer = frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
        (writer.partitionBy("date") if by_date and self.partition_by_date else writer).save(spark_path(self.root / table))
        return self.read(table)

    def read(self, table: str) -> DataFrame:
        """The newest version of a table."""
        return self.spark.read.format("delta").load(spark_path(self.root / table))

    def exists(self, table: str) -> bool:
        """Whether the table was ever written."""
        return (self.root / table / "_delta_log").exists()

    def version(self, table: str) -> int:
        """Number of a table's newest version: the newest commit of its log, of which each is one file."""
        return max(int(commit.split(".")[0]) for commit in names(self.root / table / "_delta_log", r"\d+\.json"))

    def scratch(self, name: str, frame: DataFrame) -> DataFrame:
        """Writes what several steps read once, so that none of them computes it again; `sweep` removes it."""
        path = spark_path(self.root / SCRATCH / name)
        frame.write.mode("overwrite").parquet(path)
        return self.spark.read.parquet(path)

    def sweep(self) -> None:
        """Removes all scratch tables."""
        remove_folder(self.root / SCRATCH)


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
