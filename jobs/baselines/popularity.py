"""Popularity: the most clicked items for everybody, a baseline that knows no user and no item."""

from dataclasses import dataclass

import numpy as np

from jobs.common.arrays import BoolArray, Int32Array
from jobs.common.blocks import in_blocks
from jobs.evaluation.cases import NextCases, UserCases
from jobs.evaluation.recommender import leading
from jobs.similarity.catalogue import Catalogue
from jobs.similarity.maps import NONE

POPULARITY = "popularity"
"""The baseline's name among the models."""
_USERS = 1024
"""Users looked at in one go."""


@dataclass(frozen=True)
class Popularity:
    """One list, the most clicked items, for every trigger and for every user, even one without
    triggers."""

    items: Int32Array
    """[N] catalogue rows, most clicked first."""
    clicked: BoolArray
    """[size] items clicked before the cut."""

    @classmethod
    def of(cls, catalogue: Catalogue, length: int) -> "Popularity":
        """The `length` most clicked items; ties by row; none that was never clicked."""
        order = np.argsort(-catalogue.clicks, kind="stable")[:length].astype(np.int32)
        return cls(order[catalogue.clicks[order] > 0], catalogue.clicks > 0)

    def for_users(self, cases: UserCases, k: int) -> Int32Array:
        """The k most clicked items that the user did not have: int32 [users, k], then NONE."""
        chosen = np.full((cases.users, k), NONE, np.int32)
        for block in in_blocks(cases.users, _USERS, "recommending"):
            had = cases.history[block][:, self.items].toarray() != 0  # [users, N]
            chosen[block] = leading(np.broadcast_to(self.items, had.shape), ~had, k)
        return chosen

    def for_next(self, cases: NextCases, k: int) -> Int32Array:
        """The k most clicked items but the trigger: int32 [cases, k], then NONE."""
        items = self.items[: k + 1]
        others = items != cases.trigger[:, None]  # [cases, <= k + 1]
        return leading(np.broadcast_to(items, others.shape), others, k)

    def reachable(self, cases: NextCases) -> BoolArray:
        """[cases] whether the target was clicked before the cut: the list is cut short only to save
        memory."""
        return self.clicked[cases.target]


def popularity(catalogue: Catalogue, users: UserCases, k: int) -> Popularity:
    """A list that gives every user k new items: as long as k and the longest history together."""
    longest_history = int(np.diff(users.history.indptr).max(initial=0))
    return Popularity.of(catalogue, k + longest_history + 1)
