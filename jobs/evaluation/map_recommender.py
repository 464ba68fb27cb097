"""An item-to-item map as a recommender: the lists of a user's recent items add up, and the list of
a click is what may come next."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from jobs.common.arrays import BoolArray, Int32Array
from jobs.common.blocks import in_blocks
from jobs.evaluation.cases import NextCases, UserCases
from jobs.evaluation.recommender import leading
from jobs.similarity.maps import NONE, ItemMap, best_columns

USERS = 1024
"""Users looked at in one go."""


@dataclass(frozen=True)
class MapRecommender:
    """Recommends what stands in the lists of an item-to-item map."""

    similar: ItemMap

    def for_users(self, cases: UserCases, k: int) -> Int32Array:
        """The k items with the largest sum of `contributions` over the lists of the user's recent
        items: int32 [users, k], ties by row, then NONE.

        Items the user had before the cut, and items that no list adds anything to, are left out.
        """
        added = contributions(self.similar)
        chosen = np.full((cases.users, k), NONE, np.int32)
        for block in in_blocks(cases.users, USERS, "recommending"):
            # [users, T] @ [T, size] -> [users, size], sparse throughout
            summed = self.similar.lists_of(cases.recent[block]) @ added
            # -inf at what the user had: `best` takes positive sums alone
            allowed = summed + cases.history[block]
            chosen[block], _ = best_columns(allowed, k)
        return chosen

    def for_next(self, cases: NextCases, k: int) -> Int32Array:
        """The first k items of each trigger's list, the trigger itself left out: int32 [cases, k];
        NONE throughout where the trigger has no list."""
        listed = np.full((len(cases), k), NONE, np.int32)
        lists = self.similar.list_of[cases.trigger]
        known = np.flatnonzero(lists != NONE)
        # One item more than k, in case the trigger is among them: [known cases, <= k + 1]
        items = self.similar.items[lists[known], : k + 1]
        others = items != cases.trigger[known, None]
        listed[known] = leading(items, others, k)
        return listed

    def reachable(self, cases: NextCases) -> BoolArray:
        """[cases] whether the trigger has a list, and the target stands in any list."""
        has_list = self.similar.list_of[cases.trigger] != NONE
        reached: BoolArray = has_list & self._candidates[cases.target]
        return reached

    @cached_property
    def _candidates(self) -> BoolArray:
        return self.similar.candidates()


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
    lifted = similar.scores - lowest
    # Row pointers of the sparse matrix: where each list's items begin, [T + 1]
    starts = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
    shape = (len(similar.items), len(similar.list_of))
    return csr_array((lifted[listed], similar.items[listed], starts), shape=shape)
