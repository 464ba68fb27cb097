"""What can be judged: anything that lists items for a user, and for a click in a session.

An item-to-item map is one kind (`map_recommender`), popularity another. A model of sessions or of
users would give a list of its own for each case.
"""

from typing import Protocol

import numpy as np

from jobs.common.arrays import AnyIntArray, BoolArray, Int32Array
from jobs.evaluation.cases import NextCases, UserCases
from jobs.similarity.maps import NONE


class Recommender(Protocol):
    """Lists catalogue rows, best first, then NONE."""

    def for_users(self, cases: UserCases, k: int) -> Int32Array:
        """int32 [users, k] P_u of every user, without items that the user had before the cut."""
        ...

    def for_next(self, cases: NextCases, k: int) -> Int32Array:
        """int32 [cases, k] what is expected after each trigger, the trigger itself left out.

        Callers hand over the cases in blocks (`outcome.next_hits`).
        """
        ...

    def reachable(self, cases: NextCases) -> BoolArray:
        """[cases] whether the target could be listed at all, however long the list were."""
        ...


def leading(items: Int32Array, kept: BoolArray, k: int) -> Int32Array:
    """The first k kept items of each row of `items` [rows, N], then NONE: int32 [rows, k]."""
    place = np.cumsum(kept, axis=1, dtype=np.int32) - 1
    taken: tuple[AnyIntArray, ...] = np.nonzero(kept & (place < k))
    shortened = np.full((len(items), k), NONE, np.int32)
    shortened[taken[0], place[taken]] = items[taken]
    return shortened
