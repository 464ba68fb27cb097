"""Several models put to the same cases."""

import time
from collections.abc import Sequence
from typing import Any

from jobs.common.evaluate import Evaluate
from jobs.evaluation.bootstrap import judge_all, tally
from jobs.evaluation.cases import NextCases, UserCases, is_rare
from jobs.evaluation.models import Models
from jobs.evaluation.outcome import outcome_of
from jobs.similarity.catalogue import Catalogue, EvaluationError


def compare(
    models: Models,
    users: UserCases,
    following: NextCases,
    catalogue: Catalogue,
    settings: Evaluate,
    seed: int,
    against: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Per model its figures (shares of 1) with 95 % intervals, their differences to the models
    named in `against`, and the seconds that it took. For JSON.

    Models are made one after the other, so that one at a time is in memory.
    """
    tallies, seconds = {}, {}
    for name, made in models.items():
        began = time.perf_counter()
        outcome = outcome_of(made(), users, following, catalogue, settings.k, settings.rare_clicks)
        tallies[name] = tally(outcome)
        seconds[name] = time.perf_counter() - began
    present = tuple(name for name in against if name in models)
    records = judge_all(tallies, settings.bootstrap, seed, present)
    return {name: record | {"seconds": seconds[name]} for name, record in records.items()}


def together(own: Models, given: Models) -> Models:
    """All models. Raises EvaluationError where two have one name."""
    if twice := sorted(own.keys() & given.keys()):
        raise EvaluationError(
            f"two models are called {', '.join(twice)}; give each --map and --vectors a name of "
            "its own"
        )
    return own | given


def numbers_of_cases(
    users: UserCases, following: NextCases, left_out: int, catalogue: Catalogue, rare_clicks: int
) -> dict[str, int]:
    """How many cases there are of each kind; `left_out` users are for validation. For JSON."""
    never_seen = catalogue.clicks[following.target] == 0
    return {
        "users": users.users,
        "next": len(following),
        "next_rare": int(is_rare(following, catalogue, rare_clicks).sum()),
        "next_never_seen": int(never_seen.sum()),
        "left_out": left_out,
    }
