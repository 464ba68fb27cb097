"""Figures of a run of the pipeline: the funnel from raw rows to pairs, and the paper's Table 1."""

from collections.abc import Iterator, Mapping
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.split import TEST, TRAIN, UNUSED
from pipeline.contracts.shards import Manifest
from pipeline.graphs.sequences import nodes

TABLE = "statistics"
"""The lake's table of `long_form`."""
COUNTS = (
    "funnel",
    "items whose value changed",
    "parts",
    "sequences",
    "nodes",
    "nodes left out",
    "edges",
    "links",
    "pairs",
)
HISTOGRAMS = "histograms"
"""Keys of statistics.json that the lake's table holds too."""


def parts(clicks: DataFrame, sessions: DataFrame) -> dict[str, dict[str, Any]]:
    """Clicks, users, sessions, and the first and last time of each part of the split; of the clicks
    and of `sequences.sessions`."""
    first, last = (
        F.date_format(time("timestamp"), "yyyy-MM-dd HH:mm:ss") for time in (F.min, F.max)
    )
    times = clicks.groupBy("part").agg(
        F.count("*").alias("clicks"), first.alias("first"), last.alias("last")
    )
    found = {row["part"]: row for row in times.collect()}
    users = sessions.groupBy("user_id").agg(
        *(F.count(F.when(F.col(part) > 0, True)).alias(part) for part in found)
    )
    counts = [
        (
            F.count(F.when(F.col(part) > 0, True)).alias(f"{part} users"),
            F.sum(part).alias(f"{part} sessions"),
        )
        for part in found
    ]
    row = users.agg(*(count for pair in counts for count in pair)).first()
    assert row is not None  # an aggregate has a row
    return {
        part: {
            "clicks": found[part]["clicks"],
            "users": row[f"{part} users"],
            "sessions": row[f"{part} sessions"],
            "first": found[part]["first"],
            "last": found[part]["last"],
        }
        for part in (TRAIN, TEST, UNUSED)
        if part in found
    }


def weighted(frame: DataFrame) -> dict[str, int]:
    """Distinct rows and total weight of edges or links."""
    row = frame.agg(
        F.count("*").alias("distinct"), F.coalesce(F.sum("weight"), F.lit(0)).alias("weight")
    ).first()
    assert row is not None  # an aggregate has a row
    return {"distinct": int(row["distinct"]), "weight": int(row["weight"])}


def pairs(manifest: Manifest) -> dict[str, int]:
    """Skip-gram pairs of each view and linked pairs of each relation, the same in every
    encoding."""
    return {name: streams[0].pairs for name, streams in manifest.streams.items()}


def funnel_of_views(
    sessions: DataFrame, known: Mapping[str, int], left_out: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """View -> how many clicks of the training part are on items without a value there, how many
    each limit left out (`left_out`), how many are in its vocabulary (`known`), how many of these
    repeat the node before them in their session, how many nodes are then alone in their session,
    and how many are left, in sequences of two or more.

    Reads `sequences.sessions`.
    """
    lengths = {name: F.size(nodes(name)) for name in known}
    sums = [
        F.coalesce(F.sum(length), F.lit(0)).alias(f"{name} all") for name, length in lengths.items()
    ]
    sums += [
        F.count(F.when(length == 1, True)).alias(f"{name} alone")
        for name, length in lengths.items()
    ]
    row = sessions.agg(F.coalesce(F.sum(TRAIN), F.lit(0)).alias(TRAIN), *sums).first()
    assert row is not None  # an aggregate has a row
    return {
        name: {
            "without a value": row[TRAIN] - clicks - sum(left_out[name].values()),
            **left_out[name],
            "in vocabulary": clicks,
            "same node as before": clicks - row[f"{name} all"],
            "alone in session": row[f"{name} alone"],
            "in sequences": row[f"{name} all"] - row[f"{name} alone"],
        }
        for name, clicks in known.items()
    }


def long_form(figures: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None, int]]:
    """name, bin_from, bin_to, count of all counts of statistics.json; the bounds are those of a
    histogram's bin, both the value of one that stands out, None elsewhere."""
    for key in COUNTS:
        yield from ((name, None, None, count) for name, count in _counts(key, figures.get(key)))
    for name, histogram in figures.get(HISTOGRAMS, {}).items():
        yield from (
            (f"{HISTOGRAMS}/{name}", float(from_), float(to), count)
            for from_, to, count in histogram["bins"]
        )
        unusual = ((float(found["value"]), found["count"]) for found in histogram["unusual"])
        yield from (
            (f"{HISTOGRAMS}/{name}/unusual", value, value, count) for value, count in unusual
        )


def table(spark: SparkSession, figures: Mapping[str, Any]) -> DataFrame:
    """`long_form` as one small table."""
    return spark.createDataFrame(
        list(long_form(figures)), "name string, bin_from double, bin_to double, count long"
    ).coalesce(1)


def _counts(name: str, value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _counts(f"{name}/{key}", inner)
    elif isinstance(value, int):
        yield name, value
