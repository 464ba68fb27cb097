"""The files that the report reads, checked before anything is drawn."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.common.config import Project
from jobs.common.evaluate import Evaluate
from jobs.similarity.catalogue import Catalogue, read_vocabulary
from pipeline.contracts.shards import MANIFEST, SET_OF_SHARDS, Manifest, read_manifest
from pipeline.storage.files import sha256
from pipeline.storage.locations import Location

TRAINING = "train.jsonl"
TRAIN, TEST, UNUSED = "train", "test", "unused"
"""Parts of the split, as pipeline/clicks/split.py names them (which needs Spark)."""


class ReportError(Exception):
    """A file that the report needs is absent or of another run; the message names it and the
    command that writes it."""


class Record(BaseModel):
    """Base of what is read. Keys that the report does not use are left alone."""

    model_config = ConfigDict(frozen=True)


class Funnel(Record):
    """How many rows each rule of the cleaning took."""

    raw_rows: int = Field(alias="raw rows")
    rejected: dict[str, int]
    dropped: dict[str, int]
    clicks: int
    known_stay: int = Field(alias="events with a known stay")
    flaws: dict[str, int] = Field(default_factory=dict)
    """Events that lost a field which could not be."""
    app_events: int = Field(default=0, alias="app events")
    """Events that tell of the app's opening or closing."""
    item_tables: dict[str, dict[str, int]] = Field(default_factory=dict, alias="item tables")
    """Table -> its rows, and those of them that say nothing, by reason."""
    items: dict[str, int] = Field(default_factory=dict)
    """How far the item tables know the items that are clicked."""


class Part(Record):
    """One part of the split."""

    clicks: int
    users: int
    sessions: int
    first: str
    last: str


class Weighted(Record):
    """Edges or links."""

    distinct: int
    weight: int


class Sequences(Record):
    """What became of the training clicks in a view."""

    without: int = Field(alias="without a value")
    rare: int = Field(alias="below minimum_count")
    beyond_top: int = Field(alias="beyond top")
    known: int = Field(alias="in vocabulary")
    repeated: int = Field(alias="same node as before")
    alone: int = Field(alias="alone in session")
    left: int = Field(alias="in sequences")


class Unusual(Record):
    """A value that stands out in a histogram."""

    value: float
    count: int
    times: float | None
    """How many times as dense its bin is as those beside it; None: they are empty."""


class Histogram(Record):
    """How often values lie in bins (pipeline/figures/histograms.py)."""

    unit: str
    of: str
    count: int
    bins: list[tuple[float, float, int]]
    """From, to, count; without empty bins."""
    unusual: list[Unusual]


class Statistics(Record):
    """statistics.json (pipeline/runs/preprocess.py)."""

    seed: int
    funnel: Funnel
    seconds: dict[str, float]
    nodes: dict[str, int]
    edges: dict[str, Weighted]
    links: dict[str, Weighted]
    pairs: dict[str, int]
    parts: dict[str, Part]
    left_out: dict[str, dict[str, int]] = Field(default_factory=dict, alias="nodes left out")
    """View -> limit -> nodes beyond it."""
    changed: dict[str, int] = Field(default_factory=dict, alias="items whose value changed")
    """View -> items with different values at different times, of which the latest counts."""
    sequences: dict[str, Sequences] | None = None
    histograms: dict[str, Histogram] | None = None
    """None: an older run did not record them."""

    @property
    def train(self) -> Part:
        """The part that was learned from."""
        return self.parts[TRAIN]


class Step(Record):
    """A line of train.jsonl (trainer/monitoring/progress.py): means over the steps since the line
    before, by task."""

    step: int
    epoch: float
    losses: dict[str, float | None]
    sigma2: dict[str, float | None]
    weights: dict[str, float]
    pairs: dict[str, int]
    pairs_per_s: float
    phases: dict[str, float]
    wait_exchange: float

    @property
    def seconds(self) -> float:
        """How long the steps took."""
        return sum(self.pairs.values()) / self.pairs_per_s if self.pairs_per_s else 0.0


class Validation(Record):
    """A line of train.jsonl: what HitRates on the validation users were measured meanwhile."""

    step: int
    hit_rate: dict[str, float]
    k: int
    cases: int


class End(Record):
    """The last line of train.jsonl."""

    done: bool
    length_count_correlation: float | None
    config: dict[str, Any]
    """[train] as it was."""
    seed: int
    ranks: int


@dataclass(frozen=True)
class Training:
    """train.jsonl."""

    steps: list[Step]
    """At least one."""
    end: End | None
    """None where the training has not come to its end."""
    validations: list[Validation] = field(default_factory=list)

    @property
    def last(self) -> Step:
        """The newest line."""
        return self.steps[-1]

    @property
    def seconds(self) -> float:
        """Training time, without start-up and checkpoints between the lines."""
        return sum(step.seconds for step in self.steps)

    @property
    def pairs(self) -> int:
        """Positive pairs of all tasks."""
        return sum(sum(step.pairs.values()) for step in self.steps)


class Figure(Record):
    """A share of 1, or a difference of two, with its 95 % interval. None: no case defines it, or no
    sample was drawn."""

    value: float | None
    low: float | None
    high: float | None


class Model(Record):
    """What the evaluation found for one model (jobs/evaluation/measures.py)."""

    hit_rate: Figure
    recall: Figure
    precision: Figure
    f1: Figure
    next_all: Figure
    next_rare: Figure
    ceiling: float | None
    coverage: float | None
    top1_share: float | None
    seconds: float
    difference: dict[str, dict[str, Figure]]


class Cases(Record):
    """How many cases the models were put to."""

    users: int
    next: int
    next_rare: int
    next_never_seen: int
    left_out: int = 0
    """Users who are for validation."""


class Evaluation(Record):
    """evaluation.json (jobs/evaluate.py)."""

    k: int
    cases: Cases
    models: dict[str, Model]
    config: Evaluate
    inputs: dict[str, str]


class Export(Record):
    """manifest.json of the vectors (trainer/export.py)."""

    step: int
    dimension: int
    run: dict[str, str]
    """What the vectors were trained with."""


@dataclass(frozen=True)
class Inputs:
    """All that the page tells, but for the neighbours."""

    project: Project
    statistics: Statistics
    manifest: Manifest
    catalogue: Catalogue
    training: Training | None
    export: Export | None
    """None, like `training`: the page is of the data alone."""
    evaluation: Evaluation | None
    """None where nothing was held out."""


def read_inputs(project: Project, data_alone: bool = False) -> Inputs:
    """Reads a project's files. Raises ReportError or ManifestError naming the file and the command
    that writes it."""
    paths = project.paths
    manifest = read_manifest(paths.shards)
    statistics = _read(Statistics, paths.statistics, "preprocess")
    if data_alone:
        return Inputs(
            project, statistics, manifest, read_vocabulary(paths.shards), None, None, None
        )
    training = read_training(paths.model / TRAINING)
    export = read_export(paths.embeddings, paths.shards)
    evaluation = read_evaluation(project) if TEST in statistics.parts else None
    return Inputs(
        project, statistics, manifest, read_vocabulary(paths.shards), training, export, evaluation
    )


def read_training(path: Path) -> Training:
    """The records of a training; a last line that a crash cut short is left out. Raises
    ReportError."""
    lines = _text(path, "train").splitlines(keepends=True)
    records = [(number, line) for number, line in enumerate(lines, 1) if line.endswith("\n")]
    steps: list[Step] = []
    validations: list[Validation] = []
    end = None
    for number, line in records:
        try:
            record = json.loads(line)
            if "done" in record:
                end = End.model_validate(record)
            elif "hit_rate" in record:
                validations.append(Validation.model_validate(record))
            else:
                steps.append(Step.model_validate(record))
        except (json.JSONDecodeError, TypeError, ValidationError) as error:
            raise ReportError(
                f"{path}, line {number} is no record of a training ({_short(error)}); run "
                "jobs/train.py again"
            ) from None
    if not steps:
        raise ReportError(f"{path} holds no record yet; let jobs/train.py come to its end")
    return Training(steps, end, validations)


def read_export(embeddings: Path, shards: Location) -> Export:
    """The record of the vectors. Raises ReportError, also where they were trained on other shards
    than lie there now."""
    export = _read(Export, embeddings / MANIFEST, "export")
    if export.run.get(SET_OF_SHARDS) != sha256(shards / MANIFEST):
        again = "run jobs/train.py and jobs/export.py again"
        raise ReportError(
            f"{embeddings} holds vectors that were trained on other shards than {shards} holds "
            f"now; {again}"
        )
    return export


def read_evaluation(project: Project) -> Evaluation:
    """The figures on the held-out part. Raises ReportError, also where they judge other files than
    lie there now."""
    paths = project.paths
    found = _read(Evaluation, paths.evaluation, "evaluate")
    folders: dict[str, Location] = {
        "shards": paths.shards,
        "embeddings": paths.embeddings,
        "heldout": paths.heldout,
    }
    for name, folder in folders.items():
        path = folder / MANIFEST
        if not path.exists() or sha256(path) != found.inputs.get(name):
            raise ReportError(
                f"{paths.evaluation} judges another {folder} than lies there now; run "
                "jobs/evaluate.py again"
            )
    return found


R = TypeVar("R", bound=Record)


def _read(kind: type[R], path: Location, job: str) -> R:
    text = _text(path, job)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ReportError(
            f"{path} is not what jobs/{job}.py writes ({_short(error)}); run jobs/{job}.py again"
        ) from None


def _text(path: Location, job: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{path} is not there; run jobs/{job}.py") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} cannot be read ({error}); run jobs/{job}.py again") from None


def _short(error: Exception) -> str:
    """The first mistake, on one line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return str(error)
