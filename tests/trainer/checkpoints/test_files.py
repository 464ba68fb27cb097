"""Checkpoints: whole or not there, equal on any number of ranks, resumed to the bit."""

import errno
import fcntl
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.contracts.sealed import MANIFEST
from tests.trainer.runs import SEED, SMALL, build, on_ranks, one_step
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files, saving
from trainer.checkpoints.files import CheckpointError
from trainer.checkpoints.saving import save
from trainer.config import Train
from trainer.model import M2GRL
from trainer.ranks.comm import Comm, LocalComm
from trainer.training import CHECKPOINTS, train

RUN = {"configuration": "a", "set of shards": "b"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


def trained_model(shards: Path, comm: Comm, **settings: Any) -> M2GRL:
    model, tasks = build(shards, comm, **settings)
    for step in range(3):
        one_step(model, tasks, step)
    return model


def everything(models: list[M2GRL]) -> dict[str, Tensor]:
    """Rows of all ranks with their optimiser state by key, and rank 0's dense parameters with
    theirs."""
    whole = {}
    for name in ("values", *models[0].rows.state):
        parts = [
            model.tables.values if name == "values" else model.rows.state[name] for model in models
        ]
        whole[name] = torch.empty(models[0].tables.keys.size, *parts[0].shape[1:])
        for rank, part in enumerate(parts):
            whole[name][rank :: len(parts)] = part
    return whole | models[0].dense | models[0].dense_optimiser.state


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("optimiser", ["adagrad", "adam"])
@pytest.mark.parametrize(("written", "read"), [(1, 1), (1, 3), (2, 2), (2, 3), (3, 2), (4, 1)])
def test_a_checkpoint_gives_the_same_values_at_any_number_of_ranks(
    shards: Path,
    tmp_path: Path,
    optimiser: str,
    written: int,
    read: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "PIECE_ROWS", 7)

    def write(comm: Comm) -> M2GRL:
        model = trained_model(shards, comm, optimiser=optimiser)
        save(tmp_path, model, 3, RUN)
        return model

    def load(comm: Comm) -> M2GRL:
        model, _ = build(shards, comm, optimiser=optimiser)
        assert files.load_checkpoint(files.newest_checkpoint(tmp_path), model, RUN) == 3
        return model

    assert_same(everything(on_ranks(written, write)), everything(on_ranks(read, load)))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "settings", [{}, {"step": "exact", "optimiser": "adam", "decay": "linear", "mixing": "repeat"}]
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    shards: Path, tmp_path: Path, ranks: int, settings: dict[str, Any]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = Train(**{**SMALL, **settings})
    on_ranks(ranks, lambda comm: train(shards, whole, config, SEED, comm))
    shutil.copytree(whole, cut)
    first, last = files.whole_checkpoints(cut / CHECKPOINTS)
    shutil.rmtree(last)
    on_ranks(ranks, lambda comm: train(shards, cut, config, SEED, comm, resume=True))
    names = [file.path for file in files.verified_manifest(whole / CHECKPOINTS / last.name).files]
    assert len(names) == ranks + 1
    for name in names:
        assert (cut / CHECKPOINTS / last.name / name).read_bytes() == (
            whole / CHECKPOINTS / last.name / name
        ).read_bytes()
        assert (cut / CHECKPOINTS / last.name / name).read_bytes() != (
            cut / CHECKPOINTS / first.name / name
        ).read_bytes()
    steps = [
        json.loads(line)["step"]
        for line in (cut / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert steps == [*range(1, steps[-1] + 1), steps[-1]]


@pytest.fixture
def saved(shards: Path, tmp_path: Path) -> Path:
    return save(tmp_path / "saved", trained_model(shards, LocalComm()), 3, RUN)


def test_a_folder_without_its_manifest_does_not_exist(saved: Path) -> None:
    (saved / MANIFEST).unlink()
    assert files.whole_checkpoints(saved.parent) == []
    with pytest.raises(CheckpointError, match="no whole checkpoint under"):
        files.newest_checkpoint(saved.parent)
    with pytest.raises(CheckpointError, match=r"manifest\.json is not there"):
        files.verified_manifest(saved)


@pytest.mark.parametrize("name", ["rows-00000-of-00001.safetensors", files.DENSE])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_file_is_named_and_refused(
    shards: Path, saved: Path, name: str, damage: str
) -> None:
    path, data = saved / name, bytearray((saved / name).read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data if damage == "flipped" else data[:-1]))
    model, _ = build(shards)
    with pytest.raises(
        CheckpointError, match=rf"{name} is missing or is not the file that was written"
    ):
        files.load_checkpoint(saved, model, RUN)


def test_a_file_that_does_not_belong_there_is_named_and_refused(shards: Path, saved: Path) -> None:
    (saved / "rows-00001-of-00001.safetensors").touch()
    model, _ = build(shards)
    with pytest.raises(
        CheckpointError, match=r"rows-00001-of-00001\.safetensors does not belong to the checkpoint"
    ):
        files.load_checkpoint(saved, model, RUN)


def test_damage_that_one_rank_finds_stops_all(shards: Path, tmp_path: Path) -> None:
    """Each rank verifies what it reads; else the others would wait for it."""

    def write(comm: Comm) -> Path:
        return save(tmp_path, trained_model(shards, comm), 3, RUN)

    folder, _ = on_ranks(2, write)
    (folder / "rows-00001-of-00002.safetensors").write_bytes(b"?")

    def load(comm: Comm) -> str:
        with pytest.raises(CheckpointError) as refused:
            files.load_checkpoint(folder, build(shards, comm)[0], RUN)
        return str(refused.value)

    first, second = on_ranks(2, load)
    assert "rows-00001-of-00002.safetensors is missing or is not" in first
    assert first == second


def test_a_checkpoint_of_fewer_nodes_or_another_dimension_is_refused(
    shards: Path, saved: Path
) -> None:
    path = saved / MANIFEST
    manifest = files.verified_manifest(saved)
    shorter = manifest.tables[0].model_copy(update={"rows": manifest.tables[0].rows - 1})
    path.write_text(
        manifest.model_copy(update={"tables": (shorter, *manifest.tables[1:])}).model_dump_json(),
        encoding="utf-8",
    )
    with pytest.raises(CheckpointError, match="has 59 nodes of view 'item', the shards have 60"):
        files.load_checkpoint(saved, build(shards)[0], RUN)
    path.write_text(manifest.model_dump_json(), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vectors of length 8, train\.dimension is 16"):
        files.load_checkpoint(saved, build(shards, dimension=16)[0], RUN)


def test_what_is_being_read_is_not_removed(saved: Path) -> None:
    newer = Path(shutil.copytree(saved, saved.with_name("step-000000009")))
    with files.reading_lock(saved):
        files.prune(saved.parent, 1)
        assert files.whole_checkpoints(saved.parent) == [saved, newer]
        with pytest.raises(CheckpointError, match="of an earlier run and is being read"):
            files.prune(saved.parent, 0)
    files.prune(saved.parent, 1)
    assert files.whole_checkpoints(saved.parent) == [newer]
    with (
        pytest.raises(CheckpointError, match="has been removed: training goes on"),
        files.reading_lock(saved),
    ):
        pass


def test_a_run_killed_while_it_writes_leaves_the_previous_checkpoint_as_newest(
    shards: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    model = trained_model(shards, LocalComm())
    monkeypatch.setattr("pipeline.contracts.sealed.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save(saved.parent, model, 6, RUN)
    monkeypatch.undo()
    assert (saved.parent / "step-000000006" / files.DENSE).exists()
    assert files.newest_checkpoint(saved.parent) == saved
    # The step comes round again after a resume: its folder is made anew.
    assert (
        files.newest_checkpoint(saved.parent)
        != save(saved.parent, model, 6, RUN)
        == files.newest_checkpoint(saved.parent)
    )


def test_writing_a_step_again_takes_the_old_manifest_away_first(
    shards: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "write_tensors", full)
    with pytest.raises(
        CheckpointError,
        match=(
            r"rows-00000-of-00001.safetensors cannot be written \(No space left on device\); "
            r"make room"
        ),
    ):
        save(saved.parent, trained_model(shards, LocalComm()), 3, RUN)
    assert files.whole_checkpoints(saved.parent) == []


@pytest.mark.parametrize("changed", RUN)
def test_a_checkpoint_of_another_run_is_refused(shards: Path, saved: Path, changed: str) -> None:
    model, _ = build(shards)
    with pytest.raises(CheckpointError, match=f"was made with another {changed}"):
        files.load_checkpoint(saved, model, {**RUN, changed: "z"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a checkpoint's manifest"),
        ("[]", "not a checkpoint's manifest"),
        ('{"format": "m2grl-checkpoint", "version": 1}', "not a checkpoint's manifest"),
        ('{"format": "m2grl-checkpoint", "version": 7}', "of version 7, this code reads 1"),
    ],
)
def test_what_is_no_manifest_is_refused(saved: Path, text: str, message: str) -> None:
    (saved / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        files.verified_manifest(saved)


@pytest.mark.parametrize(
    ("keep", "left"),
    [(0, []), (1, [9]), (2, [6, 9]), (3, [3, 6, 9]), (4, [3, 6, 9]), (7, [3, 6, 9])],
)
def test_pruning_keeps_the_newest_and_nothing_unfinished(
    saved: Path, keep: int, left: list[int]
) -> None:
    for step in (6, 9, 12):
        shutil.copytree(saved, saved.with_name(f"step-{step:09d}"))
    (saved.parent / "step-000000012" / MANIFEST).unlink()
    files.prune(saved.parent, keep)
    assert sorted(path.name for path in saved.parent.iterdir()) == [
        f"step-{step:09d}" for step in left
    ]


def test_a_checkpoint_that_is_removed_before_it_is_locked_is_not_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(file: Any, how: int) -> None:
        files.remove(saved)
        fcntl.flock(file, how)

    monkeypatch.setattr(files, "fcntl", SimpleNamespace(flock=late, LOCK_SH=fcntl.LOCK_SH))
    with (
        pytest.raises(CheckpointError, match="has been removed: training goes on"),
        files.reading_lock(saved),
    ):
        pass


def test_a_run_that_starts_anew_removes_old_checkpoints(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, Train(**{**SMALL, "batch_pairs": 1000}), SEED, LocalComm())
    old = files.newest_checkpoint(tmp_path / CHECKPOINTS)
    train(shards, tmp_path, Train(**{**SMALL, "batch_pairs": 3000}), SEED, LocalComm())
    assert not old.exists()
    with pytest.raises(CheckpointError, match="another configuration"):
        train(
            shards,
            tmp_path,
            Train(**{**SMALL, "batch_pairs": 1000}),
            SEED,
            LocalComm(),
            resume=True,
        )


def test_how_often_to_log_and_save_is_no_part_of_a_run(shards: Path, tmp_path: Path) -> None:
    config = {**SMALL, "batch_pairs": 1000}
    train(shards, tmp_path, Train(**config), SEED, LocalComm())
    train(
        shards,
        tmp_path,
        Train(**{**config, "log_steps": 7, "keep_checkpoints": 5}),
        SEED,
        LocalComm(),
        resume=True,
    )


def test_a_run_can_be_made_longer_unless_its_rates_depend_on_its_length(
    shards: Path, tmp_path: Path
) -> None:
    for decay in ("none", "linear"):
        config = {**SMALL, "batch_pairs": 1000, "decay": decay}
        train(shards, tmp_path, Train(**config), SEED, LocalComm())
        first = files.read_checkpoint_manifest(files.newest_checkpoint(tmp_path / CHECKPOINTS)).step
        longer = Train(**{**config, "epochs": 3})
        if decay == "linear":
            with pytest.raises(CheckpointError, match="another configuration"):
                train(shards, tmp_path, longer, SEED, LocalComm(), resume=True)
            continue
        train(shards, tmp_path, longer, SEED, LocalComm(), resume=True)
        assert (
            files.read_checkpoint_manifest(files.newest_checkpoint(tmp_path / CHECKPOINTS)).step
            == first * 3 / SMALL["epochs"]
        )
