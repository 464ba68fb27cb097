"""The formula of docs/scale.md: how many distinct rows a rank wants in a step, from shares alone,
and how long a step then takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config import ITEM_VIEW

KEY_BYTES, FLOAT_BYTES = 8, 4
COLLECTIVES = 5
"""Of a step over alltoall: pairs, input-dist, output-dist, gradients, dense."""
HEAD, GROWTH = 10_000, 1.001
"""Nodes of a Zipf-like view that stand alone, and how much wider each bin of the others is than the
one before."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A view's nodes in bins: those of a bin are drawn equally often."""

    nodes: Floats
    """[bins] nodes of each bin."""
    clicks: Floats
    """[bins] clicks of one node."""


@dataclass(frozen=True)
class Relation:
    """Links of items with the values of a view."""

    view: str
    centres: Floats
    """[bins of the items] rows of the stream that one item has: 1 where it is linked, else 0."""
    values: Floats
    """[bins of the view] links of one value."""


@dataclass(frozen=True)
class Drawn:
    """What a rank draws for a task in a step. A position of a sequence is both, a centre and a
    context."""

    centres: float
    contexts: float
    negatives: float


@dataclass(frozen=True)
class Draws:
    """Independent draws of nodes by weights [bins]."""

    number: float
    weights: Floats


@dataclass(frozen=True)
class Machine:
    """What a rank does in a second."""

    pairs_per_s: float
    bandwidth: float
    """Bytes a second that it sends while it receives as many."""
    latency: float
    """Seconds of a collective operation that carries nothing."""

    def step_seconds(self, pairs: float, sent: float, ranks: int) -> float:
        """Of a step in which nothing overlaps: what is computed, and then what is exchanged."""
        return pairs / self.pairs_per_s + (
            sent / self.bandwidth + COLLECTIVES * self.latency if ranks > 1 else 0.0
        )


def zipf(nodes: int, exponent: float = 1.0) -> View:
    """A view whose clicks fall as 1 / rank^exponent."""
    head = np.arange(1.0, min(nodes, HEAD) + 1)
    bins = max(0, int(np.ceil(np.log(nodes / HEAD) / np.log(GROWTH))))
    ends = (
        np.unique(np.rint(np.append(np.minimum(HEAD * GROWTH ** np.arange(bins), nodes), nodes)))
        if bins
        else head[-1:]
    )
    middle = np.sqrt((ends[:-1] + 1) * ends[1:])
    return View(
        np.concatenate((np.ones(len(head)), np.diff(ends))),
        np.concatenate((head, middle)) ** -exponent,
    )


def expected_rows(nodes: Floats, draws: Sequence[Draws]) -> float:
    """Distinct nodes that draws come to: the sum over nodes of 1 - product of (1 -
    share)^number."""
    unseen = np.zeros(len(nodes))
    with np.errstate(divide="ignore"):  # a node that is always drawn
        for one in draws:
            if one.number:
                unseen += one.number * np.log1p(-one.weights / (nodes @ one.weights))
    return float(nodes @ -np.expm1(unseen))


def wanted_rows(
    views: Mapping[str, View],
    relations: Mapping[str, Relation],
    drawn: Mapping[str, Drawn],
    exponent: float,
) -> float:
    """Distinct rows of all tables that one rank's share of a step wants; `drawn` by task,
    `exponent` of the noise."""
    rows = 0.0
    for name, view in views.items():
        noise, mine = view.clicks**exponent, drawn[name]
        read = [Draws(mine.centres, view.clicks)]
        if name == ITEM_VIEW:
            read += [
                Draws(drawn[which].centres, relation.centres)
                for which, relation in relations.items()
            ]
        for which, relation in relations.items():
            if relation.view == name:
                read += [
                    Draws(drawn[which].contexts, relation.values),
                    Draws(drawn[which].negatives, noise),
                ]
        rows += expected_rows(view.nodes, read)
        rows += expected_rows(
            view.nodes, [Draws(mine.contexts, view.clicks), Draws(mine.negatives, noise)]
        )
    return rows


def sent_bytes(elsewhere: float, dimension: int) -> float:
    """What a rank sends in a step, on average: keys there, rows back, gradients there."""
    return elsewhere * (KEY_BYTES + 2 * FLOAT_BYTES * dimension)
