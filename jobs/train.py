"""Trains a project's vectors: `horovodrun -np N --gloo python jobs/train.py CONFIG.toml`; without horovodrun, on one rank."""

import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from jobs.config import Project, parse
from jobs.failures import failing_clearly
from pipeline.config import PipelineConfig, Section
from pipeline.manifest import ManifestError, read_manifest
from trainer.checkpoint import CheckpointError
from trainer.comm import open_comm
from trainer.config import TrainConfigError
from trainer.model import TrainingError
from trainer.processes import GO_ON, CommError
from trainer.training import train

JOB = "train.py"
GRACE_SECONDS = 2.0
"""How long a rank that lost another one lets that one end before it: horovodrun names the process that ends first."""


class ToldToEndError(CommError):
    """This rank is to end before the others: it is the one that stood still, or they are ending too."""


class Options(Section):
    """Trains M2GRL on the shards that preprocess.py wrote; start it under `horovodrun -np N --gloo python` to train on N ranks."""

    resume: bool = False
    """Go on from the newest whole checkpoint; without it, earlier checkpoints of the project are removed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    signal.signal(signal.SIGTERM, _told_to_end)
    comm = open_comm(calm=project.train.exchange != "alltoall")
    known = (ManifestError, CheckpointError, TrainConfigError, TrainingError)
    try:
        with failing_clearly(JOB, project.paths.model, *known, again="start again with --resume"):
            check_shards(project)
            train(project.paths.shards, project.paths.model, project.train, project.seed, comm, options.resume)
    except CommError as error:
        sys.stderr.write(f"{JOB}: {error}\n")
        sys.stderr.flush()
        if not isinstance(error, ToldToEndError):
            time.sleep(GRACE_SECONDS)
        sys.exit(1)
    comm.close()


def _told_to_end(*_: object) -> NoReturn:
    raise ToldToEndError(f"told to end, as horovodrun does when another rank has failed, which it then names below. {GO_ON}")


def check_shards(project: Project) -> None:
    """Raises ManifestError where the shards were made by other settings of the pipeline than the project has now."""
    shards = project.paths.shards
    manifest = read_manifest(shards)
    if manifest.config_hash == project.pipeline_hash:
        return
    now, then = project.model_dump(mode="json", include=set(PipelineConfig.model_fields)), manifest.config
    changed = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    raise ManifestError(
        f"{shards} were made with other settings than the configuration has now ({', '.join(changed)}); "
        "run jobs/preprocess.py again, or take the change back"
    )


if __name__ == "__main__":
    main()
