"""Figures of a run of the pipeline: the funnel from raw rows to pairs, and the paper's Table 1."""

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.manifest import Manifest
from pipeline.split import TEST, TRAIN, UNUSED


def parts(clicks: DataFrame) -> dict[str, dict[str, Any]]:
    """Clicks, users, sessions, and the first and last time of each part of the split."""
    figures = clicks.groupBy("part").agg(
        F.count("*").alias("clicks"),
        F.countDistinct("user_id").alias("users"),
        F.countDistinct("user_id", "session_id").alias("sessions"),
        F.date_format(F.min("timestamp"), "yyyy-MM-dd HH:mm:ss").alias("first"),
        F.date_format(F.max("timestamp"), "yyyy-MM-dd HH:mm:ss").alias("last"),
    )
    found = {row["part"]: {name: row[name] for name in figures.columns if name != "part"} for row in figures.collect()}
    return {part: found[part] for part in (TRAIN, TEST, UNUSED) if part in found}


def weighted(frame: DataFrame) -> dict[str, int]:
    """Distinct rows and total weight of edges or links."""
    row = frame.agg(F.count("*").alias("distinct"), F.coalesce(F.sum("weight"), F.lit(0)).alias("weight")).first()
    assert row is not None  # an aggregate has a row
    return {"distinct": int(row["distinct"]), "weight": int(row["weight"])}


def pairs(manifest: Manifest) -> dict[str, int]:
    """Skip-gram pairs of each view and linked pairs of each relation, the same in every encoding."""
    return {name: streams[0].pairs for name, streams in manifest.streams.items()}
