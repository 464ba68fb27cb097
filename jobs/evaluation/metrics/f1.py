"""F1@K of the user protocol."""

from dataclasses import dataclass

import numpy as np

from jobs.common.arrays import Float64Array
from jobs.evaluation.metrics.metric import Sums, Terms, Unit
from jobs.evaluation.metrics.precision import Precision
from jobs.evaluation.metrics.recall import Recall
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class F1:
    """Harmonic mean of the average recall and the average precision, not of each user's."""

    name: str = "f1"
    unit: Unit = "user"

    def terms(self, outcome: ModelOutcome) -> Terms:
        """Those of recall and of precision."""
        return Recall().terms(outcome) | Precision().terms(outcome)

    def figure(self, sums: Sums) -> Float64Array:
        """2 recall precision / (recall + precision), 0 where both are."""
        recall, precision = Recall().figure(sums), Precision().figure(sums)
        both = recall + precision
        return np.where(both == 0, 0.0, 2 * recall * precision / both)
