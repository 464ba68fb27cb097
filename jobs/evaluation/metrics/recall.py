"""Recall@K of the user protocol."""

from dataclasses import dataclass

from jobs.common.arrays import Float64Array
from jobs.evaluation.metrics.metric import Sums, Terms, Unit, number_of_users
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class Recall:
    """Average over users of |P_u and G_u| / |G_u|."""

    name: str = "recall"
    unit: Unit = "user"

    def terms(self, outcome: ModelOutcome) -> Terms:
        """Each user's recall."""
        recalls = outcome.user_hits / outcome.users.truth_sizes()
        return number_of_users(outcome) | {"recall": recalls}

    def figure(self, sums: Sums) -> Float64Array:
        """The average."""
        return sums["recall"] / sums["users"]
