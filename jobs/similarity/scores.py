"""The three scores, each an exact inner-product search over exported vectors."""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from jobs.common.blocks import blocks
from jobs.common.evaluate import Evaluate, Score
from jobs.similarity.catalogue import Catalogue, Counts, EvaluationError
from jobs.similarity.maps import NONE, ItemMap, lists_by_trigger
from jobs.similarity.vectors import Floats, Vectors

BLOCK = 4096
"""Triggers searched at a time."""
Rows = npt.NDArray[np.integer[Any]]


def similarity_map(
    score: Score, vectors: Vectors, catalogue: Catalogue, settings: Evaluate
) -> ItemMap:
    """The `settings.neighbours` best items of every item by a score; raises EvaluationError where
    the score needs absent output vectors."""
    triggers, candidates = SPACES[score](vectors, catalogue.counts[vectors.rows], settings)
    usable_triggers, usable = (
        np.flatnonzero(np.isfinite(side).all(axis=1)) for side in (triggers, candidates)
    )
    found, scores = nearest(
        triggers, candidates, usable_triggers, usable, settings.neighbours, f"searching by {score}"
    )
    items = np.where(found == NONE, NONE, vectors.rows[found]).astype(np.int32)
    if score == "conditional":
        scores = probabilities(scores, items != NONE)
    return ItemMap(items, scores, lists_by_trigger(vectors.rows[usable_triggers], catalogue.size))


def cosine(vectors: Vectors, counts: Counts, settings: Evaluate) -> tuple[Floats, Floats]:
    """Unit input vectors of the length count^beta, on both sides. An item whose vector is zero has
    no direction: its row is NaN.

    A count of 0 (an item without a click in the training part) is taken as 1.
    """
    norms = np.linalg.norm(vectors.inputs, axis=1)
    lengths = np.maximum(counts, 1) ** settings.cosine_count_exponent / np.where(
        norms > 0, norms, np.nan
    )
    unit = vectors.inputs * lengths.astype(np.float32)[:, None]
    return unit, unit


def conditional(vectors: Vectors, counts: Counts, settings: Evaluate) -> tuple[Floats, Floats]:
    """Input vector of the trigger . output vector of the candidate + a log count: one more
    coordinate, 1 on the trigger's side.

    It is log P(candidate | trigger) up to a constant: negative sampling estimates the
    log-probability relative to the noise count^a. A count of 0 is taken as 1: its output vector is
    as good as untrained, so the item ranks among the rarest.
    """
    if vectors.outputs is None:
        raise EvaluationError(
            "the conditional score needs output vectors (item.context.parquet beside "
            "item.parquet), which are not there"
        )
    prior = settings.conditional_exponent * np.log(np.maximum(counts, 1))
    one = np.ones((len(counts), 1), np.float32)
    return np.hstack([vectors.inputs, one]), np.hstack(
        [vectors.outputs, prior.astype(np.float32)[:, None]]
    )


def inner(vectors: Vectors, counts: Counts, settings: Evaluate) -> tuple[Floats, Floats]:  # noqa: ARG001
    """Input vectors as they are: the paper's score (section 3.3)."""
    return vectors.inputs, vectors.inputs


SPACES = {"cosine": cosine, "conditional": conditional, "inner": inner}
"""Score -> (vectors [n, d'] of the triggers, of the candidates), whose inner product it is. A row
that is not finite takes no part."""


def probabilities(scores: Floats, listed: npt.NDArray[np.bool_]) -> Floats:
    """Softmax of each list's log-probabilities [T, N]: the order stays, and what a map of the
    conditional score holds adds up.

    A user's recent items then add probabilities, a mixture of their predictions, and the unknown
    constant of the logarithms is gone. By HitRate@50 of the user protocol on validation parts this
    gave 13.4 % to 10.4 % for adding the logarithms on globo, and 59.1 % to 58.4 %, level, on
    completejourney.
    """
    top = np.max(scores, axis=1, keepdims=True, where=listed, initial=-np.inf)
    weights = np.where(listed, np.exp(np.where(listed, scores - top, 0)), 0)
    shares: Floats = (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)).astype(
        np.float32
    )
    return shares


def nearest(
    triggers: Floats, candidates: Floats, usable_triggers: Rows, usable: Rows, k: int, what: str
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The k largest inner products of each usable trigger with the usable candidates, itself
    excluded: rows, then NONE, and scores.

    Exact; best first, ties by row. Row i of `triggers` and of `candidates` [n, d'] is one item.
    int64 and float32 [usable triggers, k].
    """
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(np.ascontiguousarray(candidates[usable]))
    found = np.full((len(usable_triggers), k), NONE, np.int64)
    scores = np.zeros(found.shape, np.float32)
    for block in blocks(len(usable_triggers), BLOCK, what):
        rows, products = _search(index, usable, triggers, usable_triggers[block], k)
        width = rows.shape[1]
        listed = products > -np.inf
        found[block, :width], scores[block, :width] = (
            np.where(listed, rows, NONE),
            np.where(listed, products, 0),
        )
    return found, scores


def _search(index: Any, usable: Rows, triggers: Floats, asked: Rows, k: int) -> tuple[Rows, Floats]:
    """One block. faiss keeps any of equal products: where the last one kept equals the first left
    out, all products are compared."""
    queries = np.ascontiguousarray(triggers[asked])
    fetched = min(
        k + 2, index.ntotal
    )  # the item itself, and one to see whether a tie crosses the end
    if not fetched:
        return np.zeros((len(asked), 0), np.int64), np.zeros((len(asked), 0), np.float32)
    products, at = index.search(queries, fetched)
    last = products[:, -1].copy()
    rows, products = _ranked(usable[at], products, asked, k)
    if fetched == k + 2:
        for tied in np.flatnonzero(products[:, -1] == last):
            every = queries[tied] @ index.reconstruct_n(0, index.ntotal).T
            one, best = _ranked(usable[None], every[None], asked[tied : tied + 1], k)
            rows[tied], products[tied] = one[0], best[0]
    return rows, products


def _ranked(rows: Rows, products: Floats, asked: Rows, k: int) -> tuple[Rows, Floats]:
    """The k best of each line without the item itself (its product becomes -inf), ties by row."""
    products = np.where(rows == asked[:, None], np.float32(-np.inf), products)
    order = np.lexsort((rows, -products))[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(products, order, axis=1)
