"""Item-CF: the item-to-item map of co-occurrence in sessions, a baseline without vectors."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from jobs.common.blocks import blocks
from jobs.common.evaluate import Evaluate
from jobs.similarity.catalogue import Catalogue, Ints, distinct
from jobs.similarity.maps import NONE, ItemMap, best, lists_by_trigger
from pipeline.config import ITEM_VIEW
from pipeline.contracts.shards import check_file, read_manifest
from pipeline.storage.locations import Location, read_table

SLOTS = 2_000_000
"""Pairs of positions looked at in one go; bounds the memory, about 100 bytes each."""
STRIPE = 1024
"""Items looked at in one go, at most."""


@dataclass(frozen=True)
class SessionTokens:
    """The training sessions, one after the other."""

    items: Ints
    """[tokens] item rows."""
    session: Ints
    """[tokens] number of the session, ascending."""


def read_sessions(shards: Location) -> SessionTokens | None:
    """The item view's `windows` stream, none where the shards have no such. Raises ManifestError
    where they are absent or damaged."""
    streams = [
        stream
        for stream in read_manifest(shards).views[ITEM_VIEW].streams
        if stream.encoding == "windows"
    ]
    if not streams or not streams[0].rows:
        return None
    items, lengths = [], []
    for file in streams[0].files:
        check_file(shards, file.path, file.bytes, file.sha256)
        nodes = read_table(shards / file.path, columns=["nodes"]).column("nodes").combine_chunks()
        items.append(np.asarray(nodes.flatten()))
        lengths.append(np.diff(np.asarray(nodes.offsets)))
    sizes = np.concatenate(lengths)
    return SessionTokens(
        np.concatenate(items), np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    )


def item_cf(tokens: SessionTokens, catalogue: Catalogue, settings: Evaluate) -> ItemMap:
    """The `settings.neighbours` items that most co-occur with each item.

    Two distinct items co-occur in a session where some of their clicks are at most `item_cf_window`
    apart; a session counts once for a pair, with 1 / log2(1 + its length in clicks), since a long
    session says less about any one pair. With n(a), n(b) the sessions of each: score(trigger a,
    item b) = sum of these weights / (n(a)^0.5 n(b)^`item_cf_exponent`). Items are compared a stripe
    at a time, so memory is bounded by the stripe and not by the pairs. Ties by row.

    On validation parts the exponent 0.25 was far above the usual 0.5 for all items
    (completejourney: user HitRate@50 54.6 to 32.2 %, next item 8.7 to 5.2 %; globo: 49.3 to 47.2 %)
    and somewhat below it for rare ones (1.8 to 2.2 %; 12.2 to 15.2 %); 0 lost more of those.
    """
    size = catalogue.vocabulary
    sessions_of = np.bincount(
        distinct(tokens.session.astype(np.int64) * size + tokens.items) % size, minlength=size
    )
    lengths = np.bincount(tokens.session)
    damping = 1 / np.log2(1 + np.maximum(lengths, 1))
    order = np.argsort(tokens.items, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(tokens.items, minlength=size))])
    items = np.full((size, settings.neighbours), NONE, np.int32)
    scores = np.zeros(items.shape, np.float32)
    of_trigger, of_item = (
        np.maximum(sessions_of, 1.0) ** -exponent for exponent in (0.5, settings.item_cf_exponent)
    )
    bounds = _stripes(starts, 2 * settings.item_cf_window)
    for stripe in blocks(len(bounds) - 1, 1, "counting for Item-CF"):
        first, stop = bounds[stripe.start], bounds[stripe.stop]
        weights = _co_occurrence(
            tokens,
            order[starts[first] : starts[stop]],
            first,
            damping,
            settings.item_cf_window,
            (stop - first, size),
        )
        weights.data *= (
            np.repeat(of_trigger[first:stop], np.diff(weights.indptr)) * of_item[weights.indices]
        )
        items[first:stop], scores[first:stop] = best(weights, settings.neighbours)
    return ItemMap(items, scores, lists_by_trigger(np.arange(size), catalogue.size))


def _stripes(starts: npt.NDArray[np.int64], offsets: int) -> list[int]:
    """Bounds of runs of items with about SLOTS pairs of positions each: the first is 0, the last
    the number of items."""
    bounds, size = [0], len(starts) - 1
    while bounds[-1] < size:
        reach = np.searchsorted(starts, starts[bounds[-1]] + SLOTS // offsets, side="right") - 1
        bounds.append(min(max(int(reach), bounds[-1] + 1), bounds[-1] + STRIPE, size))
    return bounds


def _co_occurrence(
    tokens: SessionTokens,
    positions: npt.NDArray[np.int64],
    first: int,
    damping: npt.NDArray[np.float64],
    window: int,
    shape: tuple[int, int],
) -> csr_array:
    """Sum of the sessions' weights for each (item - first, other item), where the items of the
    stripe stand at `positions`."""
    offsets = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
    other = positions[:, None] + offsets  # [clicks of the stripe, offsets]
    inside = (other >= 0) & (other < len(tokens.items))
    centre, other = np.broadcast_to(positions[:, None], other.shape)[inside], other[inside]
    kept = (tokens.session[centre] == tokens.session[other]) & (
        tokens.items[centre] != tokens.items[other]
    )
    centre, other = centre[kept], other[kept]
    sessions, size = len(damping), shape[1]
    row = tokens.items[centre].astype(np.int64) - first
    once = distinct((row * sessions + tokens.session[centre]) * size + tokens.items[other])
    rest, column = np.divmod(once, size)
    row, session = np.divmod(rest, sessions)
    return csr_array((damping[session], (row, column)), shape=shape)
