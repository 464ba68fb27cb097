"""HitRates measured while training goes on: which cases, by which ranking, and what runs do with
them."""

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.contracts import heldout
from pipeline.contracts.sealed import ManifestError
from pipeline.contracts.shards import Manifest
from tests.trainer.heldout import Sessions, random_sessions, write_heldout
from tests.trainer.runs import SEED, SMALL, build, on_ranks
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files
from trainer.checkpoints.files import BEST, CheckpointError
from trainer.config import Train, TrainConfigError
from trainer.data import order
from trainer.export import export
from trainer.model import M2GRL
from trainer.monitoring import validation
from trainer.monitoring.early_stopping import SCORE_NAMES, ScoreName, Validated
from trainer.monitoring.validation import (
    UNTRAINED,
    NextItemCases,
    NoCasesError,
    ValidationSettings,
    Validator,
    read_next_item_cases,
)
from trainer.ranks.comm import Comm
from trainer.training import CHECKPOINTS, train

ITEMS = [f"item-{row}" for row in range(60)]
USERS = 0.5
K = 5
COUNTS = np.arange(60, dtype=np.int64)[::-1] // 3  # the last three items have no click


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> ValidationSettings:
    folder = tmp_path_factory.mktemp("heldout")
    write_heldout(folder, random_sessions([*ITEMS, "unknown"]))
    return of_folder(folder)


def of_folder(folder: Path, **other: float) -> ValidationSettings:
    exponents = {"conditional_exponent": 0.75, "cosine_count_exponent": 0.0, **other}
    return ValidationSettings(folder, USERS, K, **exponents)


# Which cases


def read(shards: Path, held_out: ValidationSettings, most: int) -> NextItemCases:
    return read_next_item_cases(held_out, most, shards, Manifest.read(shards), COUNTS)


def pairs(cases: NextItemCases) -> list[tuple[int, int]]:
    return list(zip(cases.trigger.tolist(), cases.target.tolist(), strict=True))


def slow_cases(sessions: Sessions) -> list[tuple[int, int]]:
    """Every case of a validation user, by rows."""
    rows = {item: row for row, item in enumerate(ITEMS) if COUNTS[row]}
    found = []
    for user, items in sessions:
        if heldout.of_validation(pa.array([user]), USERS)[0]:
            kept = [item for at, item in enumerate(items) if at == 0 or items[at - 1] != item]
            found += [
                (rows.get(one, UNTRAINED), rows.get(next_one, UNTRAINED))
                for one, next_one in itertools.pairwise(kept)
            ]
    return found


def test_the_cases_are_those_of_the_validation_users_alone(
    shards: Path, held_out: ValidationSettings
) -> None:
    expected = slow_cases(random_sessions([*ITEMS, "unknown"]))
    assert sorted(pairs(read(shards, held_out, 10**6))) == sorted(expected)
    assert any(UNTRAINED in case for case in expected)
    assert 50 < len(expected) < len(random_sessions(ITEMS)) * 3  # of about three a session


def test_a_sample_is_fixed_whatever_the_files_are_like(
    shards: Path, held_out: ValidationSettings, tmp_path: Path
) -> None:
    all_cases, few = pairs(read(shards, held_out, 10**6)), pairs(read(shards, held_out, 20))
    assert len(few) == 20
    assert few == all_cases[:20]
    write_heldout(tmp_path, random_sessions([*ITEMS, "unknown"]), row_group=1000)
    assert pairs(read(shards, of_folder(tmp_path), 20)) == few
    assert few != slow_cases(random_sessions([*ITEMS, "unknown"]))[:20]


# By which ranking


def fill(model: M2GRL, inputs: np.ndarray, outputs: np.ndarray) -> None:
    """Gives the items these vectors, on whichever rank."""
    for side, vectors in (("input", inputs), ("output", outputs)):
        table = model.tables.keys.table("item", side)  # type: ignore[arg-type]
        for local, rows in model.tables.own_rows(table, 10**6):
            model.tables.values[local] = torch.from_numpy(vectors[rows]).float()


def slow_hit_rate(
    score: ScoreName,
    cases: NextItemCases,
    inputs: np.ndarray,
    outputs: np.ndarray,
    asked: ValidationSettings,
) -> float:
    """By the full ranking of every trigger."""

    def value(trigger: int, row: int) -> float:
        if score == "conditional":
            return float(
                np.float32(
                    inputs[trigger] @ outputs[row]
                    + asked.conditional_exponent * np.log(max(COUNTS[row], 1))
                )
            )
        lengths = [
            np.linalg.norm(inputs[item]) / max(COUNTS[item], 1) ** asked.cosine_count_exponent
            for item in (trigger, row)
        ]
        return (
            float(np.float32((inputs[trigger] / lengths[0]) @ (inputs[row] / lengths[1])))
            if all(lengths)
            else np.nan
        )

    hits = 0
    for trigger, target in pairs(cases):
        if UNTRAINED in (trigger, target):
            continue
        scores = {row: value(trigger, row) for row in range(60) if COUNTS[row] and row != trigger}
        ranked = sorted(
            (row for row, found in scores.items() if np.isfinite(found)),
            key=lambda row: (-scores[row], row),
        )
        hits += target in ranked[: asked.k]
    return hits / len(cases.trigger)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("piece", [1, 10**6])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_hit_rates_are_those_of_a_full_ranking(
    shards: Path,
    held_out: ValidationSettings,
    ranks: int,
    piece: int,
    beta: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of vectors with many equal scores, and some that are 0."""
    monkeypatch.setitem(validation.PIECE_SCORES, "cpu", piece)
    random = np.random.default_rng(8)
    inputs, outputs = random.integers(-1, 2, (2, 60, 8)).astype(np.float64)
    inputs[::9], inputs[::7], outputs[::5] = 0, inputs[1], outputs[2]
    asked = of_folder(held_out.folder, cosine_count_exponent=beta)  # type: ignore[arg-type]
    cases = read(shards, asked, 150)

    def measured(comm: Comm) -> Validated:
        model, _ = build(shards, comm)
        fill(model, inputs, outputs)
        return Validator(model, asked, cases, COUNTS).measure(7)

    found = on_ranks(ranks, measured)
    expected: dict[ScoreName, float] = {
        score: slow_hit_rate(score, cases, inputs, outputs, asked) for score in SCORE_NAMES
    }
    assert all(0 < rate < 1 for rate in expected.values())
    assert found == [Validated(step=7, hit_rate=expected, k=K, cases=150)] * ranks


def test_a_target_that_no_score_reaches_is_a_miss(
    shards: Path, held_out: ValidationSettings
) -> None:
    """A vector of 0 has no direction: it is a neighbour of nobody, and has none."""
    model, _ = build(shards)
    fill(model, np.zeros((60, 8)), np.ones((60, 8)))
    measured = Validator(
        model, held_out, NextItemCases(np.array([3, 4]), np.array([0, 1])), COUNTS
    ).measure(1)
    assert measured.hit_rate == {
        "cosine": 0,
        "conditional": 1,
    }  # by counts: 0 and 1 are among the five most frequent


def test_cases_that_are_all_untrained_are_misses(
    shards: Path, held_out: ValidationSettings
) -> None:
    model, _ = build(shards)
    cases = NextItemCases(np.array([UNTRAINED, 2]), np.array([1, UNTRAINED]))
    assert Validator(model, held_out, cases, COUNTS).measure(1).hit_rate == {
        "cosine": 0,
        "conditional": 0,
    }


# What runs do with them

EPOCHS = 6
SETTINGS: dict[str, Any] = {**SMALL, "batch_pairs": 1000, "epochs": EPOCHS, "keep_checkpoints": 1}


def steps_an_epoch(shards: Path) -> int:
    return order.steps_an_epoch(
        Manifest.read(shards).views["item"].streams[0].pairs, SETTINGS["batch_pairs"]
    )


def run(
    shards: Path,
    output: Path,
    asked: ValidationSettings | None,
    ranks: int = 1,
    resume: bool = False,
    **settings: Any,
) -> None:
    config = Train(**{**SETTINGS, **settings})
    on_ranks(
        ranks, lambda comm: train(shards, output, config, SEED, comm, resume, validation=asked)
    )


def records(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (output / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def measurements(output: Path) -> list[dict[str, Any]]:
    return [record for record in records(output) if "hit_rate" in record]


def best(output: Path) -> dict[str, Any]:
    named: dict[str, Any] = json.loads((output / CHECKPOINTS / BEST).read_text(encoding="utf-8"))
    return named


def kept(output: Path) -> list[int]:
    return [
        files.verified_manifest(folder).step
        for folder in files.whole_checkpoints(output / CHECKPOINTS)
    ]


@pytest.fixture
def scripted(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sequence[float]], list[int]]:
    """Lets measurements find these conditional HitRates after epochs 1, 2, ...; returns the steps
    at which rank 0 asks."""

    def script(rates: Sequence[float]) -> list[int]:
        asked: list[int] = []

        def measure(self: Validator, step: int) -> Validated:
            if self._model.comm.rank == 0:
                asked.append(step)
            return Validated(
                step=step,
                hit_rate={"cosine": 0.0, "conditional": rates[step // steps_an_epoch(shards) - 1]},
                k=K,
                cases=9,
            )

        monkeypatch.setattr(Validator, "measure", measure)
        return asked

    return script


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_epoch_is_measured_and_recorded(
    shards: Path, held_out: ValidationSettings, tmp_path: Path, ranks: int
) -> None:
    run(shards, tmp_path, held_out, ranks, log_steps=10**6)
    epoch, found = steps_an_epoch(shards), measurements(tmp_path)
    assert epoch > 1
    assert [record["step"] for record in found] == [
        epoch * number for number in range(1, EPOCHS + 1)
    ]
    assert [record["epoch"] for record in found] == [*range(1, EPOCHS + 1)]
    for record in found:
        assert set(record) == {"step", "epoch", "hit_rate", "k", "cases"}
        assert (set(record["hit_rate"]), record["k"]) == (set(SCORE_NAMES), K)
    assert len({record["hit_rate"]["conditional"] for record in found}) > 1
    last = files.verified_manifest(files.newest_checkpoint(tmp_path / CHECKPOINTS))
    assert [{"epoch": each.step / epoch, **each.model_dump()} for each in last.validated] == found
    assert best(tmp_path)["hit_rate"]["conditional"] == max(
        record["hit_rate"]["conditional"] for record in found
    )
    assert (
        next(record for record in records(tmp_path) if "phases" in record)["phases"]["validate"] > 0
    )


def test_every_second_epoch_and_the_last_are_measured_where_that_is_asked_for(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
) -> None:
    asked = scripted([0.0] * 5)
    run(shards, tmp_path, held_out, validation_epochs=2, epochs=5)
    assert asked == [steps_an_epoch(shards) * number for number in (2, 4, 5)]


def test_validation_changes_nothing_that_is_learned(
    shards: Path, held_out: ValidationSettings, tmp_path: Path
) -> None:
    run(shards, tmp_path / "with", held_out)
    run(shards, tmp_path / "without", None)
    ends = [
        files.verified_manifest(files.newest_checkpoint(tmp_path / name / CHECKPOINTS))
        for name in ("with", "without")
    ]
    assert ends[0].files == ends[1].files
    assert measurements(tmp_path / "without") == []


RATES = [0.1, 0.4, 0.3, 0.2, 0.9, 0.9]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (3, 6), (None, 6)])
def test_training_ends_early_and_keeps_the_best_and_the_newest(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
    ranks: int,
    patience: int | None,
    epochs: int,
) -> None:
    scripted(RATES)
    run(shards, tmp_path, held_out, ranks, early_stop=patience, log_steps=10**6)
    epoch = steps_an_epoch(shards)
    best_epoch = 2 if epochs < 5 else 5
    assert kept(tmp_path) == [epoch * best_epoch, epoch * epochs]
    assert best(tmp_path) == {
        "checkpoint": f"step-{epoch * best_epoch:09d}",
        "by": "conditional",
        "step": epoch * best_epoch,
        "hit_rate": {"cosine": 0.0, "conditional": RATES[best_epoch - 1]},
        "k": K,
        "cases": 9,
    }
    *_, progress, last = records(tmp_path)
    assert (progress["step"], last["step"], last["done"]) == (epoch * epochs, epoch * epochs, True)
    assert progress["losses"]["item"] > 0


def test_a_step_that_is_the_best_so_far_is_saved_between_checkpoints_too(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
) -> None:
    scripted([0.1, 0.4, 0.3, 0.2, 0.2, 0.2])
    run(shards, tmp_path, held_out, checkpoint_epochs=4)
    epoch = steps_an_epoch(shards)
    assert kept(tmp_path) == [2 * epoch, 6 * epoch]
    assert best(tmp_path)["step"] == 2 * epoch


class Killed(BaseException):
    """Stands for kill -9: nothing more is written."""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("epochs", [2.0, 2.5, 3.5])  # the first checkpoint is whole by then
def test_a_run_that_was_killed_ends_at_the_same_step_with_the_same_best(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    epochs: float,
) -> None:
    scripted(RATES)
    run(shards, tmp_path / "whole", held_out, ranks, early_stop=2)
    assert kept(tmp_path / "whole")[-1] == 4 * steps_an_epoch(shards)
    step, at = M2GRL.step, int(epochs * steps_an_epoch(shards))

    def killed(self: M2GRL, works: Any, number: int, *others: Any) -> Any:
        if number == at:
            raise Killed
        return step(self, works, number, *others)

    with monkeypatch.context() as patched:
        patched.setattr(M2GRL, "step", killed)
        with pytest.raises(Killed):
            run(shards, tmp_path / "cut", held_out, ranks, early_stop=2)
    resumed_equals_whole(shards, held_out, tmp_path, ranks)


def resumed_equals_whole(
    shards: Path, held_out: ValidationSettings, folder: Path, ranks: int
) -> None:
    whole, cut = folder / "whole", folder / "cut"
    assert not any("done" in record for record in records(cut))
    run(shards, cut, held_out, ranks, resume=True, early_stop=2)
    assert kept(cut) == kept(whole)
    for one, other in zip(
        *(files.whole_checkpoints(output / CHECKPOINTS) for output in (whole, cut)),
        strict=True,
    ):
        assert files.verified_manifest(one) == files.verified_manifest(other)
    assert best(cut) == best(whole)
    assert measurements(cut) == measurements(whole)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_killed_between_a_checkpoint_and_the_note_of_the_best_makes_up_for_it(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
) -> None:
    """Also where what was written of the course is lost."""
    scripted(RATES)
    run(shards, tmp_path / "whole", held_out, early_stop=2)
    mark_best, at = files.mark_best, epoch * steps_an_epoch(shards)

    def killed(root: Path, history: Any, by: Any) -> None:
        if history and history[-1].step == at:
            raise Killed
        mark_best(root, history, by)

    with monkeypatch.context() as patched:
        patched.setattr(files, "mark_best", killed)
        with pytest.raises(Killed):
            run(shards, tmp_path / "cut", held_out, early_stop=2)
    assert kept(tmp_path / "cut")[-1] == at
    assert (
        not (tmp_path / "cut" / CHECKPOINTS / BEST).exists() or best(tmp_path / "cut")["step"] < at
    )
    resumed_equals_whole(shards, held_out, tmp_path, 1)


def test_the_stop_does_not_depend_on_the_records(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
) -> None:
    scripted(RATES)
    run(shards, tmp_path, held_out, early_stop=2, keep_checkpoints=9)
    epoch = steps_an_epoch(shards)
    shutil.rmtree(files.newest_checkpoint(tmp_path / CHECKPOINTS))
    (tmp_path / "train.jsonl").unlink()
    run(shards, tmp_path, held_out, resume=True, early_stop=2, keep_checkpoints=9)
    assert kept(tmp_path) == [epoch * number for number in (1, 2, 3, 4)]


def test_a_run_that_ended_early_ends_at_once_when_it_is_resumed_unless_it_may_go_on(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
) -> None:
    asked, epoch = scripted(RATES), steps_an_epoch(shards)
    run(shards, tmp_path, held_out, early_stop=2)
    before = records(tmp_path)
    run(shards, tmp_path, held_out, resume=True, early_stop=2)
    assert asked == [epoch * number for number in (1, 2, 3, 4)]
    assert records(tmp_path)[:-1] == before[:-1]
    run(shards, tmp_path, held_out, resume=True)
    assert asked == [epoch * number for number in range(1, EPOCHS + 1)]
    assert kept(tmp_path) == [5 * epoch, 6 * epoch]


def test_the_best_checkpoint_is_exported_where_that_is_asked_for(
    shards: Path,
    held_out: ValidationSettings,
    tmp_path: Path,
    scripted: Callable[[Sequence[float]], list[int]],
) -> None:
    scripted([0.1, 0.4, 0.3, 0.2, 0.2, 0.2])
    run(shards, tmp_path, held_out)
    exported = {}
    for which in ("newest", "best"):
        export(shards, tmp_path / CHECKPOINTS, tmp_path / which, which)  # type: ignore[arg-type]
        exported[which] = json.loads(
            (tmp_path / which / "manifest.json").read_text(encoding="utf-8")
        )
    epoch = steps_an_epoch(shards)
    assert [exported[which]["step"] for which in ("newest", "best")] == [6 * epoch, 2 * epoch]
    assert exported["best"]["run"][heldout.VALIDATION_USERS] == "0.5"
    assert exported["best"]["files"]["item.parquet"] != exported["newest"]["files"]["item.parquet"]


def test_no_best_where_nothing_was_measured(
    shards: Path, held_out: ValidationSettings, tmp_path: Path
) -> None:
    """A new run does not leave the best of an older one."""
    run(shards, tmp_path, held_out)
    run(shards, tmp_path, None)
    with pytest.raises(
        CheckpointError, match=r"best\.json is not there: no HitRate was measured while training"
    ):
        export(shards, tmp_path / CHECKPOINTS, tmp_path / "embeddings", "best")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not name a checkpoint"),
        ("[]", "does not name a checkpoint"),
        ('{"checkpoint": "step-7"}', "step-7, which is not whole"),
    ],
)
def test_a_note_of_the_best_that_names_none_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / BEST).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        files.best_checkpoint(tmp_path)


def test_other_validation_users_are_another_run(
    shards: Path, held_out: ValidationSettings, tmp_path: Path
) -> None:
    run(shards, tmp_path, held_out)
    for other in (ValidationSettings(held_out.folder, 0.4, K, 0.75, 0.0), None):
        with pytest.raises(
            CheckpointError, match="was made with another share of validation users"
        ):
            run(shards, tmp_path, other, resume=True)


def test_without_a_held_out_part_training_goes_on_and_says_so(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shards, tmp_path / "model", of_folder(tmp_path / "nowhere"))
    assert (
        f"no HitRate while training: {tmp_path}/nowhere/manifest.json is not there; set [split]"
        in capsys.readouterr().out
    )
    assert measurements(tmp_path / "model") == []


def test_no_validation_user_with_a_next_item(shards: Path, tmp_path: Path) -> None:
    sessions = [
        (user, items[:1] if heldout.of_validation(pa.array([user]), USERS)[0] else items)
        for user, items in random_sessions(ITEMS)
    ]
    write_heldout(tmp_path, sessions)
    with pytest.raises(
        NoCasesError,
        match="has no session of two items of a validation user; hold out more, or raise evaluate",
    ):
        read(shards, of_folder(tmp_path), 10)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("settings", "folder", "why"),
    [
        ({}, None, r"set \[split\]"),
        ({}, "nowhere", "nowhere/manifest.json is not there"),
        ({"validation_cases": 0}, "heldout", "_cases"),
    ],
)
def test_early_stop_without_anything_to_go_by_is_refused_before_old_checkpoints_go(
    shards: Path, tmp_path: Path, ranks: int, settings: dict[str, Any], folder: str | None, why: str
) -> None:
    write_heldout(tmp_path / "heldout", random_sessions(ITEMS))
    run(shards, tmp_path, None, epochs=1)
    before = kept(tmp_path)
    with pytest.raises(
        TrainConfigError, match=rf"train\.early_stop = 3 has nothing to go by: .*{why}"
    ):
        run(
            shards,
            tmp_path,
            None if folder is None else of_folder(tmp_path / folder),
            ranks,
            early_stop=3,
            **settings,
        )
    assert kept(tmp_path) == before


def test_a_damaged_held_out_part_is_named_on_all_ranks(shards: Path, tmp_path: Path) -> None:
    write_heldout(tmp_path, random_sessions(ITEMS))
    path = tmp_path / heldout.SESSIONS
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    def refused(comm: Comm) -> str:
        with pytest.raises(ManifestError) as error:
            train(
                shards,
                tmp_path / "model",
                Train(**SETTINGS),
                SEED,
                comm,
                validation=of_folder(tmp_path),
            )
        return str(error.value)

    first, second = on_ranks(2, refused)
    assert first == second
    assert str(path) in first


def test_one_rank_reads_for_all(
    shards: Path, held_out: ValidationSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checked, check = [], heldout.check

    def counting(folder: Any) -> None:
        checked.append(folder)
        check(folder)

    monkeypatch.setattr(heldout, "check", counting)
    run(shards, tmp_path, held_out, ranks=2, epochs=1)
    assert checked == [held_out.folder]
