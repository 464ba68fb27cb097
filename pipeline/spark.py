"""The one door to Spark: its session, and what its errors say."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark import inheritable_thread_target
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipeline.errors import PipelineError

_SIDES = 4
"""Threads of `side_by_side`."""
_FOR_GOOD = "interval 36500 days"
DELTA_CLASS = "io.delta.sql.DeltaSparkSessionExtension"
_VARIED = (
    *("user_id", "session_id", "app_session_id"),
    *("timestamp", "app_open", "app_close", "session_start", "start", "end", "stay_seconds"),
)
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # Whole microseconds, which all readers know; the default, INT96, takes twice as long to write.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # Nobody searches the lake by a column's range; dates are folders.
    "spark.databricks.delta.stats.collect": "false",
    # A version lasts until a vacuum removes it, not a week: neither Delta's log nor its knowledge
    # of who needs which file ends before.
    "spark.databricks.delta.properties.defaults.logRetentionDuration": _FOR_GOOD,
    "spark.databricks.delta.properties.defaults.deletedFileRetentionDuration": _FOR_GOOD,
    "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
    # And a vacuum removes what it is told to: Delta would go by the table's hundred years, and
    # refuse to go below them.
    "spark.databricks.delta.vacuum.retentionWindowIgnore.enabled": "false",
    "spark.databricks.delta.retentionDurationCheck.enabled": "false",
    # Times in nanoseconds, as pandas writes them, are read as numbers.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # Groups are formed from sorted rows, as they come; hashing them first, as Spark would, takes
    # twice as long.
    "spark.sql.execution.useObjectHashAggregateExec": "false",
    # Ids of users and sessions, and times, repeat too little in a file: a dictionary of them took a
    # third of the time of writing.
    **{f"parquet.enable.dictionary#{column}": "false" for column in _VARIED},
}
"""Settings that the pipeline's results or speed rest on, whatever the cluster's own are."""


def open_session(name: str) -> SparkSession:
    """The Spark session of this process. All times are UTC.

    Raises PipelineError where Delta is not on Spark's class path.
    """
    builder = SparkSession.builder.appName(name)
    spark = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    jvm: Any = spark._jvm
    try:
        # Spark's jars, and those of --packages, are known to the thread's loader alone.
        loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
        loader.loadClass(DELTA_CLASS)
    except Py4JJavaError:
        raise PipelineError(
            "Delta is not on Spark's class path: `make setup` fetches it for this machine "
            "(then `source .venv/m2grl.env`); "
            "elsewhere start with `spark-submit --packages io.delta:delta-spark_4.2_2.13:4.4.0`"
        ) from None
    for name, value in SETTINGS.items():
        spark.conf.set(name, value)
    return spark


Done = TypeVar("Done")


def side_by_side(spark: SparkSession, work: Mapping[str, Callable[[], Done]]) -> dict[str, Done]:
    """Does several things at the same time and returns what each gave, by name. Raises the error of
    the first of them that failed, once all have ended.

    Small tables keep one core busy with planning; others compute meanwhile.
    """
    futures = {}
    with ThreadPoolExecutor(_SIDES) as threads:
        for name, one in work.items():
            # A copy of the caller's local properties for each: Spark writes into them.
            inherit = inheritable_thread_target(spark)
            futures[name] = threads.submit(inherit(one))
    return {name: future.result() for name, future in futures.items()}


def cause(error: Exception) -> str:
    """The first line of what Spark or the Java below it says went wrong."""
    text = str(error)
    if isinstance(error, Py4JJavaError):
        # Outer exceptions say where they were met, the innermost what was wrong.
        java = error.java_exception
        while java.getCause() is not None:
            java = java.getCause()
        text = str(java.toString())
    elif isinstance(error, PySparkException):
        # Spark looks for the texts of all errors among its own, and some are Delta's.
        with suppress(Py4JJavaError):
            text = str(error.getMessage() or text)
    return (text.strip() or type(error).__name__).splitlines()[0]
