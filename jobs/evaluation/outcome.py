"""What a recommender did with all cases, before any average."""

from dataclasses import dataclass

import numpy as np

from jobs.common.arrays import BoolArray, Int32Array, Int64Array
from jobs.common.blocks import in_blocks
from jobs.evaluation.cases import NextCases, UserCases, is_rare, pair_keys
from jobs.evaluation.recommender import Recommender
from jobs.similarity.catalogue import Catalogue

CASES = 65536
"""Next-item cases looked at in one go."""


@dataclass(frozen=True)
class ModelOutcome:
    """The lists of one model beside what the users clicked. Metrics are computed from it."""

    users: UserCases
    following: NextCases
    catalogue: Catalogue
    k: int
    recommended: Int32Array
    """[users, k] P_u, best first, then NONE."""
    user_hits: Int64Array
    """[users] |P_u and G_u|."""
    next_hits: BoolArray
    """[cases] whether the target is listed."""
    reachable: BoolArray
    """[cases] whether the target could be listed at all."""
    rare: BoolArray
    """[cases] whether the target is rare (`cases.is_rare`)."""


def outcome_of(
    model: Recommender,
    users: UserCases,
    following: NextCases,
    catalogue: Catalogue,
    k: int,
    rare_clicks: int,
) -> ModelOutcome:
    """Puts all cases to a model."""
    recommended = model.for_users(users, k)
    return ModelOutcome(
        users=users,
        following=following,
        catalogue=catalogue,
        k=k,
        recommended=recommended,
        user_hits=user_hits(recommended, users),
        next_hits=next_hits(model, following, k),
        reachable=model.reachable(following),
        rare=is_rare(following, catalogue, rare_clicks),
    )


def user_hits(recommended: Int32Array, cases: UserCases) -> Int64Array:
    """[users] |P_u and G_u|."""
    # NONE gives the key -1, which no pair of the truth has.
    pairs = pair_keys(np.arange(cases.users)[:, None], recommended)  # [users, k]
    hits: Int64Array = np.isin(pairs, cases.truth).sum(axis=1)
    return hits


def next_hits(model: Recommender, cases: NextCases, k: int) -> BoolArray:
    """[cases] whether the target is among the k items that the model lists for the case.

    In blocks: the lists of all cases together would take k times the memory of the cases.
    """
    hits = np.zeros(len(cases), bool)
    for block in in_blocks(len(cases), CASES, "next items"):
        part = cases.part(block)
        listed = model.for_next(part, k)  # [cases of the block, k]
        hits[block] = (listed == part.target[:, None]).any(axis=1)
    return hits
