"""Rows read ahead are the rows, and what keeps them from coming is told."""

import threading
from pathlib import Path

import pytest
import torch

from pipeline.contracts.shards import Manifest
from tests.trainer.runs import build
from tests.trainer.shards import random_corpus, write_shards
from trainer.data import prefetch
from trainer.data.prefetch import Reader
from trainer.data.streams import StreamFiles

STEPS = 9


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


@pytest.mark.parametrize("steps", [range(STEPS), range(4, STEPS), [3, 3, 7, 1]])
def test_work_is_the_same_read_ahead_or_not(shards: Path, steps: list[int]) -> None:
    """In order, from a step in the middle (a resumed run), and in no order at all."""
    _, tasks = build(shards)
    _, others = build(shards)
    with Reader(tasks, STEPS, ahead=True) as ahead, Reader(others, STEPS, ahead=False) as plain:
        for step in steps:
            for left, right in zip(ahead.take(step), plain.take(step), strict=True):
                assert (left is None) == (right is None)
                if left is not None and right is not None:
                    assert torch.equal(left.keys, right.keys)


def test_the_next_step_is_read_before_it_is_asked_for(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (task, *_) = build(shards)
    read = {step: threading.Event() for step in range(STEPS + 1)}
    plain = type(task).read
    monkeypatch.setattr(
        type(task), "read", lambda self, step: (plain(self, step), read[step].set())[0]
    )
    with Reader([task], STEPS) as reader:
        reader.take(0)
        assert read[1].wait(10)
        reader.take(STEPS - 1)
    assert not read[STEPS].is_set()


def test_a_shard_that_is_slow_to_come_is_named(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "SLOW_SECONDS", 0.05)
    comes = threading.Event()
    rows = StreamFiles._rows
    monkeypatch.setattr(
        StreamFiles, "_rows", lambda *arguments: (comes.wait(10), rows(*arguments))[1]
    )
    _, (task, *_) = build(shards)
    said = []

    def say(line: str) -> None:
        said.append(line)
        comes.set()

    monkeypatch.setattr(prefetch, "print_line", say)
    with Reader([task], STEPS) as reader:
        assert reader.take(0)
    first = shards / Manifest.read(shards).views["item"].streams[0].files[0].path
    assert said[0].startswith("waiting for rows for 0 s: ")
    assert str(first) in said[0]


def test_a_shard_that_is_slow_to_be_verified_is_named(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "SLOW_SECONDS", 0.05)
    comes = threading.Event()
    opened = StreamFiles._parquet
    monkeypatch.setattr(
        StreamFiles, "_parquet", lambda *arguments: (comes.wait(10), opened(*arguments))[1]
    )
    _, tasks = build(shards)
    said = []

    def say(line: str) -> None:
        said.append(line)
        comes.set()

    monkeypatch.setattr(prefetch, "print_line", say)
    prefetch.verify_tasks(tasks)
    first = shards / Manifest.read(shards).views["item"].streams[0].files[0].path
    assert said[0] == f"verifying the shards of 'item' for 0 s: {first} is slow to come"


def test_what_goes_wrong_while_reading_ahead_is_raised_by_the_step_that_needs_it(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (task, *_) = build(shards)
    plain = type(task).read

    def broken(self: object, step: int) -> object:
        if step == 1:
            raise TimeoutError("the store is silent")
        return plain(self, step)  # type: ignore[arg-type]

    monkeypatch.setattr(type(task), "read", broken)
    with Reader([task], STEPS) as reader:
        reader.take(0)
        with pytest.raises(TimeoutError, match="the store is silent"):
            reader.take(1)
