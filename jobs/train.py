"""Trains a project's vectors: `horovodrun -np N --gloo python jobs/train.py CONFIG.toml`; without
horovodrun, on one rank."""

import fcntl
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import Field

from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.common.signals import heard
from jobs.launching.statuses import LOST, STOPPED_STATUS
from pipeline.config import PipelineConfig, Section
from pipeline.contracts.sealed import ManifestError
from pipeline.contracts.shards import Manifest
from trainer.checkpoints.files import CheckpointError
from trainer.config import TrainConfigError
from trainer.model import TrainingError
from trainer.monitoring.validation import ValidationSettings
from trainer.ranks import shared_memory
from trainer.ranks.comm import Comm, agree, open_comm
from trainer.ranks.processes import CommError
from trainer.training import StoppedError, train

JOB = "train.py"
TRAINING_LOCK = ".lock"
"""In the folder of the model, held by rank 0 while it trains."""
GRACE_SECONDS = 2.0
"""How long a rank that lost another one lets that one end before it: horovodrun names the process
that ends first."""


class Options(Section):
    """Trains M2GRL on the shards that preprocess.py wrote; start it under `horovodrun -np N --gloo
    python` to train on N ranks."""

    resume: bool = False
    """Go on from the newest whole checkpoint; without it, earlier checkpoints of the project are
    removed."""
    profile: int = Field(default=0, ge=0)
    """Steps of which each rank writes a trace (model/trace): what the time goes to, call by
    call."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done, with LOST or
    STOPPED_STATUS where another start may do."""
    project, options = parse(JOB, Options(), arguments)
    explained = (ManifestError, CheckpointError, TrainConfigError, TrainingError)
    model, again = project.paths.model, "start again with --resume"
    try:
        comm = open_comm(calm=shared_memory.is_likely(project.train))
        with stopped_by_signals() as stop, failing_clearly(JOB, model, *explained, again=again):
            run(project, options, comm, stop)
    except CommError as error:
        sys.stderr.write(f"{JOB}: {error}\n")
        sys.stderr.flush()
        time.sleep(GRACE_SECONDS)
        sys.exit(LOST)
    except StoppedError as error:
        if comm.rank == 0:
            sys.stderr.write(f"{JOB}: {error}\n")
        comm.close()
        sys.exit(STOPPED_STATUS)
    comm.close()


def run(
    project: Project, options: Options, comm: Comm, stop: threading.Event | None = None
) -> Path:
    """Trains, and returns the folder of the checkpoints and train.jsonl. All ranks call it. Once
    `stop` is set on one of them, all save what they have and raise StoppedError.

    Raises ManifestError, CheckpointError, CommError, TrainConfigError or TrainingError too, each
    with a message for the user.
    """
    check_shards(project)
    paths = project.paths
    with alone(paths.model, comm):
        train(
            paths.shards,
            paths.model,
            project.train,
            project.seed,
            comm,
            resume=options.resume,
            stop=stop,
            profile=options.profile,
            validation=validation(project),
        )
    return paths.model


@contextmanager
def alone(folder: Path, comm: Comm) -> Iterator[None]:
    """Within, no other training writes there. All ranks call it. Raises TrainingError, on all of
    them, where one does already.

    The lock is the system's: it is gone with rank 0, however that ends.
    """
    refused = None
    with ExitStack() as held:
        if comm.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / TRAINING_LOCK).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused = (
                    f"another training writes to {folder}; wait for its end, or name another "
                    "folder by `output`"
                )
        agree(comm, refused, TrainingError, "lock")
        yield


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Within, the event is set once this process is told to end, by Ctrl-C, a scheduler or the
    launcher: the run then ends with a checkpoint. Told again, the process ends at once."""
    stop = threading.Event()

    def set_once(number: int) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    with heard(set_once):
        yield stop


def validation(project: Project) -> ValidationSettings | None:
    """What HitRates are measured on; none where nothing is held out for that."""
    settings = project.evaluate
    if project.split.kind == "none" or not settings.validation_users:
        return None
    return ValidationSettings(
        project.paths.heldout,
        settings.validation_users,
        settings.k,
        settings.conditional_exponent,
        settings.cosine_count_exponent,
    )


def check_shards(project: Project) -> None:
    """Raises ManifestError where the shards were made by other settings of the pipeline than the
    project has now."""
    shards = project.paths.shards
    manifest = Manifest.read(shards)
    if manifest.config_hash == project.pipeline_hash:
        return
    now = project.model_dump(mode="json", include=set(PipelineConfig.model_fields))
    then = manifest.config
    changed = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    raise ManifestError(
        f"{shards} were made with other settings than the configuration has now "
        f"({', '.join(changed)}); "
        "run jobs/preprocess.py again, or take the change back"
    )


if __name__ == "__main__":
    main()
