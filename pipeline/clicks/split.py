"""What is held out for evaluation: decided before anything is learned, vocabulary included."""

from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION
from pipeline.config import Split
from pipeline.contracts.statistics import TEST, TRAIN, UNUSED

CLICK = (*SESSION, "session_position")
"""Columns that order clicks: a user's in time."""


def with_part(clicks: DataFrame, split: Split) -> DataFrame:
    """Adds `part`: train, test, or unused (clicks after the cut of a session that started before
    it; sessions after the test part).

    >>> clicks = in_sessions("10:00 a", "11:50 b", "12:10 c", "14:00 d")
    >>> split = Split(kind="time", cut="2024-03-01T12:00")
    >>> shown(with_part(clicks, split), "timestamp", "session_start", "part")
    timestamp session_start part
    10:00:00  10:00:00      train
    11:50:00  11:50:00      train
    12:10:00  11:50:00      unused
    14:00:00  14:00:00      test
    """
    if split.kind == "time" and split.cut is not None:
        return clicks.withColumn("part", _part_by_time(split.cut, split.hours))
    if split.kind == "last_items":
        user = Window.partitionBy("user_id")
        from_the_end = user.orderBy(*(F.desc(name) for name in CLICK))
        is_split = F.count("*").over(user) >= split.minimum_items
        is_last = F.row_number().over(from_the_end) <= split.items
        return clicks.withColumn("part", F.when(is_split & is_last, TEST).otherwise(TRAIN))
    return clicks.withColumn("part", F.lit(TRAIN))


def _part_by_time(cut: datetime, hours: float | None) -> Column:
    start = F.col("session_start")
    # A session that goes on over the cut would let training see what came after it.
    up_to_cut = F.when(F.col("timestamp") < F.lit(cut), TRAIN).otherwise(UNUSED)
    before = F.when(start < F.lit(cut), up_to_cut)
    if hours is None:
        return before.otherwise(TEST)
    end = F.lit(cut + timedelta(hours=hours))
    return before.when(start < end, TEST).otherwise(UNUSED)
