"""jobs/train.py and jobs/export.py: one clear message and exit status 1, or all of their output."""

import json
from pathlib import Path

import pytest

from jobs import export, train
from jobs.config import DEFAULT
from tests.trainer.shards import random_corpus, write_shards

SMALL = ["--train.dimension", "4", "--train.batch-pairs", "1000", "--train.epochs", "2"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of the default project."""
    return tmp_path / "completejourney"


def arguments(root: Path, *more: str) -> list[str]:
    return [str(DEFAULT), "--output", str(root.parent), *more]


def test_training_and_export(root: Path) -> None:
    write_shards(root / "shards", random_corpus())
    train.main(arguments(root, *SMALL))
    records = [json.loads(line) for line in (root / "model" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records[-1]["done"]
    train.main(arguments(root, *SMALL, "--resume"))
    export.main(arguments(root))
    assert (root / "embeddings" / "manifest.json").exists()
    assert (root / "embeddings" / "item.parquet").exists()


def failure(job: str, main: object, given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a job that ends with status 1."""
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main(given)
    # sys.exit prints a text to stderr and ends with 1; with a number, the message is there already.
    message = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert ended.value.code != 0
    assert message.startswith(f"{job}: ")
    assert "Traceback" not in message
    return message


def test_absent_shards(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = failure("train.py", train.main, arguments(root), capsys)
    assert f"{root / 'shards' / 'manifest.json'} is not there" in message
    assert "run jobs/preprocess.py" in message


def test_nothing_to_resume_or_to_export(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(root / "shards", random_corpus())
    for job, main, more in (("train.py", train.main, ["--resume"]), ("export.py", export.main, [])):
        assert "no whole checkpoint under" in failure(job, main, arguments(root, *more), capsys)


def test_weights_that_name_no_task(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(root / "shards", random_corpus())
    message = failure("train.py", train.main, arguments(root, "--train.weighting", "given", "--train.weights", "item", "1"), capsys)
    assert "give each exactly one weight" in message


def test_a_loss_that_is_not_finite(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(root / "shards", random_corpus())
    message = failure("train.py", train.main, arguments(root, *SMALL, "--train.learning-rate", "1e30"), capsys)
    assert "the loss of task 'item' is" in message


@pytest.mark.parametrize("job", [train, export])
def test_help_explains_every_option(job: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job.main(["--help"])  # type: ignore[attr-defined]
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--train.learning-rate" in shown
    assert ("--resume" in shown) == (job is train)
