"""How much of what is recommended are bestsellers."""

import math
from dataclasses import dataclass

import numpy as np

from jobs.evaluation.metrics.metric import share
from jobs.evaluation.outcome import ModelOutcome
from jobs.similarity.maps import NONE


@dataclass(frozen=True)
class TopShare:
    """Share of all recommendations that go to the most clicked items of the vocabulary: those with
    the highest counts, ties by row, rounded up."""

    name: str
    of: float
    """Share of the vocabulary that is the most clicked."""

    def value(self, outcome: ModelOutcome) -> float | None:
        """None where nothing is recommended."""
        vocabulary = outcome.catalogue.vocabulary
        by_count = np.argsort(-outcome.catalogue.counts[:vocabulary], kind="stable")
        most_clicked = by_count[: math.ceil(self.of * vocabulary)]
        recommended = outcome.recommended[outcome.recommended != NONE]
        return share(np.isin(recommended, most_clicked))
