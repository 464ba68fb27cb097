"""Item-CF: the item-to-item map of co-occurrence in sessions, a baseline without vectors."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from jobs.common.arrays import Float64Array, Int32Array, Int64Array
from jobs.common.blocks import in_blocks
from jobs.common.evaluate import Evaluate
from jobs.similarity.catalogue import Catalogue, distinct
from jobs.similarity.maps import NONE, ItemMap, best_columns, lists_by_trigger
from pipeline.config import ITEM_VIEW
from pipeline.contracts.sealed import check_file
from pipeline.contracts.shards import Manifest
from pipeline.storage.locations import Location, read_table

ITEM_CF = "Item-CF"
"""The baseline's name among the models."""
SLOTS = 2_000_000
"""Pairs of positions looked at in one go; bounds the memory, about 100 bytes each."""
STRIPE = 1024
"""Items looked at in one go, at most."""


@dataclass(frozen=True)
class SessionTokens:
    """The training sessions, one after the other."""

    items: Int32Array
    """[tokens] item rows."""
    session: Int32Array
    """[tokens] number of the session, ascending."""


def read_sessions(shards: Location) -> SessionTokens | None:
    """The item view's `windows` stream, none where the shards have no such. Raises ManifestError
    where they are absent or damaged."""
    item_streams = Manifest.read(shards).views[ITEM_VIEW].streams
    streams = [stream for stream in item_streams if stream.encoding == "windows"]
    if not streams or not streams[0].rows:
        return None
    items, lengths = [], []
    for file in streams[0].files:
        check_file(shards, file.path, file.bytes, file.sha256)
        table = read_table(shards / file.path, columns=["nodes"])
        nodes = table.column("nodes").combine_chunks()
        items.append(np.asarray(nodes.flatten()))
        lengths.append(np.diff(np.asarray(nodes.offsets)))
    sizes = np.concatenate(lengths)
    numbers = np.arange(len(sizes), dtype=np.int32)
    return SessionTokens(np.concatenate(items), np.repeat(numbers, sizes))


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
    size, window = catalogue.vocabulary, settings.item_cf_window
    items = np.full((size, settings.neighbours), NONE, np.int32)
    scores = np.zeros(items.shape, np.float32)
    sessions_of = np.maximum(_sessions_of(tokens, size), 1.0)
    of_trigger = sessions_of**-0.5
    of_item = sessions_of**-settings.item_cf_exponent
    lengths = np.bincount(tokens.session)
    damping = 1 / np.log2(1 + np.maximum(lengths, 1))
    # Positions of each item's clicks, one item after the other: [tokens], [size + 1]
    order = np.argsort(tokens.items, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(tokens.items, minlength=size))])
    bounds = _stripes(starts, 2 * window)
    for stripe in in_blocks(len(bounds) - 1, 1, "counting for Item-CF"):
        first, stop = bounds[stripe.start], bounds[stripe.stop]
        positions = order[starts[first] : starts[stop]]
        shape = (stop - first, size)
        weights = _co_occurrence(tokens, positions, first, damping, window, shape)
        # Row and column of each stored weight: [pairs of the stripe]
        trigger_factors = np.repeat(of_trigger[first:stop], np.diff(weights.indptr))
        weights.data *= trigger_factors * of_item[weights.indices]
        items[first:stop], scores[first:stop] = best_columns(weights, settings.neighbours)
    return ItemMap(items, scores, lists_by_trigger(np.arange(size), catalogue.size))


def _sessions_of(tokens: SessionTokens, size: int) -> Int64Array:
    """[size] in how many sessions each item is."""
    pairs = tokens.session.astype(np.int64) * size + tokens.items
    return np.bincount(distinct(pairs) % size, minlength=size)


def _stripes(starts: Int64Array, offsets: int) -> list[int]:
    """Bounds of runs of items with about SLOTS pairs of positions each: the first is 0, the last
    the number of items."""
    bounds, size = [0], len(starts) - 1
    while bounds[-1] < size:
        first = bounds[-1]
        last_click = starts[first] + SLOTS // offsets
        reach = int(np.searchsorted(starts, last_click, side="right")) - 1
        # An item at least, whatever its clicks.
        stop = max(reach, first + 1)
        bounds.append(min(stop, first + STRIPE, size))
    return bounds


def _co_occurrence(
    tokens: SessionTokens,
    positions: Int64Array,
    first: int,
    damping: Float64Array,
    window: int,
    shape: tuple[int, int],
) -> csr_array:
    """Sum of the sessions' weights for each (item - first, other item), where the items of the
    stripe stand at `positions`."""
    offsets = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
    # Every click of the stripe beside every click around it: [clicks of the stripe, offsets]
    other = positions[:, None] + offsets
    centre = np.broadcast_to(positions[:, None], other.shape)
    inside = (other >= 0) & (other < len(tokens.items))
    centre, other = centre[inside], other[inside]
    same_session = tokens.session[centre] == tokens.session[other]
    different = tokens.items[centre] != tokens.items[other]
    kept = same_session & different
    centre, other = centre[kept], other[kept]
    # One number for each (row, session, column), so that a session counts once for a pair.
    sessions, size = len(damping), shape[1]
    row = tokens.items[centre].astype(np.int64) - first
    in_session = row * sessions + tokens.session[centre]
    once = distinct(in_session * size + tokens.items[other])
    in_session, column = np.divmod(once, size)
    row, session = np.divmod(in_session, sessions)
    # Sessions of one pair stand there several times, and are added up.
    return csr_array((damping[session], (row, column)), shape=shape)
