"""Writes a project's vectors, with raw ids, from a checkpoint: `python jobs/export.py CONFIG.toml
[--checkpoint best]`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from pipeline.config import Section
from pipeline.contracts.sealed import ManifestError
from trainer.checkpoints.files import CheckpointError
from trainer.export import export
from trainer.training import CHECKPOINTS

JOB = "export.py"


class Options(Section):
    """Writes the vectors of a checkpoint that train.py made: input and output of every view, and
    each relation's space."""

    checkpoint: Literal["newest", "best"] = "newest"
    """best: the one with the highest HitRate on the validation users, by `train.best_by`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    with failing_clearly(JOB, project.paths.embeddings, ManifestError, CheckpointError):
        run(project, options)


def run(project: Project, options: Options) -> Path:
    """Exports, and returns the folder of the vectors. Raises ManifestError or CheckpointError
    naming what is absent or damaged."""
    paths = project.paths
    checkpoints = paths.model / CHECKPOINTS
    export(paths.shards, checkpoints, paths.embeddings, options.checkpoint)
    return paths.embeddings


if __name__ == "__main__":
    main()
