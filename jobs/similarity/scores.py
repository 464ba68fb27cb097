"""The three scores, each an exact inner-product search over exported vectors."""

from typing import Any

import faiss
import numpy as np

from jobs.common.arrays import AnyIntArray, BoolArray, Float32Array, Int64Array
from jobs.common.blocks import in_blocks
from jobs.common.evaluate import Evaluate, Score
from jobs.similarity.catalogue import Catalogue, EvaluationError
from jobs.similarity.maps import NONE, ItemMap, lists_by_trigger
from jobs.similarity.vectors import Vectors

TRIGGERS_AT_A_TIME = 4096
Sides = tuple[Float32Array, Float32Array]
"""[n, d'] of the triggers, and of the candidates."""


def similarity_map(
    score: Score, vectors: Vectors, catalogue: Catalogue, settings: Evaluate
) -> ItemMap:
    """The `settings.neighbours` best items of every item by a score; raises EvaluationError where
    the score needs absent output vectors."""
    triggers, candidates = SPACES[score](vectors, catalogue.counts[vectors.rows], settings)
    usable_triggers = np.flatnonzero(np.isfinite(triggers).all(axis=1))
    usable = np.flatnonzero(np.isfinite(candidates).all(axis=1))
    what = f"searching by {score}"
    # Rows of the vectors [usable triggers, neighbours]; then rows of the catalogue.
    rows, scores = nearest_rows(
        triggers, candidates, usable_triggers, usable, settings.neighbours, what
    )
    items = np.where(rows == NONE, NONE, vectors.rows[rows]).astype(np.int32)
    if score == "conditional":
        scores = probabilities(scores, items != NONE)
    list_of = lists_by_trigger(vectors.rows[usable_triggers], catalogue.size)
    return ItemMap(items, scores, list_of)


def cosine(vectors: Vectors, counts: Int64Array, settings: Evaluate) -> Sides:
    """Unit input vectors of the length count^beta, on both sides. An item whose vector is zero has
    no direction: its row is NaN.

    A count of 0 (an item without a click in the training part) is taken as 1.
    """
    norms = np.linalg.norm(vectors.inputs, axis=1)
    lengths = np.maximum(counts, 1) ** settings.cosine_count_exponent
    factors = lengths / np.where(norms > 0, norms, np.nan)
    # [n, d] * [n, 1]
    unit = vectors.inputs * factors.astype(np.float32)[:, None]
    return unit, unit


def conditional(vectors: Vectors, counts: Int64Array, settings: Evaluate) -> Sides:
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
    # [n, d] beside [n, 1]: the product of two rows gains 1 * prior.
    triggers = np.hstack([vectors.inputs, one])
    candidates = np.hstack([vectors.outputs, prior.astype(np.float32)[:, None]])
    return triggers, candidates


def inner(vectors: Vectors, _counts: Int64Array, _settings: Evaluate) -> Sides:
    """Input vectors as they are: the paper's score (section 3.3)."""
    return vectors.inputs, vectors.inputs


SPACES = {"cosine": cosine, "conditional": conditional, "inner": inner}
"""Score -> (vectors [n, d'] of the triggers, of the candidates), whose inner product it is. A row
that is not finite takes no part."""


def probabilities(scores: Float32Array, listed: BoolArray) -> Float32Array:
    """Softmax of each list's log-probabilities [T, N]: the order stays, and what a map of the
    conditional score holds adds up.

    A user's recent items then add probabilities, a mixture of their predictions, and the unknown
    constant of the logarithms is gone. By HitRate@50 of the user protocol on validation parts this
    gave 13.4 % to 10.4 % for adding the logarithms on globo, and 59.1 % to 58.4 %, level, on
    completejourney.
    """
    top = np.max(scores, axis=1, keepdims=True, where=listed, initial=-np.inf)
    # Less the top, so that no exponential overflows: [T, N] - [T, 1]
    exponents = np.where(listed, scores - top, 0)
    weights = np.where(listed, np.exp(exponents), 0)
    # The top item's weight is 1: only a list without items has a sum below that.
    sums = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    shares: Float32Array = (weights / sums).astype(np.float32)
    return shares


def nearest_rows(
    triggers: Float32Array,
    candidates: Float32Array,
    usable_triggers: AnyIntArray,
    usable: AnyIntArray,
    k: int,
    what: str,
) -> tuple[Int64Array, Float32Array]:
    """The k largest inner products of each usable trigger with the usable candidates, itself
    excluded: rows, then NONE, and scores.

    Exact; best first, ties by row. Row i of `triggers` and of `candidates` [n, d'] is one item.
    int64 and float32 [usable triggers, k].
    """
    index = faiss.IndexFlatIP(candidates.shape[1])
    index.add(np.ascontiguousarray(candidates[usable]))
    found_rows = np.full((len(usable_triggers), k), NONE, np.int64)
    scores = np.zeros(found_rows.shape, np.float32)
    for block in in_blocks(len(usable_triggers), TRIGGERS_AT_A_TIME, what):
        # [triggers of the block, <= k]
        rows, products = _search(index, usable, triggers, usable_triggers[block], k)
        width = rows.shape[1]
        listed = products > -np.inf  # the trigger itself is -inf
        found_rows[block, :width] = np.where(listed, rows, NONE)
        scores[block, :width] = np.where(listed, products, 0)
    return found_rows, scores


def _search(
    index: Any, usable: AnyIntArray, vectors: Float32Array, triggers: AnyIntArray, k: int
) -> tuple[AnyIntArray, Float32Array]:
    """One block. faiss keeps any of equal products: where the last one kept equals the first left
    out, all products are compared."""
    queries = np.ascontiguousarray(vectors[triggers])
    # The item itself, and one to see whether a tie crosses the end.
    fetched = min(k + 2, index.ntotal)
    if not fetched:
        return np.zeros((len(triggers), 0), np.int64), np.zeros((len(triggers), 0), np.float32)
    products, places = index.search(queries, fetched)  # both [triggers, fetched]
    last = products[:, -1].copy()
    rows, products = _ranked(usable[places], products, triggers, k)
    if fetched == k + 2:
        for tied in np.flatnonzero(products[:, -1] == last):
            candidates = index.reconstruct_n(0, index.ntotal)  # [usable, d']
            every = queries[tied] @ candidates.T
            own = triggers[tied : tied + 1]
            all_rows, all_products = _ranked(usable[None], every[None], own, k)
            rows[tied], products[tied] = all_rows[0], all_products[0]
    return rows, products


def _ranked(
    rows: AnyIntArray, products: Float32Array, triggers: AnyIntArray, k: int
) -> tuple[AnyIntArray, Float32Array]:
    """The k best of each line without the item itself (its product becomes -inf), ties by row."""
    products = np.where(rows == triggers[:, None], np.float32(-np.inf), products)
    order = np.lexsort((rows, -products))[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(products, order, axis=1)
