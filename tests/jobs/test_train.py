"""jobs/train.py and jobs/export.py: one clear message and exit status 1, or all of their output."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import export, train
from jobs.common.config import DEFAULT, load
from jobs.evaluation.cases import next_cases
from jobs.evaluation.map_recommender import MapRecommender
from jobs.evaluation.outcome import next_hits
from jobs.similarity.catalogue import read_vocabulary, with_held_out
from jobs.similarity.scores import similarity_map
from jobs.similarity.vectors import read_export
from pipeline.config import PipelineConfig
from pipeline.contracts import heldout
from tests.trainer.heldout import random_sessions, write_heldout
from tests.trainer.runs import on_ranks
from tests.trainer.shards import random_corpus, write_shards
from trainer.model import TrainingError
from trainer.ranks.comm import Comm, LocalComm

SMALL = ["--train.dimension", "4", "--train.batch-pairs", "1000", "--train.epochs", "2"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of the default project."""
    return tmp_path / "completejourney"


def arguments(root: Path, *more: str) -> list[str]:
    return [str(DEFAULT), "--output", str(root.parent), *more]


def write(root: Path) -> None:
    """Shards as the default project's pipeline would have written them."""
    write_shards(root / "shards", random_corpus(), config_hash=load([DEFAULT]).pipeline_hash)


def test_training_and_export(root: Path) -> None:
    write(root)
    train.main(arguments(root, *SMALL))
    records = [
        json.loads(line)
        for line in (root / "model" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert records[-1]["done"]
    train.main(arguments(root, *SMALL, "--resume"))
    export.main(arguments(root))
    assert (root / "embeddings" / "manifest.json").exists()
    assert (root / "embeddings" / "item.parquet").exists()


def test_hit_rates_are_those_of_the_evaluation(root: Path) -> None:
    """On the same users: what training measured last is what the evaluation would say of the
    vectors that it led to."""
    write(root)
    write_heldout(
        root / "heldout",
        random_sessions([*(f"item-{row}" for row in range(60)), "unknown"], users=300),
    )
    settings = [
        "--evaluate.k",
        "5",
        "--evaluate.neighbours",
        "20",
        "--evaluate.validation-users",
        "0.3",
    ]
    train.main(arguments(root, *SMALL, *settings))
    export.main(arguments(root))
    records = [
        json.loads(line)
        for line in (root / "model" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    measured = [record for record in records if "hit_rate" in record][-1]
    project = load([DEFAULT])
    evaluation = project.evaluate.model_copy(update={"k": 5, "neighbours": 20})
    catalogue = with_held_out(read_vocabulary(root / "shards"), root / "heldout")
    sessions = pq.read_table(root / "heldout" / heldout.SESSIONS)
    sessions = sessions.filter(
        pa.array(heldout.of_validation(sessions.column("user_id").combine_chunks(), 0.3))
    )
    lists = sessions.column("item_ids").to_pylist()
    after = pd.DataFrame(
        {
            "session": np.repeat(np.arange(len(lists)), [len(items) for items in lists]),
            "item": catalogue.rows(pa.array([item for items in lists for item in items])),
        }
    )
    following = next_cases(after.assign(user=0))
    assert len(following.target) == measured["cases"] > 300
    vectors = read_export(root / "embeddings", root / "shards", catalogue)
    for score, found in measured["hit_rate"].items():
        model = MapRecommender(similarity_map(score, vectors, catalogue, evaluation))
        hits = next_hits(model, following, 5)
        assert found == pytest.approx(hits.mean(), abs=1e-9)
        assert 0 < found < 1


def test_the_best_checkpoint_is_exported(root: Path) -> None:
    write(root)
    write_heldout(
        root / "heldout", random_sessions([f"item-{row}" for row in range(60)], users=300)
    )
    train.main(arguments(root, *SMALL, "--train.epochs", "5"))
    export.main(arguments(root, "--checkpoint", "best"))
    best = json.loads((root / "model" / "checkpoints" / "best.json").read_text(encoding="utf-8"))
    exported = json.loads((root / "embeddings" / "manifest.json").read_text(encoding="utf-8"))
    assert exported["step"] == best["step"]
    assert exported["run"][heldout.VALIDATION_USERS] == "0.1"


def test_nothing_held_out_and_early_stop(root: Path) -> None:
    write(root)
    options = ("--evaluate.validation-users", "0", "--train.early-stop", "2")
    assert "train.early_stop = 2 has nothing to go by" in failure(
        "train.py", train.main, arguments(root, *SMALL, *options)
    )


def failure(job: str, main: object, given: list[str]) -> str:
    """The one message of a job that cannot be done. Python prints it on standard error and ends
    with status 1 (test_absent_shards)."""
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main(given)
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith(f"{job}: ")
    return message


def test_absent_shards(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, train.__file__, *arguments(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith("train.py: ")
    assert f"{root / 'shards' / 'manifest.json'} is not there" in message
    assert "run jobs/preprocess.py" in message


def test_shards_of_other_settings(root: Path) -> None:
    """After an edit of the pipeline's sections; what only the trainer and the evaluation read may
    change."""
    write(root)
    train.main(arguments(root, *SMALL, "--evaluate.k", "5"))
    message = failure(
        "train.py", train.main, arguments(root, *SMALL, "--sessions.maximum-length", "7")
    )
    assert (
        f"{root / 'shards'} were made with other settings than the configuration has now" in message
    )
    assert "run jobs/preprocess.py again" in message


def test_what_differs_is_named(root: Path) -> None:
    project = load([DEFAULT])
    kept = json.loads(project.model_dump_json(include=set(PipelineConfig.model_fields)))
    del kept["sessions"]
    manifest = write_shards(root / "shards", random_corpus())
    manifest.model_copy(update={"config": kept}).write(root / "shards")
    assert "configuration has now (sessions);" in failure("train.py", train.main, arguments(root))


def test_nothing_to_resume_or_to_export(root: Path) -> None:
    write(root)
    for job, main, more in (("train.py", train.main, ["--resume"]), ("export.py", export.main, [])):
        assert "no whole checkpoint under" in failure(job, main, arguments(root, *more))


def test_weights_that_name_no_task(root: Path) -> None:
    write(root)
    message = failure(
        "train.py",
        train.main,
        arguments(root, "--train.weighting", "given", "--train.weights", "item", "1"),
    )
    assert "give each exactly one weight" in message


def test_a_loss_that_is_not_finite(root: Path) -> None:
    write(root)
    message = failure(
        "train.py", train.main, arguments(root, *SMALL, "--train.learning-rate", "1e30")
    )
    assert "the loss of task 'item' is" in message


@pytest.mark.parametrize("job", [train, export])
def test_help_explains_every_option(job: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job.main(["--help"])  # type: ignore[attr-defined]
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--train.learning-rate" in shown
    assert ("--resume" in shown) == (job is train)


@pytest.mark.parametrize(("kernels", "calm"), [("auto", True), ("torch", False)])
def test_horovod_is_calm_only_where_ranks_will_share_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch, kernels: str, calm: bool
) -> None:
    """Ranks that exchange over Horovod after all must not wait for its slow cycle."""
    asked = []

    def opened(calm: bool) -> Comm:
        asked.append(calm)
        return LocalComm()

    monkeypatch.setattr(train, "open_comm", opened)
    with pytest.raises(SystemExit):  # there are no shards
        train.main(arguments(root, "--train.kernels", kernels))
    assert asked == [calm]


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """On all ranks, and the folder is free again afterwards."""

    def refused(comm: Comm) -> str:
        with pytest.raises(TrainingError) as told, train.alone(tmp_path, comm):
            pass
        return str(told.value)

    with train.alone(tmp_path, LocalComm()):
        messages = set(on_ranks(2, refused))
    assert messages == {
        (
            f"another training writes to {tmp_path}; wait for its end, or name another folder by "
            "`output`"
        )
    }
    with train.alone(tmp_path, LocalComm()):
        pass
