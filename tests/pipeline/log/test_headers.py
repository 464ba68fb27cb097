"""Files that Spark cannot read."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.log.headers import broken_file


def test_a_file_that_is_gone_is_not_called_broken(spark: SparkSession, tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_text("a line\n", encoding="utf-8")
    frame = spark.read.text(str(file))
    file.unlink()
    with pytest.raises(Exception, match="FILE_NOT_EXIST") as raised:
        frame.collect()
    assert "log.txt' was removed while it was wanted" in str(broken_file(raised.value))
