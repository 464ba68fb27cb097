"""Runs in this process: a model with its tasks, and ranks as threads."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline.contracts.shards import Manifest
from trainer.config import Train
from trainer.model import M2GRL, StepResult
from trainer.objective.batch import Work
from trainer.objective.tasks import Task, TaskFactory
from trainer.ranks.comm import Comm, LocalComm
from trainer.ranks.processes import Peers, this_process

SEED = 5
SMALL: dict[str, Any] = {
    **{
        "dimension": 8,
        "batch_pairs": 300,
        "epochs": 2,
        "lanes": 6,
        "chunk": 16,
        "chunk_negatives": 8,
        "shuffle_rows": 5,
        "log_steps": 1,
    }
}
Result = TypeVar("Result")


def build(shards: Path, comm: Comm | None = None, **settings: Any) -> tuple[M2GRL, list[Task]]:
    """A model at its start values, and its tasks."""
    comm, config, manifest = (
        comm or LocalComm(),
        Train(**{**SMALL, **settings}),
        Manifest.read(shards),
    )
    factory = TaskFactory(shards, manifest, config, SEED, comm)
    tasks = factory.tasks()
    model = M2GRL(config, factory.keys, tasks, comm)
    model.tables.start(SEED)
    return model, tasks


def work(task: Task, step: int) -> Work | None:
    """A task's share of a step."""
    return task.build(task.read(step), step)


def one_step(model: M2GRL, tasks: list[Task], step: int, only: str | None = None) -> StepResult:
    works = [work(task, step) if only in (None, task.name) else None for task in tasks]
    return model.step(works, step, 1.0)


class Recorder:
    """Takes the place of both optimisers of a model: keeps the gradients of the last step, moves
    nothing."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.touched = self.rows = torch.empty(0)
        self.dense: dict[str, Tensor] = {}

    @classmethod
    def of(cls, model: M2GRL) -> "Recorder":
        recorder = cls()
        model.rows = model.dense_optimiser = recorder  # type: ignore[assignment]
        return recorder

    def update(self, _: Any, rows: Any, gradient: Any, *others: Any) -> None:
        """Row optimisers are given (values, rows, gradient, step, rate, shrink), the dense one
        (parameters, gradients, step, rate)."""
        if isinstance(rows, dict):
            self.dense = rows
        else:
            self.touched, self.rows = rows, gradient * others[2]


class ThreadComm:
    """A rank among threads: the interface of trainer.ranks.comm.Comm."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.local_rank, self.size = rank, rank, len(slots)
        self.peers = Peers(rank, [this_process()] * self.size)
        self.waited, self.calls, self.sent_bytes = 0.0, 0, 0
        self._slots, self._barrier = slots, barrier

    def gather(self, value: Any, name: str) -> list[Any]:  # noqa: ARG002
        self._slots[self.rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values

    def alltoall(
        self, tensor: Tensor, splits: Sequence[int], name: str
    ) -> tuple[Tensor, list[int]]:
        parts = [
            sent[self.rank] for sent in self.gather(torch.split(tensor.clone(), list(splits)), name)
        ]
        return torch.cat(parts), [len(part) for part in parts]

    def allreduce(self, tensor: Tensor, name: str) -> Tensor:
        return torch.stack(self.gather(tensor.clone(), name)).sum(0)

    def barrier(self) -> None:
        self._barrier.wait()

    def close(self) -> None:
        pass


def on_ranks(size: int, work: Callable[[Comm], Result]) -> list[Result]:
    """What `work` returns on each of `size` ranks."""
    if size == 1:
        return [work(LocalComm())]
    slots, barrier = [None] * size, threading.Barrier(size, timeout=30)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def rank(number: int) -> None:
        try:
            results[number] = work(ThreadComm(number, slots, barrier))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
