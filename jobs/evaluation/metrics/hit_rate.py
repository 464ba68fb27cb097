"""HitRate@K of the user protocol."""

from dataclasses import dataclass

from jobs.common.arrays import Float64Array
from jobs.evaluation.metrics.metric import Sums, Terms, Unit, number_of_users
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class HitRate:
    """Share of the users for whom P_u and G_u meet."""

    name: str = "hit_rate"
    unit: Unit = "user"

    def terms(self, outcome: ModelOutcome) -> Terms:
        """1 for each user with a hit."""
        return number_of_users(outcome) | {"hits": outcome.user_hits > 0}

    def figure(self, sums: Sums) -> Float64Array:
        """Users with a hit / users."""
        return sums["hits"] / sums["users"]
