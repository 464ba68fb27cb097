"""Random walks over a weighted graph in memory, many at a time in NumPy; and the rule of their
steps, which pipeline/graphs/walks.py follows too.

Every draw is a hash of (seed, view, start, number of the walk, step, trial), so that a walk is the
same in whatever batch it is walked.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import Walks

Longs = NDArray[np.int64]
Bits = NDArray[np.uint64]
Truths = NDArray[np.bool_]

BACK, NEXT, ACCEPT = 0, 1, 2
"""What a draw decides: whether to go back, the edge to take otherwise, whether to accept it."""


# The rule of a step, for arrays and for columns alike.


def is_biased(settings: Walks) -> bool:
    """Whether a step looks at the node before (node2vec), and not at weights alone (DeepWalk)."""
    return (settings.p, settings.q) != (1.0, 1.0)


def goes_back(uniform: Any, back: Any, total: Any, settings: Walks) -> Any:
    """Whether a draw from [0, 1) takes the edge back, which weighs `back` of the node's `total`.

    Its share is back/p of back/p + (total - back) · max(1, 1/q): the other edges count as if each
    were of the likelier kind, and `accepts` refuses what that is too much.
    """
    returning = back / settings.p
    others = (total - back) * max(1.0, 1.0 / settings.q)
    return uniform * (returning + others) < returning


def accepts(uniform: Any, bias: Any, settings: Walks) -> Any:
    """Whether a draw from [0, 1) accepts an edge of this bias: 1 to a neighbour of the node before,
    1/q elsewhere."""
    return uniform * max(1.0, 1.0 / settings.q) < bias


def stream_key(seed: int, view: str) -> int:
    """The signed 64-bit number that sets the draws of a view apart from those of other views and
    seeds."""
    digest = hashlib.blake2b(f"{seed}/{view}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


# Draws in NumPy: Spark's xxhash64 of longs.

_PRIMES = [
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
]
_P1, _P2, _P3, _P4, _P5 = (np.array([prime], np.uint64) for prime in _PRIMES)
HASH_SEED = np.array([42], np.uint64)
"""The state that Spark's xxhash64 begins with."""


def hashed(state: Bits, *fields: Longs | int) -> Bits:
    """The state of xxhash64 after further fields; from HASH_SEED, what F.xxhash64 gives for columns
    of longs."""
    for field in fields:
        word = np.atleast_1d(np.asarray(field, np.int64)).view(np.uint64)
        mixed = (state + _P5 + np.uint64(8)) ^ (_rotated(word * _P2, 31) * _P1)
        mixed = _rotated(mixed, 27) * _P1 + _P4
        mixed = (mixed ^ (mixed >> np.uint64(33))) * _P2
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _P3
        state = mixed ^ (mixed >> np.uint64(32))
    return state


def _rotated(bits: Bits, by: int) -> Bits:
    return (bits << np.uint64(by)) | (bits >> np.uint64(64 - by))


def _uniform(bits: Bits) -> NDArray[np.float64]:
    """[0, 1), from the upper 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


# Walks over arrays.


def _positions(ascending: Longs, numbers: Longs, side: Literal["left", "right"]) -> Longs:
    """np.searchsorted in the order of the numbers: one search leaves in the cache what the next one
    reads (five times faster at 1e7)."""
    order = np.argsort(numbers)
    positions = np.empty_like(order)
    positions[order] = np.searchsorted(ascending, numbers[order], side)
    return positions


@dataclass(frozen=True)
class Graph:
    """A weighted graph as arrays, its edges in the order of (node, neighbour) on one line."""

    keys: Longs
    """[edges] node · 2³² + neighbour, ascending."""
    ends: Longs
    """[edges + 1] Edge e covers the points ends[e] to ends[e + 1] - 1."""
    first: Longs
    """[nodes + 1] The edges of node v are first[v] to first[v + 1] - 1."""

    @classmethod
    def of(cls, node: Longs, neighbour: Longs, weight: Longs) -> "Graph":
        """The graph of directed edges [edges], each given once and weighing 1 or more."""
        keys = (node.astype(np.int64) << 32) | neighbour
        order = np.argsort(keys)
        ascending = keys[order]
        size = int(max(node.max(), neighbour.max())) + 1 if len(keys) else 0
        # [nodes + 1] A node's first key is its number alone.
        first = np.searchsorted(ascending, np.arange(size + 1) << 32)
        ends = np.cumsum(weight[order], dtype=np.int64)
        return cls(ascending, np.concatenate([[0], ends]), first)

    @property
    def size(self) -> int:
        """Nodes are 0 to size - 1; some may have no edge."""
        return len(self.first) - 1

    def line(self, node: Longs) -> tuple[Longs, Longs]:
        """Where the line of each node begins, and how long it is; 0 where no edge leaves the
        node."""
        begin = self.ends[self.first[node]]
        return begin, self.ends[self.first[node + 1]] - begin

    def find(self, node: Longs, neighbour: Longs) -> tuple[Longs, Truths]:
        """The edge from each node to the neighbour, and whether there is one (else the edge is
        any)."""
        key = (node << 32) | neighbour
        edge = np.minimum(_positions(self.keys, key, "left"), len(self.keys) - 1)
        return edge, self.keys[edge] == key

    def at(self, point: Longs) -> Longs:
        """The neighbour that the edge at each point of the line leads to."""
        edge = _positions(self.ends, point, "right") - 1
        return self.keys[edge] & 0xFFFFFFFF


def walk(graph: Graph, start: Longs, number: Longs, key: int, settings: Walks) -> NDArray[np.int32]:
    """[length, walks] The nodes of walk `number` from `start`, -1 after a walk's end."""
    nodes = np.full((settings.length, len(start)), -1, np.int32)
    nodes[0] = start
    stream, alive = hashed(HASH_SEED, key, start, number), np.arange(len(start))
    looks_back = is_biased(settings)
    for step in range(settings.length - 1):
        # [walks alive] A walk ends at a node that no edge leaves.
        _, total = graph.line(nodes[step, alive].astype(np.int64))
        alive = alive[total > 0]
        node = nodes[step, alive].astype(np.int64)
        before = nodes[step - 1, alive].astype(np.int64) if step and looks_back else None
        nodes[step + 1, alive] = _next(graph, node, before, hashed(stream[alive], step), settings)
    return nodes


def _next(graph: Graph, node: Longs, before: Longs | None, stream: Bits, settings: Walks) -> Longs:
    """[walks] The node after `node`, for walks that came from `before` (none: the first step, or it
    does not matter)."""
    if before is None:
        begin, total = graph.line(node)
        draw = hashed(stream, 0, NEXT).view(np.int64)
        return graph.at(begin + np.mod(draw, total))
    taken, waiting, trial = np.empty_like(node), np.arange(len(node)), 0
    while len(waiting):
        draws = hashed(stream[waiting], trial)
        candidate, accepted = _try(graph, node[waiting], before[waiting], draws, settings)
        # A refused one is overwritten by a later trial's.
        taken[waiting] = candidate
        waiting, trial = waiting[~accepted], trial + 1
    return taken


def _try(
    graph: Graph, node: Longs, before: Longs, stream: Bits, settings: Walks
) -> tuple[Longs, Truths]:
    """[walks] A candidate for each walk's next node, and whether it is accepted."""
    begin, total = graph.line(node)
    # [walks] The edge back to the node before: its weight, and where on the line it begins.
    edge, there = graph.find(node, before)
    low, high = graph.ends[edge], graph.ends[edge + 1]
    back = np.where(there, high - low, 0)
    back_low = np.where(there, low - begin, 0)
    returns = goes_back(_uniform(hashed(stream, BACK)), back, total, settings)
    # A point of the line without the edge back, which may be all of it: then the walk returns.
    draw = hashed(stream, NEXT).view(np.int64)
    other = np.mod(draw, np.maximum(total - back, 1))
    skipped = np.where(other >= back_low, back, 0)
    candidate = graph.at(begin + np.where(returns, back_low, other + skipped))
    _, near = graph.find(before, candidate)
    bias = np.where(near, 1.0, 1.0 / settings.q)
    return candidate, returns | accepts(_uniform(hashed(stream, ACCEPT)), bias, settings)


def walk_batch(graph: Graph, starts: Longs, key: int, settings: Walks) -> pa.RecordBatch:
    """walk_id: int64, nodes: list<int32>: all walks of two nodes or more from the starts."""
    start = np.repeat(starts, settings.walks_per_node)
    number = np.tile(np.arange(settings.walks_per_node), len(starts))
    # [length, walks]
    nodes = walk(graph, start, number, key, settings)
    kept = nodes[1] >= 0
    # [kept walks, length], -1 after a walk's end
    rows = nodes.T[kept]
    is_node = rows >= 0
    lengths = np.count_nonzero(is_node, axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(offsets, pa.array(rows[is_node]))
    ids = (start * settings.walks_per_node + number)[kept]
    return pa.record_batch({"walk_id": ids, "nodes": lists})
