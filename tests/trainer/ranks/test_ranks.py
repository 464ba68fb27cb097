"""The number of ranks changes nothing but who computes: real horovodruns of 1, 2 and 4 ranks, and
broken ones that the same check finds."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from jobs.common.config import DEFAULT, load
from jobs.launching.statuses import LOST, STOPPED_STATUS
from tests.trainer import driver
from tests.trainer.heldout import random_sessions, write_heldout
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files
from trainer.export import export

# A fixture trains all cases, on a machine that may do other things too.
pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-5
LAUNCH_SECONDS = 600
"""Of a launch; generous, for machines that do other things too."""
LEVELS = {"shared": 3, "alltoall": 5}
"""Exchange -> collective operations of a step: pairs, gradients, dense; with alltoall, input-dist
and output-dist too."""

SMALL = {
    "dimension": 8,
    "batch_pairs": 300,
    "epochs": 1,
    "lanes": 6,
    "chunk": 16,
    "chunk_negatives": 8,
    "shuffle_rows": 5,
    "log_steps": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "fast, adagrad, clipped": {**SMALL, "clip_norm": 0.05},
    "fast, adam, clipped, pairs": {
        **SMALL,
        "optimiser": "adam",
        "learning_rate": 0.01,
        "clip_norm": 1.0,
        "encoding": "pairs",
        "weight_decay": 0.01,
        "max_norm": 0.1,
    },
    "exact, adam, clipped": {
        **SMALL,
        "step": "exact",
        "optimiser": "adam",
        "learning_rate": 0.01,
        "clip_norm": 0.05,
        "batch_pairs": 600,
    },
    # Adagrad's first step has the length of the rate however small the gradient: rounding in sums
    # that nearly cancel grows with the rate.
    "exact, adagrad, repeating": {
        **SMALL,
        "step": "exact",
        "mixing": "repeat",
        "batch_pairs": 600,
        "learning_rate": 0.02,
    },
}
CLIPPED = "fast, adagrad, clipped"
TWO_EPOCHS = {**CASES[CLIPPED], "epochs": 2}
LONG = "200 steps"
CASES[LONG] = {**CASES[CLIPPED], "epochs": 15}
AT_RANKS = {2: list(CASES), 4: [name for name in CASES if name != LONG]}
"""Ranks -> the cases that they train; check_ranks.py trains the long one on four."""
CHAIN = (1, 2, 4, 3)
"""Ranks that take up a training from each other, an epoch each."""
FAULTS = [
    f"{fault}, {level}" for fault in ("drop gradients", "apply one by one") for level in LEVELS
]


def horovodrun(ranks: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = Path(sys.executable).with_name("horovodrun")
    if not launcher.exists():
        pytest.skip("horovodrun is not installed: run the set-up")
    command = [launcher, "-np", str(ranks), "--gloo", sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LAUNCH_SECONDS, check=False
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "shards"
    write_corpus(folder)
    return folder


def write_corpus(folder: Path) -> None:
    write_shards(folder, random_corpus(), config_hash=load([DEFAULT]).pipeline_hash)


def train_cases(shards: Path, output: Path, ranks: int, cases: dict[str, dict[str, Any]]) -> None:
    """Trains every case into a folder of its name under `output`, in one launch."""
    output.mkdir(exist_ok=True)
    listed = output / "cases.json"
    listed.write_text(json.dumps(cases), encoding="utf-8")
    done = horovodrun(ranks, "-m", "tests.trainer.driver", shards, output, listed)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(shards: Path) -> dict[int, Path]:
    """Output folder of each number of ranks: one launch each, whatever is trained."""
    output = {ranks: shards.parent / f"{ranks}" for ranks in CHAIN}
    free = {"train": {**CASES[CLIPPED], "clip_norm": None}}
    held_out = shards.parent / "heldout"
    write_heldout(held_out, random_sessions([f"item-{row}" for row in range(60)]))
    measured = {
        f"measured, {level}": {"train": {**TWO_EPOCHS, "exchange": level}, "heldout": str(held_out)}
        for level in LEVELS
    }
    whole = {"whole": {**chained(len(CHAIN)), "resume": False}, "chain": chained(1)}
    train_cases(
        shards,
        output[1],
        1,
        {name: {"train": train} for name, train in CASES.items()}
        | {"free": free, **measured, **whole},
    )
    faults = {
        fault: {"train": {**CASES[CLIPPED], "exchange": fault.split(", ")[1]}, "fault": fault}
        for fault in FAULTS
    }
    shutil.copytree(output[1] / "chain", output[2] / "chain")
    train_cases(
        shards, output[2], 2, {**at_levels(AT_RANKS[2]), **measured, **faults, "chain": chained(2)}
    )
    shutil.copytree(output[2] / "chain", output[4] / "chain")
    train_cases(shards, output[4], 4, {**at_levels(AT_RANKS[4]), **measured, "chain": chained(3)})
    shutil.copytree(output[4] / "chain", output[3] / "chain")
    train_cases(shards, output[3], 3, {"chain": chained(4)})
    return output


def at_levels(names: list[str]) -> dict[str, dict[str, Any]]:
    """Each case over each exchange."""
    return {
        f"{name}, {level}": {"train": {**CASES[name], "exchange": level}}
        for name in names
        for level in LEVELS
    }


def chained(epochs: int) -> dict[str, Any]:
    """Up to the end of an epoch, from where the training stands."""
    return {"train": {**CASES[CLIPPED], "epochs": epochs}, "resume": epochs > 1}


def records(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (output / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def vectors(shards: Path, output: Path) -> dict[str, np.ndarray]:
    """Every exported table."""
    export(shards, output / "checkpoints", output / "embeddings")
    paths = sorted((output / "embeddings").glob("*.parquet"))
    return {path.stem: np.array(pq.read_table(path).column("vector").to_pylist()) for path in paths}


def differences(shards: Path, one: Path, other: Path) -> list[str]:
    """What differs between two runs by more than the tolerance: losses of any step, any exported
    table."""
    found = []
    for left, right in zip(records(one), records(other), strict=True):
        for kind in ("losses", "sigma2", "pairs"):
            if not np.allclose(
                _values(left, kind), _values(right, kind), rtol=TOLERANCE, atol=0, equal_nan=True
            ):
                found.append(f"{kind} of step {left['step']}")
    left_tables, right_tables = vectors(shards, one), vectors(shards, other)
    assert left_tables.keys() == right_tables.keys()
    return found + [
        name
        for name, table in left_tables.items()
        if not np.allclose(table, right_tables[name], rtol=0, atol=TOLERANCE)
    ]


def _values(record: dict[str, Any], kind: str) -> np.ndarray:
    """By task; nan for a task without pairs in the step."""
    return np.array(list(record.get(kind, {}).values()), dtype=float)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("ranks", "name"), [(ranks, name) for ranks, names in AT_RANKS.items() for name in names]
)
def test_losses_and_tables_are_those_of_one_rank(
    shards: Path, trained: dict[int, Path], ranks: int, level: str, name: str
) -> None:
    check_equal(shards, name, trained[1] / name, trained[ranks] / f"{name}, {level}")


def check_equal(shards: Path, name: str, one: Path, other: Path) -> None:
    """Two trainings of a case agree, and both have learned."""
    assert set(records(one)[0]["losses"]) == {
        "item",
        "category",
        "shop",
        "item_category",
        "item_shop",
    }
    assert len(records(one)) > (200 if name == LONG else 5)
    assert differences(shards, one, other) == []
    moved = vectors(shards, other)
    assert moved.keys() == {
        *("item", "category", "shop", "item.context", "category.context", "shop.context"),
        *("item_category.item", "item_category.category", "item_shop.item", "item_shop.shop"),
    }
    # Context vectors start at 0: the comparison is not one of start values.
    assert (
        min(np.abs(moved[f"{view}.context"]).max() for view in ("item", "category", "shop"))
        > 100 * TOLERANCE
    )


def test_the_clipped_case_is_clipped(shards: Path, trained: dict[int, Path]) -> None:
    """Else its agreement would say nothing about the norm over all ranks."""
    assert differences(shards, trained[1] / CLIPPED, trained[1] / "free")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_exchange_is_found(shards: Path, trained: dict[int, Path], fault: str) -> None:
    assert len(differences(shards, trained[1] / CLIPPED, trained[2] / fault)) > 5


def test_all_tasks_share_one_exchange_a_step(trained: dict[int, Path]) -> None:
    for ranks, names in AT_RANKS.items():
        for name in names:
            for level, calls in LEVELS.items():
                counted = json.loads(
                    (trained[ranks] / f"{name}, {level}" / "calls.json").read_text(encoding="utf-8")
                )
                assert set(counted) == {calls}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_hit_rates_are_those_of_one_rank(trained: dict[int, Path], ranks: int, level: str) -> None:
    """But for a case or two: rows differ by rounding."""
    one, other = (
        [
            record
            for record in records(trained[number] / f"measured, {level}")
            if "hit_rate" in record
        ]
        for number in (1, ranks)
    )
    assert [record["step"] for record in one] == [record["step"] for record in other]
    assert len(one) == 2
    for left, right in zip(one, other, strict=True):
        assert left["cases"] == right["cases"] > 50
        assert right["hit_rate"] == pytest.approx(left["hit_rate"], abs=2.5 / left["cases"])
        assert 0 < min(left["hit_rate"].values()) < 1


def test_a_training_goes_on_at_other_numbers_of_ranks(
    shards: Path, trained: dict[int, Path]
) -> None:
    assert differences(shards, trained[1] / "whole", trained[CHAIN[-1]] / "chain") == []
    ranks = [
        files.read_checkpoint_manifest(folder).ranks
        for folder in files.whole_checkpoints(trained[CHAIN[-1]] / "chain" / "checkpoints")
    ]
    assert ranks == list(CHAIN[-2:])


BREAK = """
import sys
import trainer.ranks.comm
import trainer.ranks.processes
from jobs.train import main
from tests.trainer.driver import break_rank
trainer.ranks.comm.PATIENCE_SECONDS = float(sys.argv[1])
trainer.ranks.processes.STOPPED_SECONDS = 2.0
break_rank(sys.argv[2])
main(sys.argv[3:])
"""
GONE = r"rank 0 of 2 lost (another rank|rank 1 \(process \d+\)) in the exchange 'pairs'"
STOPPED = r"rank 0 of 2 waits in the exchange 'pairs': rank 1 \(process \d+\) is stopped"
HANGS = r"rank 0 of 2 waited 4.0 s in the exchange 'pairs': another rank hangs"


@pytest.mark.parametrize(
    ("fault", "level", "patience", "message", "named"),
    [
        ("killed", "shared", 60, GONE, "Process name: 1"),
        ("exits", "alltoall", 60, GONE, f"Exit code: {driver.EXIT_STATUS}"),
        ("stops", "shared", 60, STOPPED, "Process name: 1"),
        ("hangs", "shared", 4, HANGS, f"Exit code: {LOST}"),
    ],
)
def test_a_rank_that_dies_or_stops_ends_the_run_with_a_message(
    shards: Path, tmp_path: Path, fault: str, level: str, patience: int, message: str, named: str
) -> None:
    check_end(shards, tmp_path, fault, level, patience, message, named)


def check_end(
    shards: Path, folder: Path, fault: str, level: str, patience: int, message: str, named: str
) -> None:
    """A training of which rank 1 is broken ends, and says why."""
    options = ("--train.batch-pairs", "300", "--train.exchange", level)
    done = horovodrun(2, "-c", BREAK, str(patience), fault, project_of(shards, folder), *options)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert re.search(message, output), output
    assert "--resume" in output
    assert named in output


def project_of(shards: Path, folder: Path) -> Path:
    """The configuration file of a project in `folder` with these shards."""
    project = folder / "project.toml"
    text = (ROOT / "jobs" / "configs" / "completejourney.toml").read_text(encoding="utf-8")
    project.write_text(f"output = '{folder}'\n{text}", encoding="utf-8")
    (folder / "completejourney").mkdir()
    (folder / "completejourney" / "shards").symlink_to(shards)
    return project


LIMITED = """
import sys
import trainer.ranks.comm
from jobs.train import main
trainer.ranks.comm.MOST_VALUES = int(sys.argv[1])
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("limit", "refused"),
    [(2000, r"rows of \[64\] in one exchange are more than 2000 values"), (10**6, None)],
)
def test_more_values_than_an_exchange_counts_are_refused(
    shards: Path, tmp_path: Path, limit: int, refused: str | None
) -> None:
    """Else Horovod would count on from below 0."""
    options = ("--train.batch-pairs", "3000", "--train.exchange", "alltoall", "--train.epochs", "1")
    done = horovodrun(2, "-c", LIMITED, str(limit), project_of(shards, tmp_path), *options)
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == (refused is not None), output
    assert refused is None or re.search(refused, output), output


def test_a_rank_that_is_told_to_stop_stops_all_after_the_same_step(
    shards: Path, tmp_path: Path
) -> None:
    """As a scheduler does that takes a machine back; what was learned is saved."""
    project, launcher = project_of(shards, tmp_path), Path(sys.executable).with_name("horovodrun")
    options = ("--train.batch-pairs", "300", "--train.epochs", "100000")
    command = [launcher, "-np", "2", "--gloo", sys.executable, "jobs/train.py", project, *options]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "steps 0 to" in line:
                break
        _, last = sorted(ranks_of(run), key=lambda process: int(process.environ()["HOROVOD_RANK"]))
        last.terminate()
        output = run.stdout.read()
    assert run.returncode != 0
    told = re.search(r"stopped after step (\d+) of \d+, which is saved", output)
    assert told, output
    assert f"Exit code: {STOPPED_STATUS}" in output
    saved = files.newest_checkpoint(tmp_path / "completejourney" / "model" / "checkpoints")
    assert files.verified_manifest(saved).step == int(told[1])


def ranks_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a horovodrun that train."""
    below = psutil.Process(launcher.pid).children(recursive=True)
    return [
        process
        for process in below
        if "HOROVOD_RANK" in process.environ() and process.name().startswith("python")
    ]
