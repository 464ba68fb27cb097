"""The exact step: every positive pair has its own k negatives, and autograd differentiates the loss
as the paper writes it.

The paper's settings, the oracle of the fast step, and the reference of quality. A negative equal to
the pair's own context (in a relation: to any value linked to the item) counts nothing. A compiled
kernel computes the same in closed form, for studies of some size.
"""

import ctypes
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.arrays import Bools, Int64s
from trainer.data.streams import LaneRows, StreamRows
from trainer.kernels import build
from trainer.objective.arithmetic import scalar
from trainer.objective.batch import Dense, MinibatchWork, TaskLoss
from trainer.objective.chunks import Sampler
from trainer.objective.relations import relational
from trainer.ranks.devices import moved


class Pairs:
    """Positive pairs with their own negatives."""

    def __init__(self, drawn: list["Drawn"], offsets: tuple[int, int]) -> None:
        """offsets: of the centres' and of the contexts' table."""
        centres, contexts, negatives, counts = (
            np.concatenate(parts) for parts in zip(*drawn, strict=True)
        )
        self.pairs, _ = self._shape = negatives.shape
        contexts = np.concatenate((contexts, negatives.reshape(-1))) + offsets[1]
        self.keys = torch.from_numpy(np.concatenate((centres + offsets[0], contexts)))
        """Of centres [pairs], contexts [pairs] and negatives [pairs, k], one after the other."""
        self.counts = torch.from_numpy(counts)
        """[pairs, k] bool: whether the negative counts, and is no true context."""

    def split(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices into the vectors, from those of `keys`: [pairs], [pairs], [pairs, k]."""
        pairs, k = self._shape
        centres, contexts, negatives = torch.split(index, [pairs, pairs, pairs * k])
        return centres, contexts, negatives.view(self._shape)

    def move(self, device: torch.device) -> None:
        """Takes the tensors to a device."""
        self.keys, self.counts = moved(self.keys, device), moved(self.counts, device)


UNSCALED = (1.0, 0.0, False)
"""Skip-gram's scores: the dot products themselves."""


class ExactKernel:
    """The compiled step for vectors of one length and so many negatives a pair."""

    def __init__(self, dimension: int, negatives: int) -> None:
        """Raises KernelError where it cannot be compiled."""
        self._exact = build.load_library("exact", dimension=dimension, negatives=negatives).exact
        self._exact.restype = ctypes.c_double
        self._exact.argtypes = [
            *[ctypes.c_void_p] * 6,
            ctypes.c_int64,
            *[ctypes.c_float] * 3,
            ctypes.c_int,
            *[ctypes.c_void_p] * 2,
        ]

    def __call__(
        self,
        vectors: Tensor,
        gradient: Tensor,
        pairs: Pairs,
        index: Tensor,
        scale: float,
        head: tuple[float, float, bool] = UNSCALED,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, scale * its gradients by t and b); adds scale * its gradient by the vectors to
        `gradient` [rows, d].

        index: of the pairs' keys. head: (t, b, printed); a score is t * dot product + b; printed:
        the loss of eq. 4.
        """
        slopes, (t, b, printed) = (torch.empty(()), torch.empty(())), head
        places = (vectors, gradient, *pairs.split(index), pairs.counts)
        loss = self._exact(
            *map(build.pointer, places),
            pairs.pairs,
            scale,
            t,
            b,
            printed,
            *map(build.pointer, slopes),
        )
        return scalar(loss), *slopes


class ExactWork(MinibatchWork[Pairs]):
    """What both kinds of tasks have in common."""

    def __init__(
        self, drawn: list["Drawn"], offsets: tuple[int, int], kernel: ExactKernel | None
    ) -> None:
        """kernel: made for so many negatives; none: autograd computes."""
        super().__init__(Pairs(drawn, offsets))
        self._kernel = kernel


class ExactIntraWork(ExactWork):
    """Eq. 1 to 3 over the pairs of sequences or of centres with contexts."""

    def __init__(
        self,
        lanes: LaneRows,
        window: int,
        sampler: Sampler,
        negatives: int,
        offsets: tuple[int, int],
        kernel: ExactKernel | None = None,
    ) -> None:
        drawn = [
            _draw(lane, rows, window, sampler, negatives, whole_row=False) for lane, rows in lanes
        ]
        super().__init__(drawn, offsets, kernel)

    def evaluate(
        self,
        index: Tensor,
        vectors: Tensor,
        gradient: Tensor,
        scale: float,
        dense: Dense,  # noqa: ARG002
    ) -> TaskLoss:
        """See Work."""
        if self._kernel is not None:
            return TaskLoss(self._kernel(vectors, gradient, self._batch, index, scale)[0])
        leaf = vectors.detach().requires_grad_()
        centres, contexts, negatives = (leaf[part] for part in self._batch.split(index))
        positive = F.softplus(-(centres * contexts).sum(1))
        negative = F.softplus((negatives @ centres.unsqueeze(2)).squeeze(2)) * self._batch.counts
        loss = positive.sum(dtype=torch.float64) + negative.sum(dtype=torch.float64)
        gradient += scale * torch.autograd.grad(loss, leaf)[0]
        return TaskLoss(loss.detach())


class ExactRelationWork(ExactWork):
    """The inter-view loss of trainer/objective/relations.py, or eq. 4 as printed (negated), over
    the links of items."""

    def __init__(
        self,
        relation: str,
        lanes: LaneRows,
        sampler: Sampler,
        negatives: int,
        offsets: tuple[int, int],
        printed: bool,
        kernel: ExactKernel | None = None,
    ) -> None:
        super().__init__(
            [_draw(lane, rows, 0, sampler, negatives, whole_row=True) for lane, rows in lanes],
            offsets,
            kernel,
        )
        self._relation, self._printed = relation, printed

    def evaluate(
        self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        """See Work."""
        if self._kernel is not None:
            return self._compiled(self._kernel, index, vectors, gradient, scale, dense)
        leaf = vectors.detach().requires_grad_()
        head = {
            name: dense[name].detach().requires_grad_()
            for name in (f"{self._relation}.{part}" for part in "Wtb")
        }
        matrix, t, b = head.values()
        centres, contexts, negatives = (
            relational(leaf[part], matrix) for part in self._batch.split(index)
        )
        counts = self._batch.counts
        positive, negative = (
            (centres * contexts).sum(1),
            (negatives @ centres.unsqueeze(2)).squeeze(2),
        )
        if self._printed:
            terms = -positive, negative * counts
        else:
            terms = F.softplus(-(t * positive + b)), F.softplus(t * negative + b) * counts
        loss = terms[0].sum(dtype=torch.float64) + terms[1].sum(dtype=torch.float64)
        slopes = torch.autograd.grad(loss, [leaf, *head.values()], allow_unused=True)
        gradient += scale * slopes[0]
        filled = (
            torch.zeros_like(value) if slope is None else scale * slope
            for value, slope in zip(head.values(), slopes[1:], strict=True)
        )
        return TaskLoss(loss.detach(), dict(zip(head, filled, strict=True)))

    def _compiled(
        self,
        kernel: ExactKernel,
        index: Tensor,
        vectors: Tensor,
        gradient: Tensor,
        scale: float,
        dense: Dense,
    ) -> TaskLoss:
        """Each distinct row goes through W once, and back."""
        matrix, t, b = (dense[f"{self._relation}.{part}"] for part in "Wtb")
        seen = torch.zeros(len(vectors), dtype=torch.int64)
        seen[index] = 1
        rows, number = seen.nonzero().squeeze(1), seen.cumsum(0) - 1
        e = vectors.index_select(0, rows)
        r = relational(e, matrix)
        by_r = torch.zeros_like(r)
        loss, by_t, by_b = kernel(
            r, by_r, self._batch, number[index], scale, (float(t), float(b), self._printed)
        )
        before = by_r * r * (1 - r)
        gradient.index_add_(0, rows, before @ matrix)
        return TaskLoss(
            loss,
            {
                f"{self._relation}.{part}": slope
                for part, slope in zip("Wtb", (before.T @ e, by_t, by_b), strict=True)
            },
        )


def expand(rows: StreamRows, window: int) -> tuple[Int64s, Int64s, Int64s]:
    """All positive pairs of some rows: (centres, contexts, number of the row), each [pairs].

    Sequences are expanded position by position, contexts in order of distance -window .. window;
    centres keep their contexts' order.
    """
    if rows.centres is not None:
        of = np.repeat(np.arange(len(rows)), rows.lengths)
        return rows.centres[of], rows.values, of
    shifts = np.array([shift for shift in range(-window, window + 1) if shift])
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    other = np.arange(len(rows.values))[:, None] + shifts
    inside = (other >= rows.offsets[row][:, None]) & (other < rows.offsets[row + 1][:, None])
    position = np.nonzero(inside)[0]
    return rows.values[position], rows.values[other[inside]], row[position]


class Drawn(NamedTuple):
    """A lane's pairs, as rows of the two views."""

    centres: Int64s
    """[pairs]"""
    contexts: Int64s
    """[pairs]"""
    negatives: Int64s
    """[pairs, k]"""
    counts: Bools
    """[pairs, k]"""


def _draw(
    lane: int, rows: StreamRows, window: int, sampler: Sampler, negatives: int, whole_row: bool
) -> Drawn:
    """A lane's pairs, each with own negatives, keyed by (seed and task, step, lane, pair,
    position).

    A negative counts unless it is the pair's own context; with `whole_row`, unless it is any
    context of the pair's row.
    """
    centres, contexts, of = expand(rows, window)
    drawn = sampler.draw(np.full(len(centres), lane), np.arange(len(centres)), negatives)
    true_context = _contexts_of_row(rows, of, drawn) if whole_row else drawn == contexts[:, None]
    return Drawn(centres, contexts, drawn, ~true_context)


def _contexts_of_row(rows: StreamRows, of: Int64s, negatives: Int64s) -> Bools:
    """[pairs, k]: whether the negative is among the contexts of the row that the pair comes
    from."""
    high = max(rows.values.max(initial=0), negatives.max(initial=0)) + 1
    links = np.repeat(np.arange(len(rows)), rows.lengths) * high + rows.values
    return np.isin(of[:, None] * high + negatives, links)
