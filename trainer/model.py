"""The model of one rank and its step: lookup, every task's work, gradients home, one update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer import relations
from trainer.clock import Clock
from trainer.comm import Comm
from trainer.config import Train
from trainer.kernels import build
from trainer.keys import KeySpace
from trainer.optimisers import AdagradKernel, DenseAdam, RowAdagrad, RowAdam, RowOptimiser
from trainer.tables import make_tables
from trainer.weighting import make_weighting
from trainer.work import Work
from trainer.workspace import Workspace


class TrainingError(Exception):
    """Training cannot go on."""


@dataclass(frozen=True)
class StepResult:
    """What a step of all ranks came to, by task."""

    losses: list[float]
    """Mean over the step's positive pairs of all ranks; nan for a task without pairs in this step."""
    pairs: list[int]
    weights: list[float]


class M2GRL:
    """Tables, dense parameters and their optimisers. Every rank holds its own rows, and all of the dense parameters."""

    def __init__(self, train: Train, keys: KeySpace, tasks: list[str], relation_names: list[str], seed: int, comm: Comm) -> None:
        self.train = train
        self.comm = comm
        self.tasks = tasks
        self.clock = Clock()
        self._space = Workspace()
        self.tables = make_tables(keys, train.dimension, comm, self.clock)
        self.rows: RowOptimiser = _row_optimiser(train, len(self.tables.values))
        self.weighting, self.dense = make_weighting(train, tasks, relation_names)
        for name in relation_names:
            self.dense |= relations.start(name, train.dimension, train.negatives, seed)
        self.dense_optimiser = DenseAdam(self.dense)

    def step(self, works: list[Work | None], step: int, rate: float) -> StepResult:
        """One update from every task's work; `rate` scales the configured learning rates.

        Raises TrainingError on a loss that is not finite.
        """
        with self.clock("dense"):
            counts = torch.tensor([work.pairs if work else 0 for work in works], dtype=torch.float64)
            pairs = self.comm.allreduce(counts, "pairs").tolist()
        weights = self.weighting.weights(self.dense)
        scales = [weight / count if count else 0.0 for weight, count in zip(weights, pairs, strict=True)]
        losses, slopes, ticket, gradient = self._evaluate(works, scales)
        with self.clock("gradients"):
            rows, home = self.tables.send_home(ticket, gradient)
        with self.clock("dense"):
            totals, slopes, norm = self._reduce(losses, slopes, home)
        means = [total / count if count else float("nan") for total, count in zip(totals, pairs, strict=True)]
        self._check(means, pairs, step)
        slopes |= self.weighting.gradients(self.dense, means)
        with self.clock("update"):
            self._update(rows, home, slopes, norm, step, rate)
        return StepResult(means, [int(count) for count in pairs], weights)

    def _evaluate(self, works: list[Work | None], scales: list[float]) -> tuple[list[float], dict[str, Tensor], Any, Tensor]:
        """(loss sums of this rank, its dense gradients, the way back of the gradient, gradient of every row looked up)."""
        reads = [work.keys if work else torch.zeros(0, dtype=torch.int64) for work in works]
        with self.clock("input-dist"):
            keys, index = torch.unique(torch.cat(reads), return_inverse=True)
        vectors, ticket = self.tables.lookup(keys)
        with self.clock("compute"):
            parts = torch.split(index, [len(read) for read in reads])
            gradient = self._space.take("gradient", *vectors.shape).zero_()
            losses, slopes = self._losses(works, parts, vectors, gradient, scales)
        return losses, slopes, ticket, gradient[:-1]

    def _losses(
        self, works: list[Work | None], parts: Sequence[Tensor], vectors: Tensor, gradient: Tensor, scales: list[float]
    ) -> tuple[list[float], dict[str, Tensor]]:
        """(loss sums, dense gradients) of this rank; row gradients are added to `gradient`."""
        slopes = {name: torch.zeros_like(value) for name, value in self.dense.items()}
        losses = []
        for work, part, scale in zip(works, parts, scales, strict=True):
            if work is None:
                losses.append(0.0)
                continue
            outcome = work.evaluate(part, vectors, gradient, scale, self.dense)
            losses.append(outcome.loss)
            for name, slope in outcome.dense.items():
                slopes[name] += slope
        return losses, slopes

    def _reduce(self, losses: list[float], slopes: dict[str, Tensor], home: Tensor) -> tuple[list[float], dict[str, Tensor], float]:
        """Sums over the ranks, in one exchange: losses, dense gradients, squared norm of the row gradients."""
        # By way of the rows' norms: no copy of the gradient is formed.
        square = torch.linalg.vector_norm(home, dim=1).double().square().sum().reshape(1)
        flat = torch.cat([torch.tensor(losses, dtype=torch.float64), square, *(slope.reshape(-1).double() for slope in slopes.values())])
        summed = self.comm.allreduce(flat, "dense")
        parts = torch.split(summed[len(losses) + 1 :], [slope.numel() for slope in slopes.values()])
        dense = {name: part.view(slope.shape).float() for (name, slope), part in zip(slopes.items(), parts, strict=True)}
        return summed[: len(losses)].tolist(), dense, float(summed[len(losses)])

    def _check(self, means: list[float], pairs: list[float], step: int) -> None:
        for task, mean, count in zip(self.tasks, means, pairs, strict=True):
            if count and not abs(mean) < float("inf"):
                raise TrainingError(f"step {step}: the loss of task '{task}' is {mean}; lower train.learning_rate or set train.clip_norm")

    def _update(self, rows: Tensor, home: Tensor, slopes: dict[str, Tensor], square: float, step: int, rate: float) -> None:
        shrink = self._shrink(square, slopes)
        self.tables.update(self.rows, rows, home, step, rate * self.train.learning_rate, shrink)
        clipped = {name: slope * shrink for name, slope in slopes.items()}
        self.dense_optimiser.update(self.dense, clipped, step, rate * self.train.dense_learning_rate)
        self.weighting.project(self.dense)
        relations.project(self.dense)

    def _shrink(self, square: float, slopes: dict[str, Tensor]) -> float:
        """Factor that brings the norm of all gradients together down to clip_norm; 1 where it is within."""
        if self.train.clip_norm is None:
            return 1.0
        norm = (square + sum(float(slope.double().square().sum()) for slope in slopes.values())) ** 0.5
        return min(1.0, self.train.clip_norm / norm) if norm else 1.0


def _row_optimiser(train: Train, rows: int) -> RowOptimiser:
    if train.optimiser == "adam":
        return RowAdam(rows, train.dimension)
    return RowAdagrad(rows, build.if_wanted(train.kernels, lambda: AdagradKernel(train.dimension)))
