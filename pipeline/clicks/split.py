"""What is held out for evaluation: decided before anything is learned, vocabulary included."""

from datetime import timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION
from pipeline.config import Split

CLICK = (*SESSION, "session_position")
"""Columns that order clicks: a user's in time."""
TRAIN, TEST, UNUSED = "train", "test", "unused"


def with_part(clicks: DataFrame, split: Split) -> DataFrame:
    """Adds `part`: train, test, or unused (clicks after the cut of a session that started before
    it; sessions after the test part)."""
    if split.kind == "time" and split.cut is not None:
        cut, start = F.lit(split.cut), F.col("session_start")
        # A session that goes on over the cut would let training see what came after it.
        before = F.when(start < cut, F.when(F.col("timestamp") < cut, TRAIN).otherwise(UNUSED))
        if split.hours is None:
            return clicks.withColumn("part", before.otherwise(TEST))
        end = F.lit(split.cut + timedelta(hours=split.hours))
        return clicks.withColumn("part", before.when(start < end, TEST).otherwise(UNUSED))
    if split.kind == "last_items":
        user = Window.partitionBy("user_id")
        to_the_end = F.row_number().over(user.orderBy(*(F.desc(name) for name in CLICK)))
        held = (F.count("*").over(user) >= split.minimum_items) & (to_the_end <= split.items)
        return clicks.withColumn("part", F.when(held, TEST).otherwise(TRAIN))
    return clicks.withColumn("part", F.lit(TRAIN))
