"""The exact step: every positive pair has its own k negatives, and autograd differentiates the loss
as the paper writes it.

The paper's settings, the oracle of the fast step, and the reference of quality. A negative equal to
the pair's own context (in a relation: to any value linked to the item) counts nothing. A compiled
kernel computes the same in closed form, for studies of some size.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.arrays import Bools, Int64s
from trainer.data.streams import LaneRows, StreamRows
from trainer.kernels import bindings, build
from trainer.objective.arithmetic import scalar
from trainer.objective.batch import Dense, MinibatchWork, TaskLoss
from trainer.objective.chunks import Sampler
from trainer.objective.relations import parameter_names, relational
from trainer.ranks.devices import moved


class Pairs:
    """Positive pairs with their own negatives."""

    def __init__(self, lane_pairs: list["LanePairs"], offsets: tuple[int, int]) -> None:
        """offsets: of the centres' and of the contexts' table."""
        columns = (np.concatenate(parts) for parts in zip(*lane_pairs, strict=True))
        centres, contexts, negatives, counts = columns
        centre_offset, context_offset = offsets
        self._shape = negatives.shape
        self.pairs = len(negatives)
        inputs = centres + centre_offset
        # Contexts and negatives are both of the output table: [pairs + pairs * k].
        outputs = np.concatenate((contexts, negatives.reshape(-1))) + context_offset
        keys = np.concatenate((inputs, outputs))
        self.keys = torch.from_numpy(keys)
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
        self.keys = moved(self.keys, device)
        self.counts = moved(self.counts, device)


UNSCALED = (1.0, 0.0, False)
"""Skip-gram's scores: the dot products themselves."""


class ExactKernel:
    """The compiled step for vectors of one length and so many negatives a pair."""

    def __init__(self, dimension: int, negatives: int) -> None:
        """Raises KernelError where it cannot be compiled."""
        self._exact = bindings.bind_exact(dimension, negatives)

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
        by_t = torch.empty(())
        by_b = torch.empty(())
        tensors = (vectors, gradient, *pairs.split(index), pairs.counts)
        pointers = map(build.pointer, tensors)
        written = map(build.pointer, (by_t, by_b))
        loss = self._exact(*pointers, pairs.pairs, scale, *head, *written)
        return scalar(loss), by_t, by_b


class ExactWork(MinibatchWork[Pairs]):
    """What both kinds of tasks have in common."""

    def __init__(
        self, lane_pairs: list["LanePairs"], offsets: tuple[int, int], kernel: ExactKernel | None
    ) -> None:
        """kernel: made for so many negatives; none: autograd computes."""
        super().__init__(Pairs(lane_pairs, offsets))
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
        lane_pairs = [
            _draw(lane, rows, window, sampler, negatives, whole_row=False) for lane, rows in lanes
        ]
        super().__init__(lane_pairs, offsets, kernel)

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
            loss, _, _ = self._kernel(vectors, gradient, self._batch, index, scale)
            return TaskLoss(loss)
        leaf = vectors.detach().requires_grad_()
        # [pairs, d], [pairs, d], [pairs, k, d]
        centres, contexts, negatives = (leaf[part] for part in self._batch.split(index))
        positive, negative = _dot_products(centres, contexts, negatives)
        attraction = F.softplus(-positive)
        repulsion = F.softplus(negative) * self._batch.counts
        loss = _summed(attraction, repulsion)
        (slope,) = torch.autograd.grad(loss, leaf)
        gradient += scale * slope
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
        # Links come as centres with contexts: they have no window.
        lane_pairs = [
            _draw(lane, rows, 0, sampler, negatives, whole_row=True) for lane, rows in lanes
        ]
        super().__init__(lane_pairs, offsets, kernel)
        self._names = parameter_names(relation)
        self._printed = printed

    def evaluate(
        self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        """See Work."""
        if self._kernel is not None:
            return self._compiled(self._kernel, index, vectors, gradient, scale, dense)
        leaf = vectors.detach().requires_grad_()
        head = {name: dense[name].detach().requires_grad_() for name in self._names}
        matrix, t, b = head.values()
        # [pairs, d], [pairs, d], [pairs, k, d], through W
        parts = self._batch.split(index)
        centres, contexts, negatives = (relational(leaf[part], matrix) for part in parts)
        positive, negative = _dot_products(centres, contexts, negatives)
        counts = self._batch.counts
        if self._printed:
            loss = _summed(-positive, negative * counts)
        else:
            attraction = F.softplus(-(t * positive + b))
            repulsion = F.softplus(t * negative + b) * counts
            loss = _summed(attraction, repulsion)
        # The printed form has neither t nor b: their gradients are 0.
        parameters = [leaf, *head.values()]
        by_vectors, *by_head = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradient += scale * by_vectors
        slopes = {}
        for (name, value), slope in zip(head.items(), by_head, strict=True):
            slopes[name] = torch.zeros_like(value) if slope is None else scale * slope
        return TaskLoss(loss.detach(), slopes)

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
        matrix, t, b = (dense[name] for name in self._names)
        is_read = torch.zeros(len(vectors), dtype=torch.int64)
        is_read[index] = 1
        # [read] rows of `vectors`; `number` of a row is where it stands among them.
        rows = is_read.nonzero().squeeze(1)
        number = is_read.cumsum(0) - 1
        e = vectors.index_select(0, rows)  # [read, d]
        r = relational(e, matrix)
        by_r = torch.zeros_like(r)
        head = (float(t), float(b), self._printed)
        positions = number[index]
        loss, by_t, by_b = kernel(r, by_r, self._batch, positions, scale, head)
        # r = sigmoid(W e): d/d(W e) = slope * r (1 - r); [read, d]
        before = by_r * r * (1 - r)
        gradient.index_add_(0, rows, before @ matrix)
        # [d, read] x [read, d] -> [d, d]
        by_matrix = before.T @ e
        return TaskLoss(loss, dict(zip(self._names, (by_matrix, by_t, by_b), strict=True)))


def _dot_products(centres: Tensor, contexts: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Of centres [pairs, d] with contexts [pairs, d] and negatives [pairs, k, d]: [pairs] and
    [pairs, k]."""
    positive = (centres * contexts).sum(1)
    # [pairs, k, d] x [pairs, d, 1] -> [pairs, k, 1] -> [pairs, k]
    negative = (negatives @ centres.unsqueeze(2)).squeeze(2)
    return positive, negative


def _summed(attraction: Tensor, repulsion: Tensor) -> Tensor:
    """The sum of all terms; [] float64: in float32 a million of them lose half their digits."""
    return attraction.sum(dtype=torch.float64) + repulsion.sum(dtype=torch.float64)


def expand(rows: StreamRows, window: int) -> tuple[Int64s, Int64s, Int64s]:
    """All positive pairs of some rows: (centres, contexts, number of the row), each [pairs].

    Sequences are expanded position by position, contexts in order of distance -window .. window
    (the window of eq. 1); centres keep their contexts' order. One sequence of four, window 1:

    >>> sequence = StreamRows(None, np.array([7, 8, 9, 7]), np.array([0, 4]))
    >>> centres, contexts, _ = expand(sequence, window=1)
    >>> list(zip(centres.tolist(), contexts.tolist()))
    [(7, 8), (8, 7), (8, 9), (9, 8), (9, 7), (7, 9)]
    """
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    if rows.centres is not None:
        return rows.centres[row], rows.values, row
    distances = np.arange(-window, window + 1)
    shifts = distances[distances != 0]
    # [tokens, 2 window]: where each token's neighbours would stand, and which are in its sequence.
    neighbours = np.arange(len(rows.values))[:, None] + shifts
    begins = rows.offsets[row]
    ends = rows.offsets[row + 1]
    after_begin = neighbours >= begins[:, None]
    before_end = neighbours < ends[:, None]
    inside = after_begin & before_end
    # [pairs]: in the order of the tokens, and of the shifts within one.
    position, _ = np.nonzero(inside)
    centres = rows.values[position]
    contexts = rows.values[neighbours[inside]]
    return centres, contexts, row[position]


class LanePairs(NamedTuple):
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
) -> LanePairs:
    """A lane's pairs, each with own negatives, keyed by (seed and task, step, lane, pair,
    position).

    A negative counts unless it is the pair's own context; with `whole_row`, unless it is any
    context of the pair's row.
    """
    centres, contexts, row = expand(rows, window)
    pairs = len(centres)
    # [pairs, k]
    drawn = sampler.draw(np.full(pairs, lane), np.arange(pairs), negatives)
    own_context = drawn == contexts[:, None]
    is_context = _contexts_of_row(rows, row, drawn) if whole_row else own_context
    return LanePairs(centres, contexts, drawn, ~is_context)


def _contexts_of_row(rows: StreamRows, row: Int64s, negatives: Int64s) -> Bools:
    """[pairs, k]: whether the negative is among the contexts of the row [pairs] that the pair comes
    from."""
    # A (row, node) as one number, so that one search finds them all.
    nodes = max(rows.values.max(initial=0), negatives.max(initial=0)) + 1
    row_of_value = np.repeat(np.arange(len(rows)), rows.lengths)
    links = row_of_value * nodes + rows.values
    # [pairs, 1] and [pairs, k] -> [pairs, k]
    drawn = row[:, None] * nodes + negatives
    return np.isin(drawn, links)
