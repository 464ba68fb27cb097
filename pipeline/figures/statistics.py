"""Figures of a run of the pipeline: the funnel from raw rows to pairs, and the paper's Table 1."""

from collections.abc import Iterator, Mapping
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.contracts.shards import Manifest
from pipeline.contracts.statistics import TEST, TRAIN, UNUSED
from pipeline.graphs.sequences import nodes

TABLE = "statistics"
"""The lake's table of `long_form`."""
COUNTED = (
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


def parts_of_split(clicks: DataFrame, sessions: DataFrame) -> dict[str, dict[str, Any]]:
    """Clicks, users, sessions, and the first and last time of each part of the split; of the clicks
    and of `sequences.sessions`."""
    shown = "yyyy-MM-dd HH:mm:ss"
    first = F.date_format(F.min("timestamp"), shown)
    last = F.date_format(F.max("timestamp"), shown)
    by_part = clicks.groupBy("part")
    totals = by_part.agg(F.count("*").alias("clicks"), first.alias("first"), last.alias("last"))
    clicked = {row["part"]: row for row in totals.collect()}
    # First the sessions of each user, so that both users and sessions are counted in one pass.
    sessions_of_users = [_positive(part).alias(part) for part in clicked]
    users = sessions.groupBy("user_id").agg(*sessions_of_users)
    counts = [_positive(part).alias(f"{part} users") for part in clicked]
    counts += [F.sum(part).alias(f"{part} sessions") for part in clicked]
    row = users.agg(*counts).first()
    assert row is not None  # an aggregate has a row
    return {
        part: {
            "clicks": clicked[part]["clicks"],
            "users": row[f"{part} users"],
            "sessions": row[f"{part} sessions"],
            "first": clicked[part]["first"],
            "last": clicked[part]["last"],
        }
        for part in (TRAIN, TEST, UNUSED)
        if part in clicked
    }


def _positive(column: str) -> Column:
    """How many rows have more than 0 there."""
    return F.count(F.when(F.col(column) > 0, True))


def weighted(frame: DataFrame) -> dict[str, int]:
    """Distinct rows and total weight of edges or links."""
    weight = F.coalesce(F.sum("weight"), F.lit(0))
    row = frame.agg(F.count("*").alias("distinct"), weight.alias("weight")).first()
    assert row is not None  # an aggregate has a row
    return {"distinct": int(row["distinct"]), "weight": int(row["weight"])}


def pairs_of_streams(manifest: Manifest) -> dict[str, int]:
    """Skip-gram pairs of each view and linked pairs of each relation, the same in every
    encoding."""
    return {name: streams[0].pairs for name, streams in manifest.streams.items()}


def funnel_of_views(
    sessions: DataFrame, in_vocabulary: Mapping[str, int], left_out: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """View -> what becomes of the clicks of the training part there:

    - how many are on items without a value;
    - how many each limit left out (`left_out`), and how many are in its vocabulary
      (`in_vocabulary`);
    - how many of these repeat the node before them in their session, and how many nodes are then
      alone in their session;
    - how many are left, in sequences of two or more.

    Reads `sequences.sessions`.
    """
    zero = F.lit(0)
    counts = [F.coalesce(F.sum(TRAIN), zero).alias(TRAIN)]
    for name in in_vocabulary:
        length = F.size(nodes(name))
        is_alone = F.when(length == 1, True)
        counts.append(F.coalesce(F.sum(length), zero).alias(f"{name} all"))
        counts.append(F.count(is_alone).alias(f"{name} alone"))
    row = sessions.agg(*counts).first()
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
        for name, clicks in in_vocabulary.items()
    }


def long_form(figures: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None, int]]:
    """name, bin_from, bin_to, count of all counts of statistics.json; the bounds are those of a
    histogram's bin, both the value of one that stands out, None elsewhere."""
    for key in COUNTED:
        for name, count in _counts(key, figures.get(key)):
            yield name, None, None, count
    for quantity, histogram in figures.get(HISTOGRAMS, {}).items():
        name = f"{HISTOGRAMS}/{quantity}"
        for from_, to, count in histogram["bins"]:
            yield name, float(from_), float(to), count
        for unusual in histogram["unusual"]:
            value = float(unusual["value"])
            yield f"{name}/unusual", value, value, unusual["count"]


def long_table(spark: SparkSession, figures: Mapping[str, Any]) -> DataFrame:
    """`long_form` as one small table."""
    columns = "name string, bin_from double, bin_to double, count long"
    return spark.createDataFrame(list(long_form(figures)), columns).coalesce(1)


def _counts(name: str, value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _counts(f"{name}/{key}", inner)
    elif isinstance(value, int):
        yield name, value
