"""Writes a project's vectors, with raw ids, from a checkpoint: `python jobs/export.py CONFIG.toml
[--checkpoint best]`."""

from collections.abc import Sequence
from typing import Literal

from jobs.common.config import parse
from jobs.common.failures import failing_clearly
from pipeline.config import Section
from pipeline.contracts.shards import ManifestError
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
        export(
            project.paths.shards,
            project.paths.model / CHECKPOINTS,
            project.paths.embeddings,
            options.checkpoint,
        )


if __name__ == "__main__":
    main()
