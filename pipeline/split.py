"""What is held out for evaluation: decided before anything is learned, vocabulary included."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Split

TRAIN, TEST, UNUSED = "train", "test", "unused"


def with_part(clicks: DataFrame, split: Split) -> DataFrame:
    """Adds `part`: train, test, or unused (after a test part that ends)."""
    if split.kind == "time" and split.cut is not None:
        cut = F.lit(split.cut)
        started = F.when(F.col("session_start") < cut, TRAIN)
        if split.hours is None:
            return clicks.withColumn("part", started.otherwise(TEST))
        end = cut + F.make_dt_interval(hours=F.lit(0), mins=F.lit(0), secs=F.lit(split.hours * 3600).cast("decimal(18,6)"))
        return clicks.withColumn("part", started.when(F.col("session_start") < end, TEST).otherwise(UNUSED))
    if split.kind == "last_items":
        length = F.count("*").over(Window.partitionBy("user_id"))
        held = (length >= split.minimum_items) & (F.col("position") >= length - split.items)
        return clicks.withColumn("part", F.when(held, TEST).otherwise(TRAIN))
    return clicks.withColumn("part", F.lit(TRAIN))
