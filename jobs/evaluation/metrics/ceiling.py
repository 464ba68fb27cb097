"""The highest HitRate of next items that a model could reach."""

from dataclasses import dataclass

from jobs.evaluation.metrics.metric import share
from jobs.evaluation.outcome import ModelOutcome


@dataclass(frozen=True)
class Ceiling:
    """Share of the next-item cases that the model could hit: it knows the trigger, and could list
    the target."""

    name: str = "ceiling"

    def value(self, outcome: ModelOutcome) -> float | None:
        """None without cases."""
        return share(outcome.reachable)
