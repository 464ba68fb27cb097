"""How much of the vocabulary is recommended."""

from dataclasses import dataclass

import numpy as np

from jobs.evaluation.metrics.metric import share
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class Coverage:
    """Share of the vocabulary that is recommended to at least one user."""

    name: str = "coverage"

    def value(self, outcome: ModelOutcome) -> float | None:
        """None without users."""
        if not len(outcome.recommended):
            return None
        vocabulary = np.arange(outcome.catalogue.vocabulary)
        return share(np.isin(vocabulary, outcome.recommended))
