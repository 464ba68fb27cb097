"""Histograms and the values that stand out in them, against plain Python; the counts of the
funnel's end, and the table of all counts."""

import math
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.clicks.sessions import with_sessions
from pipeline.config import Sessions
from pipeline.figures import statistics
from pipeline.figures.histograms import (
    EDGES,
    UNIT_NUMBER,
    UNIT_SECONDS,
    Quantity,
    lower_edge,
    measure,
    prominent,
    quantities,
)
from tests.pipeline.frames import click_frame, sessions_of


def twin(value: float, unit: str) -> int:
    """The bin of a value."""
    return min(bisect_right(EDGES[unit], value), len(EDGES[unit]) - 1) - 1


@pytest.mark.parametrize("unit", [UNIT_SECONDS, UNIT_NUMBER])
def test_bins_follow_each_other_and_grow(unit: str) -> None:
    widths = [after - before for before, after in pairwise(EDGES[unit])]
    assert EDGES[unit][0] == 0
    assert min(widths) == widths[0] == 1
    assert all(after <= 2.5 * before for before, after in pairwise(EDGES[unit]) if before > 1)
    # What the paper's rules ask for is no bin's inside.
    assert {1800, 3600} <= set(EDGES[UNIT_SECONDS])


def test_every_boundary_lies_in_the_bin_that_it_begins(spark: SparkSession) -> None:
    values = [
        (unit, float(at))
        for unit, edges in EDGES.items()
        for edge in edges
        for at in (math.nextafter(edge, 0), edge, edge + 0.5)
    ]
    values += [(UNIT_SECONDS, 1e12), (UNIT_NUMBER, 1e15)]
    frame = spark.createDataFrame(
        [*values, (UNIT_SECONDS, None)], "unit string, value double"
    ).coalesce(1)
    edges = F.when(
        F.col("unit") == UNIT_SECONDS, lower_edge(F.col("value"), UNIT_SECONDS)
    ).otherwise(lower_edge(F.col("value"), UNIT_NUMBER))
    found = [row["edge"] for row in frame.select(edges.alias("edge")).collect()]
    assert found == [*(EDGES[unit][twin(value, unit)] for unit, value in values), None]


LOG = [
    ("u", "a", "10:00"),
    ("u", "b", "10:00:30"),
    ("u", "c", "10:00:30"),
    ("u", "a", "11:00:30"),  # an hour later: another session
    ("u", "d", "11:00:40.5"),
    ("v", "a", "10:00"),
    ("w", "a", "10:00"),
    ("w", "b", "58:00"),
]


def spiked() -> list[float]:
    """Stays of which a tenth is exactly 30 s, as many 60.25 s, a twentieth is between 45 and 46 s,
    each another, and the others lie smoothly."""
    smooth = [2.5 + 8000 * i**3 / 750**3 for i in range(750)]
    return [*smooth, *[30.0] * 100, *[60.25] * 100, *(45.001 + i / 100 for i in range(50))]


def test_quantities_of_a_log_are_counted(spark: SparkSession) -> None:
    clicks = with_sessions(click_frame(spark, LOG), Sessions(), seed=1)
    edges = spark.createDataFrame(
        [("a", "b", 9), ("b", "a", 1), ("b", "c", 1)], "source string, target string, weight long"
    )
    nodes = spark.createDataFrame(
        [("a", 3), ("b", 3), ("c", 1), ("d", 1), ("e", 0)], "id string, count long"
    )
    stays = spark.createDataFrame([(stay,) for stay in [*spiked(), None]], "stay_seconds double")
    found = measure(list(quantities(stays, sessions_of(clicks), {"item": (edges, nodes)})))
    assert {name: bins(found[name]) for name in ("idle gap", "session length", "degree/item")} == {
        "idle gap": {(0, 1): 1, (10, 11): 1, (30, 31): 1, (3600, 5400): 1, (172800, 259200): 1},
        "session length": {(1, 2): 3, (2, 3): 1, (3, 4): 1},
        "degree/item": {(0, 1): 1, (1, 2): 1, (2, 3): 1, (3, 4): 1},
    }
    stay = found["stay"]
    edges_ = EDGES[UNIT_SECONDS]
    assert bins(stay) == {
        (edges_[i], edges_[i + 1]): count
        for i, count in Counter(twin(value, UNIT_SECONDS) for value in spiked()).items()
    }
    assert (stay["count"], stay["unit"], stay["of"]) == (
        1000,
        "seconds",
        "clicks with a known stay",
    )
    # 45 to 46 s stands out as well, but no single value in it does.
    assert [(spike["value"], spike["count"]) for spike in stay["unusual"]] == [
        (30.0, 100),
        (60.25, 100),
    ]
    assert all(spike["times"] > 3 for spike in stay["unusual"])


def bins(histogram: dict[str, Any]) -> dict[tuple[int, int], int]:
    return {(from_, to): count for from_, to, count in histogram["bins"]}


def test_a_bin_stands_out_beside_its_neighbours_alone() -> None:
    falling = {i: 10_000 // (i + 1) ** 2 for i in range(60)}
    assert prominent(falling, UNIT_NUMBER) == {}
    assert prominent(falling, UNIT_SECONDS) == {0: 4.0}  # many clicks of one moment
    assert set(prominent(falling | {30: 1000}, UNIT_NUMBER)) == {30}
    assert prominent({0: 100, 30: 30, 60: 5}, UNIT_SECONDS) == {
        0: math.inf,
        30: math.inf,
    }  # times written in half minutes; 5 may be chance
    wide = twin(3600, UNIT_SECONDS)
    level = {i: EDGES[UNIT_SECONDS][i + 1] - EDGES[UNIT_SECONDS][i] for i in range(100, 140)}
    assert prominent(level, UNIT_SECONDS) == {}  # as many a second in narrow and in wide bins
    assert set(prominent(level | {wide: 7 * level[wide]}, UNIT_SECONDS)) == {wide}


def test_the_end_of_the_funnel_is_counted_for_each_view(spark: SparkSession) -> None:
    rows = [(5, [0, 1, 0], [0]), (3, [1], []), (2, [], [0, 1])]
    sessions = spark.createDataFrame(rows, "train int, nodes_item array<int>, nodes_tag array<int>")
    left_out = {
        "item": {"below minimum_count": 4, "beyond top": 0},
        "tag": {"below minimum_count": 1, "beyond top": 2},
    }
    found = statistics.funnel_of_views(sessions, {"item": 6, "tag": 3}, left_out)
    ends = {
        "item": {
            "in vocabulary": 6,
            "same node as before": 2,
            "alone in session": 1,
            "in sequences": 3,
        },
        "tag": {
            "in vocabulary": 3,
            "same node as before": 0,
            "alone in session": 1,
            "in sequences": 2,
        },
    }
    assert found["item"] == {"without a value": 0, **left_out["item"], **ends["item"]}
    assert found["tag"] == {"without a value": 4, **left_out["tag"], **ends["tag"]}


def test_all_counts_stand_in_one_table() -> None:
    stay = {"unit": "seconds", "of": "clicks", "count": 5, "bins": [[2, 3, 4], [120, 180, 1]]}
    figures = {
        "name": "shop",
        "seed": 7,
        "funnel": {"raw rows": 9, "rejected": {"no user_id": 2}, "clicks": 7},
        "parts": {"train": {"clicks": 7, "first": "2026-01-01 00:00:00"}},
        "seconds": {"events": 1.5},
        "histograms": {"stay": stay | {"unusual": [{"value": 2.5, "count": 3, "times": None}]}},
    }
    assert list(statistics.long_form(figures)) == [
        ("funnel/raw rows", None, None, 9),
        ("funnel/rejected/no user_id", None, None, 2),
        ("funnel/clicks", None, None, 7),
        ("parts/train/clicks", None, None, 7),
        ("histograms/stay", 2.0, 3.0, 4),
        ("histograms/stay", 120.0, 180.0, 1),
        ("histograms/stay/unusual", 2.5, 2.5, 3),
    ]


def test_nothing_to_measure_is_no_error(spark: SparkSession) -> None:
    empty = Quantity(
        "stay",
        UNIT_SECONDS,
        "clicks with a known stay",
        spark.createDataFrame([(None,)], "value double"),
    )
    assert measure([empty])["stay"] == {
        "unit": "seconds",
        "of": "clicks with a known stay",
        "count": 0,
        "bins": [],
        "unusual": [],
    }
