"""Checkpoints written while training goes on are those of their step."""

import errno
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.storage.files import write_text
from tests.trainer.runs import SEED, SMALL, build, on_ranks, one_step
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files, saving
from trainer.checkpoints.files import CheckpointError
from trainer.checkpoints.saving import Saver
from trainer.checkpoints.tensor_files import Pieces, Written, write_tensors
from trainer.config import Train
from trainer.model import VECTORS
from trainer.ranks.comm import Comm, LocalComm
from trainer.training import CHECKPOINTS, StoppedError, train

RUN = {"configuration": "a"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


class SlowDisk:
    """Takes the place of `write_tensors`: of the rows' file, each piece waits until it is let
    through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
        self._let = threading.Semaphore(0)
        self._ranks = ranks
        monkeypatch.setattr(saving, "write_tensors", self._write)
        monkeypatch.setattr("trainer.checkpoints.tensor_files.PIECE_ROWS", 7)

    def let(self, pieces: int) -> None:
        for _ in range(pieces * self._ranks):
            self._let.release()

    def _write(
        self, path: Path, tensors: Mapping[str, Tensor], pieces: Pieces | None = None
    ) -> Written:
        def slowly(name: str, rows: int) -> Iterator[Any]:
            assert pieces is not None
            for piece in pieces(name, rows):
                assert self._let.acquire(timeout=30)
                yield piece

        return write_tensors(path, tensors, pieces and slowly)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("optimiser", "copied_bytes"), [("adagrad", 0), ("adagrad", saving.COPIED_BYTES), ("adam", 0)]
)
def test_steps_go_on_and_the_checkpoint_stays_that_of_its_step(
    shards: Path,
    tmp_path: Path,
    ranks: int,
    optimiser: str,
    copied_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving, "COPIED_BYTES", copied_bytes)
    disk = SlowDisk(monkeypatch, ranks)
    steps = 6

    def work(comm: Comm) -> None:
        model, tasks = build(shards, comm, optimiser=optimiser)
        for step in range(3):
            one_step(model, tasks, step)
        at_once = tmp_path / "at once"
        disk.let(200)
        saving.save(at_once, model, 3, RUN)
        comm.barrier()
        if comm.rank == 0:
            while disk._let.acquire(blocking=False):
                pass
        comm.barrier()
        with Saver(tmp_path / "meanwhile", model, RUN, keep=1) as saver:
            saver.begin(3)
            before = model.tables.values.clone()
            for step in range(3, 3 + steps):
                assert not saver.written
                one_step(model, tasks, step)
                disk.let(1)
            assert not torch.equal(model.tables.values, before)
            disk.let(200)
            saver.finish()

    on_ranks(ranks, work)
    both = [
        files.verified_manifest(files.newest_checkpoint(tmp_path / name)).files
        for name in ("at once", "meanwhile")
    ]
    assert both[0] == both[1]
    assert len(both[0]) == ranks + 1


def test_a_full_disk_on_one_rank_stops_all_and_leaves_no_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: Mapping[str, Tensor], pieces: Pieces | None = None) -> Written:
        if "rows-00001" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_tensors(path, tensors, pieces)

    def work(comm: Comm) -> str:
        model, _ = build(shards, comm)
        saving.save(tmp_path, model, 1, RUN)
        monkeypatch.setattr(saving, "write_tensors", full)
        with pytest.raises(CheckpointError) as failed:
            saving.save(tmp_path, model, 2, RUN)
        return str(failed.value)

    first, second = on_ranks(2, work)
    assert (
        "rows-00001-of-00002.safetensors cannot be written (No space left on device); make room"
        in first
    )
    assert first == second
    assert [path.name for path in files.whole_checkpoints(tmp_path)] == ["step-000000001"]


def test_steps_go_on_while_rank_0_makes_the_checkpoint_whole(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let = threading.Event()

    def slowly(path: Path, text: str) -> None:
        assert let.wait(timeout=30)
        write_text(path, text)

    def work(comm: Comm) -> None:
        model, tasks = build(shards, comm)
        with Saver(tmp_path, model, RUN, keep=1) as saver:
            saver.begin(1)
            saver.collect()
            one_step(model, tasks, 0)
            assert files.whole_checkpoints(tmp_path) == []
            comm.barrier()
            let.set()
            saver.begin(2)
            assert [path.name for path in files.whole_checkpoints(tmp_path)] == ["step-000000001"]
            saver.finish()

    monkeypatch.setattr("pipeline.contracts.sealed.write_text", slowly)
    on_ranks(2, work)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002"]


def test_a_disk_too_full_for_the_manifest_stops_all_ranks(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def work(comm: Comm) -> str:
        model, _ = build(shards, comm)
        with Saver(tmp_path, model, RUN, keep=1) as saver:
            saver.begin(1)
            saver.collect()
            with pytest.raises(CheckpointError) as failed:
                saver.begin(2)
        return str(failed.value)

    monkeypatch.setattr("pipeline.contracts.sealed.write_text", full)
    first, second = on_ranks(2, work)
    assert "step-000000001 cannot be written (No space left on device); make room" in first
    assert first == second
    assert files.whole_checkpoints(tmp_path) == []


def test_dense_parameters_that_are_not_finite_are_named_and_not_saved(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "COPIED_BYTES", 0)
    model, _ = build(shards)
    model.dense["item_shop.W"][1, 2] = float("inf")
    with Saver(tmp_path, model, RUN, keep=1) as saver:
        saver.begin(1)
        snapshot = model.snapshot
        assert snapshot is not None
        with pytest.raises(
            CheckpointError, match=r"'item_shop\.W' is not finite; lower train\.learning_rate"
        ):
            saver.finish()
    snapshot.keep(torch.arange(3))
    assert snapshot.kept_bytes == 0, "no step waits for what nobody will read"
    assert files.whole_checkpoints(tmp_path) == []


@pytest.mark.parametrize("name", [VECTORS, "square_sum"])
def test_rows_that_are_not_finite_are_named_and_not_saved(
    shards: Path, tmp_path: Path, name: str
) -> None:
    model, _ = build(shards)
    key = model.tables.keys.table("shop", "output").offset + 2
    model.row_tensors[name][key] = float("nan")
    with pytest.raises(CheckpointError, match=f"'{name}' of row shop output 2 is not finite"):
        saving.save(tmp_path, model, 1, RUN)
    assert files.whole_checkpoints(tmp_path) == []


def test_what_all_ranks_have_written_becomes_whole_though_the_run_ends(
    shards: Path, tmp_path: Path
) -> None:
    def work(comm: Comm) -> None:
        model, _ = build(shards, comm)
        with Saver(tmp_path, model, RUN, keep=1) as saver:
            saver.begin(1)
            saver.collect()

    on_ranks(2, work)
    assert files.verified_manifest(files.newest_checkpoint(tmp_path)).step == 1


def test_what_is_given_up_ends_at_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch, 1)
    model, _ = build(shards)
    saver = Saver(tmp_path, model, RUN, keep=1)
    saver.begin(1)
    disk.let(1)
    threading.Timer(0.05, disk.let, [1]).start()
    saver.close()
    assert files.whole_checkpoints(tmp_path) == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_told_to_stop_saves_its_last_step_and_goes_on_from_there(
    shards: Path, tmp_path: Path, ranks: int
) -> None:
    """One rank is told; all stop after the same step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = Train(**{**SMALL, "log_steps": 4}, exchange="alltoall")
    on_ranks(ranks, lambda comm: train(shards, whole, config, SEED, comm))

    def stopped(comm: Comm) -> str:
        told = threading.Event()
        if comm.rank == ranks - 1:
            told.set()
        with pytest.raises(StoppedError) as ended:
            train(shards, cut, config, SEED, comm, stop=told)
        return str(ended.value)

    messages = set(on_ranks(ranks, stopped))
    (message,) = messages
    assert message.startswith("stopped after step 1 of ")
    assert "--resume" in message
    assert [path.name for path in files.whole_checkpoints(cut / CHECKPOINTS)] == ["step-000000001"]
    assert '"step": 1, ' in (cut / "train.jsonl").read_text(encoding="utf-8"), (
        "what the last steps came to is recorded"
    )
    on_ranks(ranks, lambda comm: train(shards, cut, config, SEED, comm, resume=True))
    ends = [
        files.verified_manifest(files.newest_checkpoint(folder / CHECKPOINTS))
        for folder in (whole, cut)
    ]
    assert ends[0] == ends[1]


def test_a_run_told_to_stop_in_its_last_step_has_ended(shards: Path, tmp_path: Path) -> None:
    told = threading.Event()
    told.set()
    train(
        shards,
        tmp_path,
        Train(**{**SMALL, "batch_pairs": 10**6, "epochs": 1}),
        SEED,
        LocalComm(),
        stop=told,
    )
    assert '"done": true' in (tmp_path / "train.jsonl").read_text(encoding="utf-8")
