"""The files that the report reads, checked before anything is drawn."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from jobs.common.config import Project
from jobs.similarity.catalogue import Catalogue, read_vocabulary
from pipeline.contracts.scores import Evaluation
from pipeline.contracts.sealed import MANIFEST
from pipeline.contracts.shards import SET_OF_SHARDS, Manifest
from pipeline.contracts.statistics import TEST, Statistics
from pipeline.contracts.training import RECORDS, EndRecord, StepRecord, ValidationRecord, parse_line
from pipeline.contracts.vectors import VectorsManifest
from pipeline.storage.files import sha256
from pipeline.storage.locations import Location


class ReportError(Exception):
    """A file that the report needs is absent or of another run; the message names it and the
    command that writes it."""


@dataclass(frozen=True)
class Training:
    """train.jsonl."""

    steps: list[StepRecord]
    """At least one."""
    end: EndRecord | None
    """None where the training has not come to its end."""
    validations: list[ValidationRecord] = field(default_factory=list)

    @property
    def last(self) -> StepRecord:
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


@dataclass(frozen=True)
class Inputs:
    """All that the page tells, but for the neighbours."""

    project: Project
    statistics: Statistics
    manifest: Manifest
    catalogue: Catalogue
    training: Training | None
    export: VectorsManifest | None
    """None, like `training`: the page is of the data alone."""
    evaluation: Evaluation | None
    """None where nothing was held out."""


def read_inputs(project: Project, data_alone: bool = False) -> Inputs:
    """Reads a project's files. Raises ReportError or ManifestError naming the file and the command
    that writes it."""
    paths = project.paths
    manifest = Manifest.read(paths.shards)
    statistics = _read(Statistics, paths.statistics, "preprocess")
    if data_alone:
        return Inputs(
            project, statistics, manifest, read_vocabulary(paths.shards), None, None, None
        )
    training = read_training(paths.model / RECORDS)
    export = read_export_record(paths.embeddings, paths.shards)
    evaluation = read_evaluation(project) if TEST in statistics.parts else None
    return Inputs(
        project, statistics, manifest, read_vocabulary(paths.shards), training, export, evaluation
    )


def read_training(path: Path) -> Training:
    """The records of a training; a last line that a crash cut short is left out. Raises
    ReportError."""
    lines = _text(path, "train").splitlines(keepends=True)
    records = [(number, line) for number, line in enumerate(lines, 1) if line.endswith("\n")]
    steps: list[StepRecord] = []
    validations: list[ValidationRecord] = []
    end = None
    for number, line in records:
        try:
            record = parse_line(line)
        except (json.JSONDecodeError, TypeError, ValidationError) as error:
            raise ReportError(
                f"{path}, line {number} is no record of a training ({_short(error)}); run "
                "jobs/train.py again"
            ) from None
        match record:
            case EndRecord():
                end = record
            case ValidationRecord():
                validations.append(record)
            case StepRecord():
                steps.append(record)
    if not steps:
        raise ReportError(f"{path} holds no record yet; let jobs/train.py come to its end")
    return Training(steps, end, validations)


def read_export_record(embeddings: Path, shards: Location) -> VectorsManifest:
    """The record of the vectors. Raises ReportError, also where they were trained on other shards
    than lie there now."""
    export = _read(VectorsManifest, embeddings / MANIFEST, "export")
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


R = TypeVar("R", bound=BaseModel)


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
