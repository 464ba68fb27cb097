"""Random walks in memory against exact transition probabilities, on hand-made and random graphs."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2

from pipeline.config import Walks
from pipeline.graphs.walks_in_memory import HASH_SEED, Graph, hashed, stream_key, walk_batch

Edges = dict[tuple[int, int], int]
"""Directed edges (node, neighbour) and their weights."""

KEY = stream_key(1, "item")


def both_ways(edges: Edges) -> Edges:
    summed: Counter[tuple[int, int]] = Counter()
    for (node, neighbour), weight in edges.items():
        summed[node, neighbour] += weight
        summed[neighbour, node] += weight
    return dict(summed)


def graph_of(edges: Edges) -> Graph:
    node, neighbour, weight = np.array([(*pair, weight) for pair, weight in edges.items()]).T
    return Graph.of(node, neighbour, weight)


def walked(
    edges: Edges, settings: Walks, starts: Iterable[int] | None = None, key: int = KEY
) -> list[tuple[int, list[int]]]:
    """(walk_id, nodes) of all walks, or of those from the starts."""
    graph = graph_of(edges)
    first = np.arange(graph.size) if starts is None else np.array(list(starts))
    rows = walk_batch(graph, first, key, settings).to_pylist()
    return [(row["walk_id"], row["nodes"]) for row in rows]


def transition(edges: Edges, before: int | None, node: int, p: float, q: float) -> dict[int, float]:
    """Where a walk that came from `before` to `node` goes next, and how likely: node2vec, section
    3.2.2, as it is written there."""
    shares = {}
    for (source, target), weight in edges.items():
        if source == node:
            distance = (
                0 if target == before else 1 if before is None or (before, target) in edges else 2
            )
            shares[target] = weight * {0: 1 / p, 1: 1, 2: 1 / q}[distance]
    return {target: share / sum(shares.values()) for target, share in shares.items()}


def misfit(walks: list[list[int]], edges: Edges, p: float, q: float) -> tuple[float, int]:
    """(the chance of counts that differ at least as much from the exact probabilities, steps
    counted): a chi-square test."""
    counts: dict[tuple[int | None, int], Counter[int]] = defaultdict(Counter)
    for nodes in walks:
        for before, node, after in zip([None, *nodes], nodes, nodes[1:], strict=False):
            counts[before, node][after] += 1
    statistic, freedom, steps = 0.0, 0, 0
    for (before, node), seen in counts.items():
        expected = transition(edges, before, node, p, q)
        assert set(seen) <= set(expected)
        statistic += sum(
            (seen[target] - seen.total() * share) ** 2 / (seen.total() * share)
            for target, share in expected.items()
        )
        freedom, steps = freedom + len(expected) - 1, steps + seen.total()
    return float(chi2.sf(statistic, freedom)), steps


def test_draws_are_sparks_xxhash64() -> None:
    # What Spark 4.2 says to SELECT xxhash64(5L, -7L, 4611686018427387904L, 0L).
    assert hashed(HASH_SEED, 5, -7, 2**62, 0).view(np.int64).tolist() == [8377987947144711514]


# Triangles with weights, a square without a diagonal that shares a corner with them, and a leaf:
# every distance from a node before occurs.
MIXED = {
    (0, 1): 1,
    (1, 2): 5,
    (2, 0): 2,
    (2, 3): 4,
    (3, 4): 1,
    (4, 5): 3,
    (5, 2): 2,
    (3, 1): 1,
    (4, 6): 7,
}


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (0.25, 4), (4, 0.25), (4, 1), (1, 0.25)])
def test_steps_follow_the_exact_transition_probabilities(
    p: float, q: float, directed: bool
) -> None:
    edges = MIXED | {(1, 0): 3, (6, 0): 1} if directed else both_ways(MIXED)
    walks = [nodes for _, nodes in walked(edges, Walks(p=p, q=q, walks_per_node=3000, length=20))]
    chance, steps = misfit(walks, edges, p, q)
    assert steps > 300_000
    assert chance > 0.001


@pytest.mark.parametrize(("p", "q"), [(1.1, 1), (1, 1.1)])
def test_the_comparison_with_exact_probabilities_sees_a_bias_of_a_tenth(p: float, q: float) -> None:
    edges = both_ways(MIXED)
    walks = [nodes for _, nodes in walked(edges, Walks(walks_per_node=3000, length=20))]
    assert misfit(walks, edges, p, q)[0] < 1e-4


def test_a_hub_with_a_heavy_edge_is_left_by_weight() -> None:
    edges = both_ways({(0, leaf): 1 + 900 * (leaf == 7) for leaf in range(1, 101)})
    walks = [
        nodes
        for _, nodes in walked(edges, Walks(p=0.25, q=4, walks_per_node=10_000, length=3), [0])
    ]
    # From the hub by weight; a leaf has nowhere but back to go.
    assert all(nodes[0] == nodes[2] == 0 for nodes in walks)
    # Mean 9,010, standard deviation 30.
    assert abs(sum(nodes[1] == 7 for nodes in walks) - 10_000 * 901 / 1000) < 5 * 30


def test_draws_of_other_seeds_and_views_differ() -> None:
    keys = [stream_key(1, "item"), stream_key(2, "item"), stream_key(1, "shop")]
    found = [walked(both_ways(MIXED), Walks(), key=key) for key in keys]
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("p", [1, 0.25])
def test_walks_are_the_same_in_any_batch(p: float) -> None:
    edges, settings = both_ways(MIXED), Walks(p=p, q=p, walks_per_node=3, length=10)
    whole = walked(edges, settings)
    assert whole == [walk for start in range(7) for walk in walked(edges, settings, [start])]
    # One walk more a node leaves the others as they are.
    more = dict(walked(edges, settings.model_copy(update={"walks_per_node": 4})))
    assert [nodes for _, nodes in whole] == [
        nodes for walk_id, nodes in more.items() if walk_id % 4 < 3
    ]


def test_a_walk_ends_where_no_edge_leaves_and_none_starts_there() -> None:
    # 0 -> 1 -> 2 ends; 3 and 4 lead to each other for ever; 5 is no node of the graph.
    walks = walked(
        {(0, 1): 1, (1, 2): 9, (3, 4): 1, (4, 3): 1, (6, 0): 1},
        Walks(p=0.5, q=2, walks_per_node=1, length=4),
    )
    assert walks == [
        (0, [0, 1, 2]),
        (1, [1, 2]),
        (3, [3, 4, 3, 4]),
        (4, [4, 3, 4, 3]),
        (6, [6, 0, 1, 2]),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_walks_on_random_graphs_start_everywhere_and_follow_edges(seed: int) -> None:
    dice = random.Random(seed)
    pairs = [(dice.randrange(40), dice.randrange(40)) for _ in range(60)]
    edges = {
        (node, neighbour): dice.choice([1, 2, 10**9])
        for node, neighbour in pairs
        if node != neighbour
    }
    settings = Walks(
        walks_per_node=2, length=6, p=dice.choice([0.01, 1, 100]), q=dice.choice([0.01, 1, 100])
    )
    walks = walked(edges, settings)
    starts = sorted({node for node, _ in edges})
    assert [(walk_id, nodes[0]) for walk_id, nodes in walks] == [
        (2 * start + number, start) for start in starts for number in (0, 1)
    ]
    for _, nodes in walks:
        assert set(pairwise(nodes)) <= set(edges)
        assert len(nodes) == 6 or nodes[-1] not in starts
