"""Ranks over shared memory: what they say to each other there, and where they do not get it."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.runs import on_ranks
from trainer.config import Train, TrainConfigError
from trainer.kernels.bindings import bind_exchange
from trainer.ranks.comm import Comm, LocalComm
from trainer.ranks.shared_memory import SharedComm, is_likely, nearest_comm


def shared(comm: Comm) -> SharedComm:
    return SharedComm(comm, bind_exchange(3))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_sums_are_the_same_on_all_ranks_however_many_follow_each_other(size: int) -> None:
    """Also where a later sum is of more numbers than there was room for."""

    def sums(comm: Comm) -> list[list[float]]:
        ranks, found = shared(comm), []
        for turn in range(40):
            mine = torch.arange(1.0, 2 + turn % 7) * (comm.rank + 1) + turn
            found.append(ranks.allreduce(mine, "sums").tolist())
        return found

    each = on_ranks(size, sums)
    assert all(found == each[0] for found in each)
    ranks = sum(range(1, size + 1))
    assert each[0] == [
        [(number + 1) * ranks + turn * size for number in range(1 + turn % 7)] for turn in range(40)
    ]


def test_memory_is_the_same_for_all_ranks_and_0_at_first() -> None:
    def written(comm: Comm) -> list[int]:
        ranks = shared(comm)
        memory = ranks.memory((4, 2), torch.int64)
        assert not memory.any()
        ranks.barrier()
        memory[comm.rank] = comm.rank + 1
        ranks.barrier()
        return memory.sum(1).tolist()

    assert on_ranks(3, written) == [[2, 4, 6, 0]] * 3


def test_memory_has_no_name_that_could_outlive_its_processes() -> None:
    def mapped(comm: Comm) -> list[str]:
        ranks = shared(comm)
        memory = ranks.memory((4, 2), torch.int64)
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        ranks.barrier()
        return [line for line in lines if _holds(line, memory.data_ptr())]

    for line in on_ranks(2, mapped):
        assert len(line) == 1
        assert re.search(r" /memfd:\S+ \(deleted\)$", line[0])


def _holds(line: str, address: int) -> bool:
    """Whether a line of /proc/self/maps is of the memory at an address."""
    first, end = (int(text, 16) for text in line.split(maxsplit=1)[0].split("-"))
    return first <= address < end


def test_no_file_is_left_open() -> None:
    before = open_files()
    on_ranks(2, lambda comm: shared(comm).memory((8,), torch.int64).sum())
    assert open_files() <= before


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(("exchange", "kind"), [("auto", SharedComm), ("shared", SharedComm)])
def test_ranks_of_one_host_share_memory(exchange: Any, kind: type) -> None:
    kinds = on_ranks(
        2, lambda comm: type(nearest_comm(comm, Train(exchange=exchange, dimension=3)))
    )
    assert kinds == [kind] * 2


def test_ranks_share_none_where_they_are_not_to_or_there_is_but_one() -> None:
    for settings in ({"exchange": "alltoall"}, {"kernels": "torch"}):
        assert SharedComm not in on_ranks(
            2, lambda comm, told=settings: type(nearest_comm(comm, Train(dimension=3, **told)))
        )  # type: ignore[misc]
    alone = LocalComm()
    assert nearest_comm(alone, Train(exchange="shared")) is alone


@pytest.mark.parametrize(
    ("settings", "likely"),
    [
        ({}, True),
        ({"exchange": "shared", "kernels": "torch"}, True),
        ({"exchange": "alltoall"}, False),
        ({"kernels": "torch"}, False),
        ({"device": "cuda"}, False),
    ],
)
def test_what_is_likely_beforehand_is_what_ranks_of_one_host_do(
    settings: dict[str, Any], likely: bool
) -> None:
    """By it Horovod's thread is set up, before the ranks can ask each other."""
    train = Train(dimension=3, **settings)
    assert is_likely(train) is likely
    assert set(on_ranks(2, lambda comm: isinstance(nearest_comm(comm, train), SharedComm))) == {
        likely
    }


def test_no_memory_is_likely_to_be_shared_without_a_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "trainer.kernels.build.obstacle", lambda: "none of c++, g++, clang++ is there"
    )
    assert not is_likely(Train())


def test_memory_that_one_rank_may_not_open_is_shared_by_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, times = os.open, []

    def refused(path: Any, *others: Any) -> int:
        if str(path).startswith("/proc/") and "/fd/" in str(path):
            times.append(path)
            if len(times) % 2:
                raise PermissionError(13, "Permission denied")
        return opened(path, *others)

    monkeypatch.setattr(os, "open", refused)
    assert SharedComm not in on_ranks(2, lambda comm: type(nearest_comm(comm, Train(dimension=3))))
    with pytest.raises(
        TrainConfigError,
        match=r"rank \d cannot map [\d,]+ bytes of /proc/\d+/fd/\d+ \(Permission denied\)",
    ):
        on_ranks(2, lambda comm: nearest_comm(comm, Train(exchange="shared", dimension=3)))
