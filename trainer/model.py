"""The model of one rank and its step: lookup, every task's work, gradients home, one update."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
from trainer.embeddings.unique_keys import Distinct
from trainer.kernels import bindings, build
from trainer.objective.batch import DenseParameters, Work
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


class LearnedTask(Protocol):
    """A task as far as the model knows it (`trainer.objective.tasks.Task`)."""

    @property
    def name(self) -> str:
        """What it is called: like its view or relation."""

    @property
    def is_relation(self) -> bool:
        """Whether it is an inter-view task, whose weight may be capped."""

    @property
    def dense(self) -> DenseParameters | None:
        """The dense parameters that it owns; none: it learns the tables alone."""


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
    """[read] distinct rows that were read."""
    vectors: Tensor
    """[read + 1, d]; a last row of 0."""
    gradient: Tensor
    """[read, d]"""
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
        tasks: Sequence[LearnedTask],
        comm: Comm,
    ) -> None:
        """tasks: the item task first. The tables are all 0 until they are started or loaded."""
        self.train = train
        self.comm = comm
        self.tasks = [task.name for task in tasks]
        self.clock = Clock()
        self.device = device_of(train, comm)
        self._buffers = Workspace(self.device)
        key_kernel = build.if_wanted(train.arithmetic, bindings.bind_distinct)
        self._distinct = Distinct(keys.size, key_kernel)
        read_kernel = build.if_wanted(train.arithmetic, lambda: ReadKernel(train.dimension))
        self.tables = make_tables(keys, train.dimension, comm, self.clock, read_kernel, self.device)
        self.rows: RowOptimiser = _row_optimiser(train, len(self.tables.values), self.device)
        relations = [task.name for task in tasks if task.is_relation]
        self.weighting, weighting_dense = make_weighting(train, self.tasks, relations)
        self._owners = [task.dense for task in tasks if task.dense is not None]
        self.dense = collect_dense(weighting_dense, self._owners)
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
        tensors = dict(self.dense)
        for name, value in self.dense_optimiser.state.items():
            tensors[f"{OPTIMISER_STATE}{name}"] = value
        return tensors

    def step(
        self, works: list[Work | None], step: int, rate: float, votes: Sequence[bool] = ()
    ) -> StepResult:
        """One update from every task's work; `rate` scales the configured learning rates. `votes`:
        what this rank has to say to the others, which takes no exchange of its own.

        Raises TrainingError on a loss or a gradient that is not finite, on all ranks; nothing is
        changed then.
        """
        with self.clock("dense"):
            pairs, voted = self._count(works, votes)
        weights = self.weighting.weights(self.dense)
        # The loss is a mean over the pairs of all ranks: each rank scales its sum accordingly, so
        # that gradients need only be added.
        scales = _ratios(weights, pairs, without=0.0)
        share = self._evaluate(works, scales)
        with self.clock("gradients"):
            rows, gradient = self.tables.send_home(share.ticket, share.gradient)
        with self.clock("dense"):
            totals, slopes, square = self._reduce(share.losses, share.dense, gradient)
            means = _ratios(totals, pairs, without=math.nan)
            slopes |= self.weighting.gradients(self.dense, means)
            norm = _norm(square, slopes.values())
        bad = _not_finite(means, pairs)
        if bad or not math.isfinite(norm):
            summed = SummedGradients(rows, gradient, slopes)
            raise TrainingError(self._diagnosis(step, bad, means, works, share, summed))
        with self.clock("checkpoint"):
            if self.snapshot is not None:
                self.snapshot.keep(rows)
        with self.clock("update"):
            self._update(rows, gradient, slopes, self._shrink(norm), step, rate)
        return StepResult(means, [int(count) for count in pairs], weights, voted)

    def _count(
        self, works: list[Work | None], votes: Sequence[bool]
    ) -> tuple[list[float], list[int]]:
        """(positive pairs of each task, votes), of all ranks, in one exchange."""
        counts = [work.pairs if work else 0 for work in works]
        own = torch.tensor([*counts, *votes], dtype=torch.float64)
        summed = self.comm.allreduce(own, "pairs").numpy()
        pairs, voted = np.split(summed, [len(works)])
        return pairs.tolist(), [int(count) for count in voted]

    def _evaluate(self, works: list[Work | None], scales: list[float]) -> RankGradients:
        nothing = torch.zeros(0, dtype=torch.int64, device=self.device)
        reads = [work.keys if work else nothing for work in works]
        with self.clock("input-dist"):
            # [reads of all tasks] -> [read] distinct keys, and where each read stands among them
            keys, index = self._distinct(torch.cat(reads))
        vectors, ticket = self.tables.lookup(keys)
        with self.clock("compute"):
            parts = torch.split(index, [len(read) for read in reads])
            # [read + 1, d], as the vectors: padding has a row of its own, so that no task need
            # mask what it adds there.
            gradient = self._buffers.take("gradient", *vectors.shape).zero_()
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
        self, losses: Tensor, slopes: dict[str, Tensor], gradient: Tensor
    ) -> tuple[list[float], dict[str, Tensor], float]:
        """Sums over the ranks, in one exchange: losses, dense gradients, squared norm of the row
        gradients."""
        # By way of the rows' norms [touched]: no copy of the gradient [touched, d] is formed.
        norms = torch.linalg.vector_norm(gradient, dim=1).double()
        square = norms.square().sum().reshape(1)
        flat_slopes = [slope.reshape(-1).double() for slope in slopes.values()]
        # [tasks + 1 + dense numbers]: one exchange costs less than three short ones.
        flat = torch.cat([losses, square, *flat_slopes])
        # Here, and where distinct keys are counted, the host waits for the device.
        summed = self.comm.allreduce(flat, "dense").cpu()
        tasks = len(losses)
        sizes = [slope.numel() for slope in slopes.values()]
        parts = torch.split(summed[tasks + 1 :], sizes)
        dense = {}
        for (name, slope), part in zip(slopes.items(), parts, strict=True):
            dense[name] = part.view(slope.shape).float()
        totals = summed[:tasks].tolist()
        return totals, dense, float(summed[tasks])

    def _shrink(self, norm: float) -> float:
        """What gradients are multiplied by, so that their norm is at most `clip_norm`."""
        if self.train.clip_norm is None or not norm:
            return 1.0
        return min(1.0, self.train.clip_norm / norm)

    def _diagnosis(
        self,
        step: int,
        bad: list[int],
        means: list[float],
        works: list[Work | None],
        share: RankGradients,
        summed: SummedGradients,
    ) -> str:
        """What is not finite in which rows, the same on all ranks."""
        comm = self.comm
        names = self.tables.keys
        if bad:
            parts = [f"the loss of task '{self.tasks[task]}' is {means[task]}" for task in bad]
            what = " and ".join(parts)
            reads = [work.keys for task in bad if (work := works[task])]
            nothing = share.keys[:0]
            read = torch.cat(reads or [nothing])
            # [read] of all tasks: which rows the bad ones have read.
            is_read = torch.isin(share.keys, read)
            vectors = share.vectors[:-1]
            own_suspects = suspects(share.keys[is_read], vectors[is_read])
        else:
            broken = [name for name, slope in summed.dense.items() if not slope.isfinite().all()]
            whose = f"the gradient of {broken[0]}" if broken else "a gradient"
            what = f"all losses are finite, {whose} is not"
            # A row's key, from its number among this rank's rows (trainer/embeddings/keys.py).
            keys = summed.rows * comm.size + comm.rank
            own_suspects = suspects(keys, summed.gradient)
        of_ranks = comm.gather(own_suspects, "what is not finite")
        first = sorted({key for part in of_ranks for key in part})[:SUSPECTS]
        shown = ", ".join(names.name(key) for key in first)
        return f"step {step}: {what}; see rows {shown}; {CALMER}"

    def _update(
        self,
        rows: Tensor,
        gradient: Tensor,
        slopes: dict[str, Tensor],
        shrink: float,
        step: int,
        rate: float,
    ) -> None:
        train = self.train
        self.tables.update(self.rows, rows, gradient, step, rate * train.learning_rate, shrink)
        if train.weight_decay or train.max_norm is not None:
            shorten(self.tables.values, rows, rate * train.weight_decay, train.max_norm)
        clipped = {name: slope * shrink for name, slope in slopes.items()}
        self.dense_optimiser.update(self.dense, clipped, step, rate * train.dense_learning_rate)
        self.weighting.project(self.dense)
        for owner in self._owners:
            owner.project(self.dense)


def collect_dense(
    weighting: dict[str, Tensor], owners: Iterable[DenseParameters]
) -> dict[str, Tensor]:
    """All dense parameters at their start values: the weighting's, then each task's in the order of
    the tasks. Raises ValueError where two own the same name."""
    dense = dict(weighting)
    for owner in owners:
        parameters = owner.start()
        if twice := dense.keys() & parameters.keys():
            raise ValueError(f"two own the dense parameters {sorted(twice)}")
        dense |= parameters
    return dense


def _ratios(totals: list[float], counts: list[float], without: float) -> list[float]:
    """Each total by its count; `without` where the count is 0."""
    tasks = zip(totals, counts, strict=True)
    return [total / count if count else without for total, count in tasks]


def _norm(square: float, slopes: Iterable[Tensor]) -> float:
    """Norm of all gradients together, from the rows' squared norm and the dense gradients."""
    squares = [slope.double().square().sum() for slope in slopes]
    dense = sum(float(each) for each in squares)
    return float((square + dense) ** 0.5)


def _not_finite(means: list[float], pairs: list[float]) -> list[int]:
    """Tasks whose loss is not finite, of those that have pairs in this step."""
    bad = []
    for task, (mean, count) in enumerate(zip(means, pairs, strict=True)):
        if count and not math.isfinite(mean):
            bad.append(task)
    return bad


def _row_optimiser(train: Train, rows: int, device: torch.device) -> RowOptimiser:
    if train.optimiser == "adam":
        return RowAdam(rows, train.dimension, device)
    kernel = build.if_wanted(train.arithmetic, lambda: AdagradKernel(train.dimension))
    return RowAdagrad(rows, kernel, device)


def suspects(keys: Tensor, vectors: Tensor) -> list[int]:
    """Keys of vectors [keys, d] that are not finite, the first SUSPECTS; where all are, of the
    longest ones, whose products overflow."""
    lengths = vectors.double().norm(dim=1)
    broken = keys[~torch.isfinite(lengths)]
    longest = keys[lengths.argsort(descending=True)]
    chosen = broken if len(broken) else longest
    first: list[int] = chosen[:SUSPECTS].tolist()
    return first
