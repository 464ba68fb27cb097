"""Small hand-written frames."""

from datetime import datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.contracts.statistics import TRAIN
from pipeline.graphs import sequences

DAY = datetime(2024, 3, 1)


def at(clock: str, day: datetime = DAY) -> datetime:
    """A time of the day written as 10:00, 10:00:05 or 10:00:05.250; hours may exceed 24."""
    hours, minutes, *seconds = clock.split(":")
    return day + timedelta(
        hours=int(hours),
        minutes=int(minutes),
        microseconds=round(float(seconds[0]) * 1e6) if seconds else 0,
    )


def click_frame(spark: SparkSession, rows: list[tuple[Any, ...]], extra: str = "") -> DataFrame:
    """Clicks (user_id, item_id, time written for `at`, further columns as `extra` declares
    them)."""
    values = [(user, item, at(clock), *more) for user, item, clock, *more in rows]
    return spark.createDataFrame(
        values,
        f"user_id string, item_id string, timestamp timestamp{', ' + extra if extra else ''}",
    )


def sessions_of(clicks: DataFrame) -> DataFrame:
    """The sessions of clicks that have been given theirs."""
    return sequences.sessions(clicks.withColumn("part", F.lit(TRAIN)), [])


def session_table_of(clicks: DataFrame) -> DataFrame:
    """The same, as the lake keeps them."""
    return sequences.session_table(sessions_of(clicks))
