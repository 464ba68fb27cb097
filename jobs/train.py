"""Trains a project's vectors: `horovodrun -np N --gloo python jobs/train.py CONFIG.toml`; without horovodrun, on one rank."""

import sys
import time
from collections.abc import Sequence

from jobs.config import parse
from pipeline.config import Section
from pipeline.manifest import ManifestError
from trainer.checkpoint import CheckpointError
from trainer.comm import CommError, open_comm
from trainer.config import TrainConfigError
from trainer.model import TrainingError
from trainer.training import train

JOB = "train.py"
GRACE_SECONDS = 2.0
"""How long a rank that lost another one lets that one end before it: horovodrun names the process that ends first."""


class Options(Section):
    """Trains M2GRL on the shards that preprocess.py wrote; start it under `horovodrun -np N --gloo python` to train on N ranks."""

    resume: bool = False
    """Go on from the newest whole checkpoint; without it, earlier checkpoints of the project are removed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    comm = open_comm()
    try:
        train(project.paths.shards, project.paths.model, project.train, project.seed, comm, options.resume)
    except CommError as error:
        sys.stderr.write(f"{JOB}: {error}\n")
        sys.stderr.flush()
        time.sleep(GRACE_SECONDS)
        sys.exit(1)
    except (ManifestError, CheckpointError, TrainConfigError, TrainingError) as error:
        sys.exit(f"{JOB}: {error}")
    comm.close()


if __name__ == "__main__":
    main()
