"""The contract of evaluation.json: what the evaluation found of every model.

jobs/evaluate.py writes it; the report reads it, and whoever compares runs.
"""

import json
from typing import Any

from pydantic import Field

from pipeline.contracts.sealed import OpenRecord
from pipeline.storage.files import write_text
from pipeline.storage.locations import Location


class Estimate(OpenRecord):
    """A share of 1, or a difference of two, with its 95 % interval.

    None: no case defines it, or no sample was drawn.
    """

    value: float | None
    low: float | None
    high: float | None


class ModelScores(OpenRecord):
    """What was found for one model."""

    hit_rate: Estimate
    recall: Estimate
    precision: Estimate
    f1: Estimate
    next_all: Estimate
    next_rare: Estimate
    ceiling: float | None
    coverage: float | None
    top1_share: float | None
    difference: dict[str, dict[str, Estimate]]
    """Baseline -> figure -> this model's less the baseline's, in pairs of the same users."""
    seconds: float


class CaseCounts(OpenRecord):
    """How many cases the models were put to."""

    users: int
    next: int
    next_rare: int
    next_never_seen: int
    left_out: int = 0
    """Users who are for validation."""


class Evaluation(OpenRecord):
    """All that was judged, and of what."""

    project: str = ""
    seed: int = 0
    code_version: str = ""
    config: dict[str, Any]
    """[evaluate] as it was."""
    config_hash: str = ""
    inputs: dict[str, str]
    """Folder -> checksum of its manifest."""
    given: dict[str, str] = Field(default_factory=dict)
    """Model that the user named -> its path."""
    k: int
    cases: CaseCounts
    models: dict[str, ModelScores]

    def write(self, path: Location) -> None:
        """Writes the file whole. Raises ValueError for a number that is not finite."""
        text = json.dumps(self.model_dump(), indent=2, allow_nan=False)
        write_text(path, text + "\n")
