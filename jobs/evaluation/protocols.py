"""The two protocols: what a map recommends to a user, and whether it names a session's next
item."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from jobs.common.blocks import blocks
from jobs.evaluation.cases import NextCases, UserCases, pair_keys
from jobs.similarity.catalogue import Ints
from jobs.similarity.maps import NONE, ItemMap, best

USERS, CASES = 1024, 65536
"""Users and next-item cases looked at in one go."""


def contributions(similar: ItemMap) -> csr_array[Any]:
    """What each list adds to each item's sum, never below 0: [T, size].

    The scores themselves, the protocol's definition, where a list has none below 0. Else they are
    lifted by the list's lowest: a negative one would punish an item for being a neighbour, while
    items that are not listed, which are farther still, would lose nothing. (Lifting every list so
    took 5 points of HitRate from Item-CF on completejourney's validation part, and gave 3 to
    cosine.)
    """
    listed = similar.items != NONE
    lowest = np.min(similar.scores, axis=1, keepdims=True, where=listed, initial=0)
    values = (similar.scores - lowest)[listed]
    starts = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
    return csr_array(
        (values, similar.items[listed], starts), shape=(len(similar.items), len(similar.list_of))
    )


def recommend(similar: ItemMap, cases: UserCases, k: int) -> Ints:
    """P_u of every user: int32 [users, k], best first, then NONE.

    The k items with the largest sum of `contributions` over the lists of the user's recent items;
    ties by row. Items the user had before the cut, and items that no list adds anything to, are
    left out.
    """
    added = contributions(similar)
    chosen = np.full((cases.users, k), NONE, np.int32)
    for block in blocks(cases.users, USERS, "recommending"):
        summed = similar.lists_of(cases.recent[block]) @ added
        chosen[block] = best(summed + cases.history[block], k)[0]
    return chosen


def user_hits(chosen: Ints, cases: UserCases) -> npt.NDArray[np.int64]:
    """[users] |P_u and G_u|."""
    pairs = pair_keys(np.arange(cases.users)[:, None], chosen)  # -1 for NONE, which no pair has
    hits: npt.NDArray[np.int64] = np.isin(pairs, cases.truth).sum(axis=1)
    return hits


def next_hits(similar: ItemMap, cases: NextCases, k: int) -> npt.NDArray[np.bool_]:
    """[cases] whether the target is among the first k items of the trigger's list, the trigger
    itself left out."""
    hits = np.zeros(len(cases.trigger), bool)
    for block in blocks(len(hits), CASES, "next items"):
        known = block.start + np.flatnonzero(similar.list_of[cases.trigger[block]] != NONE)
        items = similar.items[similar.list_of[cases.trigger[known]], : k + 1]
        target_at, trigger_at = (
            _place(items, wanted[known], k + 1) for wanted in (cases.target, cases.trigger)
        )
        hits[known] = target_at - (trigger_at < target_at) < k
    return hits


def _place(items: Ints, wanted: Ints, absent: int) -> npt.NDArray[np.int64]:
    """Place from 0 of each wanted item in its list [cases, N]; `absent` where it is not there."""
    places: npt.NDArray[np.int64] = np.min(
        np.where(items == wanted[:, None], np.arange(items.shape[1]), absent),
        axis=1,
        initial=absent,
    )
    return places
