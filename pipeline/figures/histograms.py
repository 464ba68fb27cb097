"""Histograms that show what a log is like: stays, idle gaps, lengths of sessions, degrees of the
graphs' nodes; and in them single values that stand out, which people do not make: a filler, a
timeout, a clock that counts in minutes.

Bins are as narrow as such a value needs (a second, a click) where most values lie, and grow with
the value beyond.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.clean import SECOND
from pipeline.clicks.split import TEST, TRAIN, UNUSED
from pipeline.graphs.vocabulary import nodes_in_use

VALUE = "value"
SECONDS, NUMBER = "seconds", "number"
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86_400, 365 * 86_400
_LONG_TIMES = (
    *(n * _MINUTE for n in (3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)),
    *(n * _HOUR for n in (1, 1.5, 2, 3, 4, 6, 8, 12, 18)),
    *(n * _DAY for n in (1, 1.5, 2, 3, 5, 7, 10, 14, 21, 30, 60, 90, 180)),
    *(n * _YEAR for n in (1, 2, 5, 10, 20, 50, 100)),
)
EDGES = {
    SECONDS: (*range(2 * _MINUTE + 1), *map(int, _LONG_TIMES)),
    NUMBER: (
        *range(100),
        *(
            n * 10**power
            for power in range(1, 11)
            for n in (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
        ),
        10**12,
    ),
}
"""Unit -> where bins begin, and where the last one ends. A bin holds its lower edge and not its
upper one; the last one also what is beyond. Times: seconds up to two minutes, then round times
about a fifth apart. Numbers: each alone up to 99, then ten bins for each power of ten."""
_ALONE = {
    unit: next(i for i in range(len(edges)) if edges[i + 1] != i + 1)
    for unit, edges in EDGES.items()
}
"""Unit -> the first bin that is wider than 1; below it a value's bin is its whole part."""

PROMINENT = 3.0
"""A bin stands out where it is so many times as dense as the densest of the two bins to either
side."""
SHARE, LEAST = 0.005, 30
"""A single value is told of where it has this share of all values, and as many as chance does not
heap up."""


@dataclass(frozen=True)
class Quantity:
    """What a histogram counts."""

    name: str
    unit: str
    """SECONDS or NUMBER."""
    of: str
    """What has the values: clicks, sessions, nodes."""
    values: DataFrame
    """One column VALUE, numbers from 0; null: not counted."""


def quantities(
    clean: DataFrame, sessions: DataFrame, graphs: Mapping[str, tuple[DataFrame, DataFrame]]
) -> Iterator[Quantity]:
    """What a run counts: of the lake's `clean`, of `sequences.sessions`, of the edges and the
    vocabulary of each view."""
    length = F.col(TRAIN) + F.col(TEST) + F.col(UNUSED)
    yield Quantity(
        "stay",
        SECONDS,
        "clicks with a known stay",
        clean.select(F.col("stay_seconds").alias(VALUE)),
    )
    yield Quantity(
        "idle gap", SECONDS, "clicks after another click of their user", idle_gaps(sessions)
    )
    yield Quantity("session length", NUMBER, "sessions", sessions.select(length.alias(VALUE)))
    for view, (edges, vocabulary) in graphs.items():
        yield Quantity(f"degree/{view}", NUMBER, "nodes", degrees(edges, vocabulary))


def idle_gaps(sessions: DataFrame) -> DataFrame:
    """Seconds from each click to the one before of the same user, in whatever session; null at a
    user's first."""
    clicks = sessions.select("last_before", "times", F.posexplode("times").alias("at", "time"))
    earlier = F.when(F.col("at") == 0, F.col("last_before")).otherwise(
        F.get("times", F.col("at") - 1)
    )
    return clicks.select(((F.unix_micros("time") - F.unix_micros(earlier)) / SECOND).alias(VALUE))


def degrees(edges: DataFrame, vocabulary: DataFrame) -> DataFrame:
    """How many edges of a directed graph begin or end at each node in use; 0: the node stands
    alone.

    Nodes are told apart by a 64-bit hash of their ids, which costs a third less than the ids: two
    nodes of 150 million have the same one, and would be counted as one, in one graph of 1,600.
    """
    ends = [
        edges.select(F.xxhash64(end).alias("node"), F.lit(1).alias(VALUE))
        for end in ("source", "target")
    ]
    nodes = nodes_in_use(vocabulary).select(F.xxhash64("id").alias("node"), F.lit(0).alias(VALUE))
    return (
        reduce(DataFrame.unionByName, [*ends, nodes])
        .groupBy("node")
        .agg(F.sum(VALUE).alias(VALUE))
        .select(VALUE)
    )


def lower_edge(value: Column, unit: str) -> Column:
    """Where a value's bin begins, one of EDGES; null for null."""
    alone, edges = _ALONE[unit], EDGES[unit]
    return (
        F.when(value < alone, F.floor(value))
        .when(value >= alone, _search(value, edges[alone:-1]))
        .cast("long")
    )


def _search(value: Column, edges: Sequence[int]) -> Column:
    """The last of the edges that is not above a value, by halving them."""
    if len(edges) == 1:
        return F.lit(edges[0])
    middle = len(edges) // 2
    return F.when(value < edges[middle], _search(value, edges[:middle])).otherwise(
        _search(value, edges[middle:])
    )


def measure(counted: Sequence[Quantity]) -> dict[str, Any]:
    """Name -> the histogram: unit, of, count (values in all), bins (from, to, count; without empty
    ones), and unusual: values that stand out, the most frequent first, with their count and how
    many times as dense their bin is as those beside it.

    One job counts all bins, and in each the values that are its lower edge: a whole second, a round
    time. Only where a bin stands out and that is not the reason, another job looks for the value in
    it.
    """
    bins: dict[str, dict[int, int]] = {quantity.name: {} for quantity in counted}
    values: dict[tuple[str, int], tuple[float, int]] = {}
    places = {
        quantity.name: {edge: i for i, edge in enumerate(EDGES[quantity.unit])}
        for quantity in counted
    }
    exact = F.count(F.when(F.col(VALUE) == F.col("edge"), True)).alias("exact")
    for row in (
        _binned(counted).groupBy("name", "edge").agg(F.count("*").alias("all"), exact).collect()
    ):
        place = places[row["name"]][row["edge"]]
        bins[row["name"]][place] = row["all"]
        values[row["name"], place] = (float(row["edge"]), row["exact"])
    found = {quantity.name: prominent(bins[quantity.name], quantity.unit) for quantity in counted}
    unexplained = {
        (name, i) for name in found for i in found[name] if values[name, i][1] < bins[name][i] / 2
    }
    values |= _most_frequent(counted, unexplained)
    return {
        quantity.name: _record(quantity, bins[quantity.name], found[quantity.name], values)
        for quantity in counted
    }


def _binned(counted: Iterable[Quantity]) -> DataFrame:
    """name, edge, VALUE of all values that are known."""
    frames = (
        quantity.values.where(F.col(VALUE).isNotNull()).select(
            F.lit(quantity.name).alias("name"),
            lower_edge(F.col(VALUE), quantity.unit).alias("edge"),
            F.col(VALUE).cast("double"),
        )
        for quantity in counted
    )
    return reduce(DataFrame.unionByName, frames)


def prominent(bins: Mapping[int, int], unit: str) -> dict[int, float]:
    """Bin -> how many times as dense it is as the densest of the two bins to either side (infinite
    beside empty bins), of the bins that stand out.

    The first bin has neighbours to one side only: of times it stands out all the same (clicks of
    one moment); of numbers it does not, because most sessions are short, and most nodes have few
    neighbours, in any log.
    """
    edges, total = EDGES[unit], sum(bins.values())
    found = {}
    for i, count in bins.items():
        beside = max(_density(bins, edges, other) for other in (i - 2, i - 1, i + 1, i + 2))
        times = _density(bins, edges, i) / beside if beside else float("inf")
        if (
            count >= max(LEAST, SHARE * total)
            and times > PROMINENT
            and (unit == SECONDS or i > min(bins))
        ):
            found[i] = times
    return found


def _density(bins: Mapping[int, int], edges: Sequence[int], i: int) -> float:
    return bins.get(i, 0) / (edges[i + 1] - edges[i]) if 0 <= i < len(edges) - 1 else 0.0


def _most_frequent(
    counted: Sequence[Quantity], wanted: Collection[tuple[str, int]]
) -> dict[tuple[str, int], tuple[float, int]]:
    """(name, bin) -> the most frequent value in each of the wanted bins, the least of equals, and
    its count."""
    found: dict[tuple[str, int], tuple[float, int]] = {}
    for quantity in counted:
        edges = {EDGES[quantity.unit][i]: i for name, i in wanted if name == quantity.name}
        if edges:
            each = (
                _binned([quantity]).where(F.col("edge").isin(*edges)).groupBy("edge", VALUE).count()
            )
            best = each.groupBy("edge").agg(
                F.max(F.struct("count", (-F.col(VALUE)).alias("minus"))).alias("best")
            )
            found |= {
                (quantity.name, edges[row["edge"]]): (-row["best"]["minus"], row["best"]["count"])
                for row in best.collect()
            }
    return found


def _record(
    quantity: Quantity,
    bins: Mapping[int, int],
    found: Mapping[int, float],
    values: Mapping[tuple[str, int], tuple[float, int]],
) -> dict[str, Any]:
    edges, total = EDGES[quantity.unit], sum(bins.values())
    unusual = [(*values[quantity.name, i], times) for i, times in found.items()]
    told = [
        {
            "value": value,
            "count": count,
            "times": None if times == float("inf") else round(times, 1),
        }
        for value, count, times in sorted(unusual, key=lambda each: (-each[1], each[0]))
        if count >= max(LEAST, SHARE * total)
    ]
    return {
        "unit": quantity.unit,
        "of": quantity.of,
        "count": total,
        "bins": [[edges[i], edges[i + 1], bins[i]] for i in sorted(bins)],
        "unusual": told,
    }
