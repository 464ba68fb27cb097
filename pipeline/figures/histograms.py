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
from pipeline.contracts.statistics import TEST, TRAIN, UNUSED
from pipeline.graphs.vocabulary import nodes_in_use

VALUE = "value"
UNIT_SECONDS, UNIT_NUMBER = "seconds", "number"
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86_400, 365 * 86_400
_MINUTES = (3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
_HOURS = (1, 1.5, 2, 3, 4, 6, 8, 12, 18)
_DAYS = (1, 1.5, 2, 3, 5, 7, 10, 14, 21, 30, 60, 90, 180)
_YEARS = (1, 2, 5, 10, 20, 50, 100)
_LONG_TIMES = (
    *(n * _MINUTE for n in _MINUTES),
    *(n * _HOUR for n in _HOURS),
    *(n * _DAY for n in _DAYS),
    *(n * _YEAR for n in _YEARS),
)
_OF_A_POWER = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
_LARGE_NUMBERS = tuple(n * 10**power for power in range(1, 11) for n in _OF_A_POWER)
EDGES = {
    UNIT_SECONDS: (*range(2 * _MINUTE + 1), *map(int, _LONG_TIMES)),
    UNIT_NUMBER: (*range(100), *_LARGE_NUMBERS, 10**12),
}
"""Unit -> where bins begin, and where the last one ends. A bin holds its lower edge and not its
upper one; the last one also what is beyond. Times: seconds up to two minutes, then round times
about a fifth apart. Numbers: each alone up to 99, then ten bins for each power of ten."""
_ALONE = {
    unit: next(i for i in range(len(edges)) if edges[i + 1] != i + 1)
    for unit, edges in EDGES.items()
}
"""Unit -> the first bin that is wider than 1; below it a value's bin is its whole part."""
_NUMBERS = {unit: {edge: i for i, edge in enumerate(edges)} for unit, edges in EDGES.items()}
"""Unit -> lower edge -> number of the bin."""

PROMINENT = 3.0
"""A bin stands out where it is so many times as dense as the densest of the two bins to either
side."""
SHARE, LEAST = 0.005, 30
"""A single value is told of where it has this share of all values, and as many as chance does not
heap up."""

BinKey = tuple[str, int]
"""Name of a quantity, and number of the bin."""


@dataclass(frozen=True)
class Quantity:
    """What a histogram counts."""

    name: str
    unit: str
    """UNIT_SECONDS or UNIT_NUMBER."""
    of: str
    """What has the values: clicks, sessions, nodes."""
    values: DataFrame
    """One column VALUE, numbers from 0; null: not counted."""


def quantities(
    clean: DataFrame, sessions: DataFrame, graphs: Mapping[str, tuple[DataFrame, DataFrame]]
) -> Iterator[Quantity]:
    """What a run counts: of the lake's `clean`, of `sequences.sessions`, of the edges and the
    vocabulary of each view."""
    stays = clean.select(F.col("stay_seconds").alias(VALUE))
    yield Quantity("stay", UNIT_SECONDS, "clicks with a known stay", stays)
    gaps = idle_gaps(sessions)
    yield Quantity("idle gap", UNIT_SECONDS, "clicks after another click of their user", gaps)
    length = F.col(TRAIN) + F.col(TEST) + F.col(UNUSED)
    lengths = sessions.select(length.alias(VALUE))
    yield Quantity("session length", UNIT_NUMBER, "sessions", lengths)
    for view, (edges, vocabulary) in graphs.items():
        yield Quantity(f"degree/{view}", UNIT_NUMBER, "nodes", degrees(edges, vocabulary))


def idle_gaps(sessions: DataFrame) -> DataFrame:
    """Seconds from each click to the one before of the same user, in whatever session; null at a
    user's first."""
    clicks = sessions.select("last_before", "times", F.posexplode("times").alias("at", "time"))
    in_session = F.get("times", F.col("at") - 1)
    earlier = F.when(F.col("at") == 0, F.col("last_before")).otherwise(in_session)
    gap = F.unix_micros("time") - F.unix_micros(earlier)
    return clicks.select((gap / SECOND).alias(VALUE))


def degrees(edges: DataFrame, vocabulary: DataFrame) -> DataFrame:
    """How many edges of a directed graph begin or end at each node in use; 0: the node stands
    alone.

    Nodes are told apart by a 64-bit hash of their ids, which costs a third less than the ids: two
    nodes of 150 million have the same one, and would be counted as one, in one graph of 1,600.
    """
    one, zero = F.lit(1).alias(VALUE), F.lit(0).alias(VALUE)
    sources = edges.select(F.xxhash64("source").alias("node"), one)
    targets = edges.select(F.xxhash64("target").alias("node"), one)
    # A node that stands alone is at no edge's end, and counts all the same.
    nodes = nodes_in_use(vocabulary).select(F.xxhash64("id").alias("node"), zero)
    ends = sources.unionByName(targets).unionByName(nodes)
    return ends.groupBy("node").agg(F.sum(VALUE).alias(VALUE)).select(VALUE)


def lower_edge(value: Column, unit: str) -> Column:
    """Where a value's bin begins, one of EDGES; null for null."""
    alone, edges = _ALONE[unit], EDGES[unit]
    wide = _search(value, edges[alone:-1])
    edge = F.when(value < alone, F.floor(value)).when(value >= alone, wide)
    return edge.cast("long")


def _search(value: Column, edges: Sequence[int]) -> Column:
    """The last of the edges that is not above a value, by halving them."""
    if len(edges) == 1:
        return F.lit(edges[0])
    middle = len(edges) // 2
    below, above = _search(value, edges[:middle]), _search(value, edges[middle:])
    return F.when(value < edges[middle], below).otherwise(above)


def measure(counted: Sequence[Quantity]) -> dict[str, Any]:
    """Name -> the histogram: unit, of, count (values in all), bins (from, to, count; without empty
    ones), and unusual: values that stand out, the most frequent first, with their count and how
    many times as dense their bin is as those beside it.

    One job counts all bins, and in each the values that are its lower edge: a whole second, a round
    time. Only where a bin stands out and that is not the reason, another job looks for the value in
    it.
    """
    bins: dict[str, dict[int, int]] = {quantity.name: {} for quantity in counted}
    values: dict[BinKey, tuple[float, int]] = {}
    units = {quantity.name: quantity.unit for quantity in counted}
    is_edge = F.col(VALUE) == F.col("edge")
    exact = F.count(F.when(is_edge, True))
    by_bin = _binned(counted).groupBy("name", "edge")
    for row in by_bin.agg(F.count("*").alias("all"), exact.alias("exact")).collect():
        name, edge = row["name"], row["edge"]
        number = _NUMBERS[units[name]][edge]
        bins[name][number] = row["all"]
        values[name, number] = (float(edge), row["exact"])
    standing_out = {name: prominent(bins[name], unit) for name, unit in units.items()}
    unexplained = {
        (name, number)
        for name, numbers in standing_out.items()
        for number in numbers
        if values[name, number][1] < bins[name][number] / 2
    }
    values |= _most_frequent(counted, unexplained)
    return {
        quantity.name: _record(quantity, bins[quantity.name], standing_out[quantity.name], values)
        for quantity in counted
    }


def _binned(counted: Iterable[Quantity]) -> DataFrame:
    """name, edge, VALUE of all values that are known."""
    value = F.col(VALUE)
    frames = []
    for quantity in counted:
        counted_values = quantity.values.where(value.isNotNull())
        name, edge = F.lit(quantity.name), lower_edge(value, quantity.unit)
        columns = (name.alias("name"), edge.alias("edge"), value.cast("double"))
        frames.append(counted_values.select(*columns))
    return reduce(DataFrame.unionByName, frames)


def prominent(bins: Mapping[int, int], unit: str) -> dict[int, float]:
    """Bin -> how many times as dense it is as the densest of the two bins to either side (infinite
    beside empty bins), of the bins that stand out.

    The first bin has neighbours to one side only: of times it stands out all the same (clicks of
    one moment); of numbers it does not, because most sessions are short, and most nodes have few
    neighbours, in any log.
    """
    edges = EDGES[unit]
    least = max(LEAST, SHARE * sum(bins.values()))
    standing_out = {}
    for i, count in bins.items():
        beside = max(_density(bins, edges, other) for other in (i - 2, i - 1, i + 1, i + 2))
        times = _density(bins, edges, i) / beside if beside else float("inf")
        may_stand_out = unit == UNIT_SECONDS or i > min(bins)
        if count >= least and times > PROMINENT and may_stand_out:
            standing_out[i] = times
    return standing_out


def _density(bins: Mapping[int, int], edges: Sequence[int], i: int) -> float:
    if not 0 <= i < len(edges) - 1:
        return 0.0
    return bins.get(i, 0) / (edges[i + 1] - edges[i])


def _most_frequent(
    counted: Sequence[Quantity], bins: Collection[BinKey]
) -> dict[BinKey, tuple[float, int]]:
    """Bin -> the most frequent value in it, the least of equals, and its count."""
    values: dict[BinKey, tuple[float, int]] = {}
    for quantity in counted:
        edges = {EDGES[quantity.unit][i]: i for name, i in bins if name == quantity.name}
        if not edges:
            continue
        in_bins = _binned([quantity]).where(F.col("edge").isin(*edges))
        counts = in_bins.groupBy("edge", VALUE).count()
        # The greatest struct has the greatest count, and of equals the greatest negative value.
        most = F.max(F.struct("count", (-F.col(VALUE)).alias("minus")))
        for row in counts.groupBy("edge").agg(most.alias("most")).collect():
            number, best = edges[row["edge"]], row["most"]
            values[quantity.name, number] = (-best["minus"], best["count"])
    return values


def _record(
    quantity: Quantity,
    bins: Mapping[int, int],
    standing_out: Mapping[int, float],
    values: Mapping[BinKey, tuple[float, int]],
) -> dict[str, Any]:
    edges, total = EDGES[quantity.unit], sum(bins.values())
    values_and_times = [(*values[quantity.name, i], times) for i, times in standing_out.items()]
    most_frequent_first = sorted(values_and_times, key=lambda each: (-each[1], each[0]))
    unusual = []
    for value, count, times in most_frequent_first:
        rounded = None if times == float("inf") else round(times, 1)
        if count >= max(LEAST, SHARE * total):
            unusual.append({"value": value, "count": count, "times": rounded})
    return {
        "unit": quantity.unit,
        "of": quantity.of,
        "count": total,
        "bins": [[edges[i], edges[i + 1], bins[i]] for i in sorted(bins)],
        "unusual": unusual,
    }
