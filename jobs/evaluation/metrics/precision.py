"""Precision@K of the user protocol."""

from dataclasses import dataclass

from jobs.common.arrays import Float64Array
from jobs.evaluation.metrics.metric import Sums, Terms, Unit, number_of_users
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class Precision:
    """Average over users of |P_u and G_u| / K, with K also where P_u is shorter."""

    name: str = "precision"
    unit: Unit = "user"

    def terms(self, outcome: ModelOutcome) -> Terms:
        """Each user's precision."""
        return number_of_users(outcome) | {"precision": outcome.user_hits / outcome.k}

    def figure(self, sums: Sums) -> Float64Array:
        """The average."""
        return sums["precision"] / sums["users"]
