"""What HitRates measured while training goes on decide: which step is the best, and whether
training ends.

Both follow from the measurements alone, which every checkpoint holds: they are the same on all
ranks, and the same after a resume.
"""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

ScoreName = Literal["cosine", "conditional"]
SCORE_NAMES: tuple[ScoreName, ...] = get_args(ScoreName)


class Validated(BaseModel):
    """A measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: int
    """Steps done before it."""
    hit_rate: dict[ScoreName, float]
    """HitRate@k by each score: a share of 1."""
    k: int
    cases: int


History = tuple[Validated, ...]
"""All measurements of a run, in the order of its steps."""


def best_measurement(history: History, by: ScoreName) -> Validated | None:
    """The measurement with the highest HitRate by a score, of equal ones the first; none where
    nothing was measured."""
    return max(history, key=lambda measured: measured.hit_rate[by], default=None)


def ends(history: History, by: ScoreName, patience: int | None) -> bool:
    """Whether the last `patience` measurements were no better than one before them; never without
    patience."""
    best = best_measurement(history, by)
    if patience is None or best is None:
        return False
    later = sum(measured.step > best.step for measured in history)
    return later >= patience
