"""HitRate@K of the next-item protocol, of all cases or of those with a rare target."""

from dataclasses import dataclass

import numpy as np

from jobs.common.arrays import Float64Array
from jobs.evaluation.metrics.metric import Sums, Terms, Unit
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class NextHitRate:
    """Share of the next-item cases whose target is listed.

    A case weighs the same whoever's it is. Sums go over users all the same, because the clicks of
    one user are no independent cases.
    """

    name: str
    rare_alone: bool
    """Whether only cases with a rare target count."""
    unit: Unit = "clicker"

    def terms(self, outcome: ModelOutcome) -> Terms:
        """Cases and hits of each user with a case, rare or not."""
        hits = outcome.next_hits
        counted = outcome.rare if self.rare_alone else np.ones(len(hits))
        hit = outcome.rare & hits if self.rare_alone else hits
        # [cases] -> [users with a case]
        cases_of = np.bincount(outcome.following.user, counted)
        hits_of = np.bincount(outcome.following.user, hit)
        return {f"{self.name} cases": cases_of, f"{self.name} hits": hits_of}

    def figure(self, sums: Sums) -> Float64Array:
        """Hits / cases."""
        return sums[f"{self.name} hits"] / sums[f"{self.name} cases"]
