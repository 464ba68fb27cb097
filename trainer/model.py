"""The model of one rank and its step: lookup, every task's work, gradients home, one update."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import Train
from trainer.embeddings.buffers import Workspace
from trainer.embeddings.keys import KeySpace
from trainer.embeddings.optimisers import (
    AdagradKernel,
    DenseAdam,
    RowAdagrad,
    RowAdam,
    RowOptimiser,
    shorten,
)
from trainer.embeddings.snapshot import Snapshot
from trainer.embeddings.tables import ReadKernel, make_tables
from trainer.embeddings.unique_keys import Distinct, KeyKernel
from trainer.kernels import build
from trainer.objective import relations
from trainer.objective.batch import Work
from trainer.objective.weighting import make_weighting
from trainer.phases import Clock
from trainer.ranks.comm import Comm
from trainer.ranks.devices import device_of, moved

VECTORS = "values"
"""Name of the vectors among a rank's tensors of rows."""
OPTIMISER_STATE = "state."
"""Before the names of the dense parameters' optimiser's tensors."""
SUSPECTS = 5
"""Rows that an error names."""
CALMER = (
    "lower train.learning_rate or set train.clip_norm, and go on from the last whole "
    "checkpoint with --resume"
)
"""What to do about numbers that are not finite."""


class TrainingError(Exception):
    """Training cannot go on."""


@dataclass(frozen=True)
class StepResult:
    """What a step of all ranks came to, by task."""

    losses: list[float]
    """Mean over the step's positive pairs of all ranks; nan for a task without pairs in this
    step."""
    pairs: list[int]
    weights: list[float]
    votes: list[int] = field(default_factory=list)
    """How many ranks said each of the things that could be said with this step."""


@dataclass(frozen=True)
class RankGradients:
    """What one rank made of its share of a step. Its tensors hold until the next one."""

    losses: Tensor
    """[tasks] float64: sums over this rank's pairs."""
    dense: dict[str, Tensor]
    """Gradients of the dense parameters."""
    keys: Tensor
    """[wanted] distinct rows that were read."""
    vectors: Tensor
    """[wanted + 1, d]; a last row of 0."""
    gradient: Tensor
    """[wanted, d]"""
    ticket: Any
    """The way home of `gradient` (trainer/embeddings/tables.py)."""


@dataclass(frozen=True)
class SummedGradients:
    """Gradients of all ranks, as this one has them."""

    rows: Tensor
    """[touched] this rank's rows, and their gradient:"""
    gradient: Tensor
    """[touched, d]"""
    dense: dict[str, Tensor]


class M2GRL:
    """Tables, dense parameters and their optimisers. Every rank holds its own rows, on its device,
    and all of the dense parameters, which stay on the host: they are small, and what is decided by
    them is decided there."""

    def __init__(
        self,
        train: Train,
        keys: KeySpace,
        tasks: list[str],
        relation_names: list[str],
        seed: int,
        comm: Comm,
    ) -> None:
        self.train = train
        self.comm = comm
        self.tasks = tasks
        self.clock = Clock()
        self.device = device_of(train, comm)
        self._space = Workspace(self.device)
        self._distinct = Distinct(keys.size, build.if_wanted(train.arithmetic, KeyKernel))
        reader = build.if_wanted(train.arithmetic, lambda: ReadKernel(train.dimension))
        self.tables = make_tables(keys, train.dimension, comm, self.clock, reader, self.device)
        self.rows: RowOptimiser = _row_optimiser(train, len(self.tables.values), self.device)
        self.weighting, self.dense = make_weighting(train, tasks, relation_names)
        for name in relation_names:
            self.dense |= relations.start(name, train.dimension, train.negatives, seed)
        self.dense_optimiser = DenseAdam(self.dense)
        self.snapshot: Snapshot | None = None
        """Reads the rows as they were while steps change them: told of rows that are about to
        change."""

    @property
    def row_tensors(self) -> dict[str, Tensor]:
        """This rank's rows and all that their optimiser knows of them, by name; the first axis is
        that of `tables.values`."""
        return {**self.rows.state, VECTORS: self.tables.values}

    @property
    def dense_tensors(self) -> dict[str, Tensor]:
        """Dense parameters, and their optimiser's state under names of its own."""
        return {
            **self.dense,
            **{
                f"{OPTIMISER_STATE}{name}": value
                for name, value in self.dense_optimiser.state.items()
            },
        }

    def step(
        self, works: list[Work | None], step: int, rate: float, votes: Sequence[bool] = ()
    ) -> StepResult:
        """One update from every task's work; `rate` scales the configured learning rates. `votes`:
        what this rank has to say to the others, which takes no exchange of its own.

        Raises TrainingError on a loss or a gradient that is not finite, on all ranks; nothing is
        changed then.
        """
        with self.clock("dense"):
            counts = torch.tensor(
                [*(work.pairs if work else 0 for work in works), *votes], dtype=torch.float64
            )
            pairs, voted = np.split(self.comm.allreduce(counts, "pairs").numpy(), [len(works)])
        weights = self.weighting.weights(self.dense)
        scales = [
            weight / count if count else 0.0 for weight, count in zip(weights, pairs, strict=True)
        ]
        mine = self._evaluate(works, scales)
        with self.clock("gradients"):
            rows, home = self.tables.send_home(mine.ticket, mine.gradient)
        with self.clock("dense"):
            totals, slopes, square = self._reduce(mine.losses, mine.dense, home)
        means = [
            total / count if count else float("nan")
            for total, count in zip(totals, pairs, strict=True)
        ]
        bad = [
            task
            for task, (mean, count) in enumerate(zip(means, pairs, strict=True))
            if count and not math.isfinite(mean)
        ]
        with self.clock("dense"):
            slopes |= self.weighting.gradients(self.dense, means)
            norm = (
                square + sum(float(slope.double().square().sum()) for slope in slopes.values())
            ) ** 0.5
        if bad or not math.isfinite(norm):
            raise TrainingError(
                self._diagnosis(step, bad, means, works, mine, SummedGradients(rows, home, slopes))
            )
        shrink = (
            1.0
            if self.train.clip_norm is None or not norm
            else min(1.0, self.train.clip_norm / norm)
        )
        with self.clock("checkpoint"):
            if self.snapshot is not None:
                self.snapshot.keep(rows)
        with self.clock("update"):
            self._update(rows, home, slopes, shrink, step, rate)
        return StepResult(
            means, [int(count) for count in pairs], weights, [int(count) for count in voted]
        )

    def _evaluate(self, works: list[Work | None], scales: list[float]) -> RankGradients:
        reads = [
            work.keys if work else torch.zeros(0, dtype=torch.int64, device=self.device)
            for work in works
        ]
        with self.clock("input-dist"):
            keys, index = self._distinct(torch.cat(reads))
        vectors, ticket = self.tables.lookup(keys)
        with self.clock("compute"):
            parts = torch.split(index, [len(read) for read in reads])
            gradient = self._space.take("gradient", *vectors.shape).zero_()
            losses, slopes = self._losses(works, parts, vectors, gradient, scales)
        return RankGradients(losses, slopes, keys, vectors, gradient[:-1], ticket)

    def _losses(
        self,
        works: list[Work | None],
        parts: Sequence[Tensor],
        vectors: Tensor,
        gradient: Tensor,
        scales: list[float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss sums, dense gradients) of this rank; row gradients are added to `gradient`."""
        dense = {name: moved(value, self.device) for name, value in self.dense.items()}
        slopes = {name: torch.zeros_like(value) for name, value in dense.items()}
        losses = torch.zeros(len(works), dtype=torch.float64, device=self.device)
        for work, part, scale, loss in zip(works, parts, scales, losses, strict=True):
            if work is None:
                continue
            outcome = work.evaluate(part, vectors, gradient, scale, dense)
            loss.copy_(outcome.loss)
            for name, slope in outcome.dense.items():
                slopes[name] += slope
        return losses, slopes

    def _reduce(
        self, losses: Tensor, slopes: dict[str, Tensor], home: Tensor
    ) -> tuple[list[float], dict[str, Tensor], float]:
        """Sums over the ranks, in one exchange: losses, dense gradients, squared norm of the row
        gradients."""
        # By way of the rows' norms: no copy of the gradient is formed.
        square = torch.linalg.vector_norm(home, dim=1).double().square().sum().reshape(1)
        flat = torch.cat(
            [losses, square, *(slope.reshape(-1).double() for slope in slopes.values())]
        )
        # Here, and where distinct keys are counted, the host waits for the device.
        summed = self.comm.allreduce(flat, "dense").cpu()
        parts = torch.split(summed[len(losses) + 1 :], [slope.numel() for slope in slopes.values()])
        dense = {
            name: part.view(slope.shape).float()
            for (name, slope), part in zip(slopes.items(), parts, strict=True)
        }
        return summed[: len(losses)].tolist(), dense, float(summed[len(losses)])

    def _diagnosis(
        self,
        step: int,
        bad: list[int],
        means: list[float],
        works: list[Work | None],
        mine: RankGradients,
        summed: SummedGradients,
    ) -> str:
        """What is not finite in which rows, the same on all ranks."""
        comm, names = self.comm, self.tables.keys
        if bad:
            what = " and ".join(
                f"the loss of task '{self.tasks[task]}' is {means[task]}" for task in bad
            )
            read = torch.cat(
                [work.keys for task in bad if (work := works[task])] or [mine.keys[:0]]
            )
            where = torch.isin(mine.keys, read)
            found = suspects(mine.keys[where], mine.vectors[:-1][where])
        else:
            broken = [name for name, slope in summed.dense.items() if not slope.isfinite().all()]
            what = (
                "all losses are finite, "
                f"{f'the gradient of {broken[0]}' if broken else 'a gradient'} is not"
            )
            found = suspects(summed.rows * comm.size + comm.rank, summed.gradient)
        listed = sorted({key for part in comm.gather(found, "what is not finite") for key in part})[
            :SUSPECTS
        ]
        shown = ", ".join(names.name(key) for key in listed)
        return f"step {step}: {what}; see rows {shown}; {CALMER}"

    def _update(
        self,
        rows: Tensor,
        home: Tensor,
        slopes: dict[str, Tensor],
        shrink: float,
        step: int,
        rate: float,
    ) -> None:
        self.tables.update(self.rows, rows, home, step, rate * self.train.learning_rate, shrink)
        if self.train.weight_decay or self.train.max_norm is not None:
            shorten(self.tables.values, rows, rate * self.train.weight_decay, self.train.max_norm)
        clipped = {name: slope * shrink for name, slope in slopes.items()}
        self.dense_optimiser.update(
            self.dense, clipped, step, rate * self.train.dense_learning_rate
        )
        self.weighting.project(self.dense)
        relations.project(self.dense)


def _row_optimiser(train: Train, rows: int, device: torch.device) -> RowOptimiser:
    if train.optimiser == "adam":
        return RowAdam(rows, train.dimension, device)
    return RowAdagrad(
        rows, build.if_wanted(train.arithmetic, lambda: AdagradKernel(train.dimension)), device
    )


def suspects(keys: Tensor, vectors: Tensor) -> list[int]:
    """Keys of vectors [keys, d] that are not finite, the first SUSPECTS; where all are, of the
    longest ones, whose products overflow."""
    lengths = vectors.double().norm(dim=1)
    broken = keys[~torch.isfinite(lengths)]
    found: list[int] = (broken if len(broken) else keys[lengths.argsort(descending=True)])[
        :SUSPECTS
    ].tolist()
    return found
