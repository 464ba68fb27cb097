"""The contract of train.jsonl: how a training went, one JSON object a line.

Rank 0 of the trainer appends the lines; the report reads them. A line is a step's record, a
measurement on the validation users, or, last of all, the end.
"""

import json
from typing import Any

from pydantic import Field

from pipeline.contracts.sealed import OpenRecord

RECORDS = "train.jsonl"
"""Name of the file, under the folder of the model."""


class TrainingLine(OpenRecord):
    """Base of the three kinds of lines."""

    step: int
    """Steps done."""

    def line(self) -> str:
        """The line with its end."""
        return json.dumps(self.model_dump()) + "\n"


class StepRecord(TrainingLine):
    """Means over the steps since the line before, by task."""

    epoch: float
    losses: dict[str, float | None]
    """None: the task had no pairs."""
    sigma2: dict[str, float | None]
    """None: the task's weight is 0."""
    weights: dict[str, float]
    pairs: dict[str, int]
    """Positive pairs, summed."""
    pairs_per_s: float
    phases: dict[str, float]
    """Phase of a step -> its share of the time."""
    wait_exchange: float
    """Share of the time that this rank waited for others."""
    length_count_correlation: float | None = None
    """Spearman's, of the lengths of item vectors with the items' counts."""
    memory_bytes: list[int] = Field(default_factory=list)
    """Resident memory of each rank."""

    @property
    def seconds(self) -> float:
        """How long the steps took."""
        return sum(self.pairs.values()) / self.pairs_per_s if self.pairs_per_s else 0.0


class ValidationRecord(TrainingLine):
    """HitRates on the validation users."""

    epoch: float = 0.0
    hit_rate: dict[str, float]
    """Score -> share of 1."""
    k: int
    cases: int


class EndRecord(TrainingLine):
    """The last line of a training that came to its end."""

    done: bool
    length_count_correlation: float | None
    config: dict[str, Any]
    """[train] as it was."""
    seed: int
    ranks: int
    code_version: str = ""


def parse_line(line: str) -> TrainingLine:
    """The record of a line. Raises JSONDecodeError, TypeError or ValidationError for any other."""
    record = json.loads(line)
    if "done" in record:
        return EndRecord.model_validate(record)
    if "hit_rate" in record:
        return ValidationRecord.model_validate(record)
    return StepRecord.model_validate(record)
