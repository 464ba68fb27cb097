"""Jobs whose disk takes no more: one message, status 1, and what was whole before still is.

The limit on the size of a file is the kernel's: a write beyond it fails with EFBIG, as one to a
full disk fails with ENOSPC.
"""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import evaluate, export, similar, train
from jobs.common.config import DEFAULT, load
from jobs.common.failures import failing_clearly
from tests.jobs import evaluation_toy as toy
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files
from trainer.training import CHECKPOINTS

LIMITED = """
import resource, runpy, sys
hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), hard_limit))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SETTINGS = ["--train.dimension", "64", "--train.batch-pairs", "1000", "--train.epochs", "2"]


def limited(script: str | None, largest: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a job that can write no file above `largest` bytes."""
    assert script
    command = [sys.executable, "-B", "-c", LIMITED, str(largest), script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def one_message(done: subprocess.CompletedProcess[str], job: str) -> str:
    assert done.returncode == 1, done.stderr
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"{job}: ")
    return message


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the default project after two epochs of training: a checkpoint each."""
    root = tmp_path_factory.mktemp("trained") / "completejourney"
    write_shards(root / "shards", random_corpus(), config_hash=load([DEFAULT]).pipeline_hash)
    train.main([str(DEFAULT), "--output", str(root.parent), *SETTINGS])
    return root


def test_training(trained: Path, tmp_path: Path) -> None:
    """The rows of 144 vectors of 64 floats are a file of 36 KiB; the records take less than 20."""
    root = tmp_path / "completejourney"
    shutil.copytree(trained, root)
    first, last = files.whole_checkpoints(root / "model" / CHECKPOINTS)
    shutil.rmtree(last)
    done = limited(
        train.__file__, 20_000, str(DEFAULT), "--output", str(tmp_path), *SETTINGS, "--resume"
    )
    message = one_message(done, "train.py")
    assert str(last / "rows-00000-of-00001.safetensors") in message
    assert "make room, and go on from the last whole checkpoint with --resume" in message
    assert files.newest_checkpoint(root / "model" / CHECKPOINTS) == first
    files.verified_manifest(first)


def test_training_records(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "completejourney"
    shutil.copytree(trained, root)
    (root / "model" / "train.jsonl").unlink()
    shutil.rmtree(files.newest_checkpoint(root / "model" / CHECKPOINTS))
    done = limited(
        train.__file__,
        100,
        str(DEFAULT),
        "--output",
        str(tmp_path),
        *SETTINGS,
        "--resume",
        "--train.log-steps",
        "1",
    )
    message = one_message(done, "train.py")
    assert f"File too large: {root / 'model'}; make room there" in message
    assert "start again with --resume" in message


def test_export(trained: Path) -> None:
    done = limited(export.__file__, 8_000, str(DEFAULT), "--output", str(trained.parent))
    assert f"File too large: {trained / 'embeddings'}; make room there" in one_message(
        done, "export.py"
    )
    assert list((trained / "embeddings").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "output"),
    [(similar.__file__, "similar"), (evaluate.__file__, "evaluation.json")],
    ids=["similar", "evaluate"],
)
def test_similar_and_evaluate(tmp_path: Path, script: str, output: str) -> None:
    config = toy.write_project(tmp_path)
    message = one_message(limited(script, 100, str(config)), Path(script).name)
    assert f"File too large: {tmp_path / 'build/toy' / output}; make room there" in message
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith(".")
    ]


class KnownError(Exception):
    """An error whose message says all."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KnownError("a: b; do c"), "job.py: a: b; do c"),
        (
            PermissionError(errno.EACCES, "no", "x/y"),
            "job.py: Permission denied: x/y; mend the cause and run it again",
        ),
        (
            OSError("Write out of bounds"),
            "job.py: Write out of bounds: out; mend the cause and run it again",
        ),
        (
            pa.ArrowInvalid("not a Parquet file"),
            "job.py: not a Parquet file: out; mend the cause and run it again",
        ),
    ],
)
def test_errors_become_one_message(error: Exception, message: str) -> None:
    with pytest.raises(SystemExit) as ended, failing_clearly("job.py", Path("out"), KnownError):
        raise error
    assert ended.value.code == message


def test_errors_of_what_a_job_runs_on_are_explained() -> None:
    explained = {ZeroDivisionError: "Spark has ended"}
    with (
        pytest.raises(SystemExit) as ended,
        failing_clearly("job.py", Path("out"), explained=lambda error: explained.get(type(error))),
    ):
        raise ZeroDivisionError("traceback")
    assert ended.value.code == "job.py: Spark has ended; mend the cause and run it again"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), failing_clearly("job.py", Path("out"), KnownError):
        raise KeyError("bug")
