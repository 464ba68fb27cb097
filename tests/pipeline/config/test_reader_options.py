"""Options of readers that a configuration may name: all that Spark knows, and no other."""

import pytest
from pyspark.sql import SparkSession

from pipeline.config.reader_options import OF_FILES, READER_OPTIONS

OPTIONS = {
    "csv": "catalyst.csv.CSVOptions",
    "json": "catalyst.json.JSONOptions",
    "parquet": "execution.datasources.parquet.ParquetOptions",
}
"""Format -> the class of Spark that lists what its reader and writer know."""


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_of_a_format_are_those_that_spark_lists(spark: SparkSession, kind: str) -> None:
    jvm = spark._jvm
    assert jvm is not None
    listed = (
        jvm.java.lang.Class.forName(f"org.apache.spark.sql.{OPTIONS[kind]}$")
        .getField("MODULE$")
        .get(None)
        .getAllOptions()
    )
    assert set(listed.mkString(" ").split()) == set(READER_OPTIONS[kind]) - set(OF_FILES)
