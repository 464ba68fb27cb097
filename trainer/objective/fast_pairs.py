"""The fast step over centres with contexts: walks, edges, the `pairs` encoding of sessions, and the
links of relations.

A chunk of centres shares its negatives (trainer/objective/chunks.py); gradients are in closed form.
The compiled kernel and the step in PyTorch compute the same; tests/trainer holds the slow twin of
both: the same batch expanded to pairs, differentiated by autograd.
"""

import ctypes
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.data.streams import LaneRows, concatenate
from trainer.kernels import bindings, build
from trainer.objective.arithmetic import add_rows, scalar, softplus, total
from trainer.objective.batch import Dense, MinibatchWork, TaskLoss
from trainer.objective.chunks import NegativeSampling, Sampler, lay_out, put
from trainer.objective.relations import parameter_names, relational
from trainer.ranks.devices import moved


@dataclass(frozen=True)
class Alignment:
    """How a relation's pairs are scored: cross-entropy on t (r . r) + b with r = sigmoid(W e), or
    eq. 4 as printed (negated)."""

    matrix: Tensor
    """W [d, d]"""
    t: float
    b: float
    printed: bool


class CentreKernel:
    """The compiled step for vectors of one length and one kind of chunk."""

    def __init__(self, dimension: int, sampling: NegativeSampling) -> None:
        """Raises KernelError where it cannot be compiled."""
        sizes = (dimension, sampling.chunk, sampling.chunk_negatives)
        self._pairs = bindings.bind_pairs(*sizes)
        self._relation = bindings.bind_relation(*sizes)

    def pairs(
        self, vectors: Tensor, gradient: Tensor, rows: "CentreRows", weight: float, scale: float
    ) -> Tensor:
        """The loss of skip-gram, a sum over pairs; adds scale * its gradient to `gradient`. Both
        [rows + 1, d], the last row for padding.

        weight: what a negative counts for each context of the centre.
        """
        loss = self._pairs(*_common(vectors, gradient, rows), weight, scale)
        return scalar(loss)

    def relation(
        self,
        vectors: Tensor,
        gradient: Tensor,
        rows: "CentreRows",
        weight: float,
        scale: float,
        alignment: Alignment,
    ) -> tuple[Tensor, list[Tensor]]:
        """(loss of a relation, scale * its gradients of W, t and b); rows as above."""
        by_matrix = torch.empty_like(alignment.matrix)
        slopes = [by_matrix, torch.empty(()), torch.empty(())]
        matrix = build.pointer(alignment.matrix)
        head = (matrix, alignment.t, alignment.b, int(alignment.printed))
        common = _common(vectors, gradient, rows)
        written = map(build.pointer, slopes)
        loss = self._relation(*common, weight, scale, *head, *written)
        return scalar(loss), slopes


def _common(
    vectors: Tensor, gradient: Tensor, rows: "CentreRows"
) -> tuple[ctypes.c_void_p | int, ...]:
    """What both kernels begin with."""
    tensors = (vectors, gradient, rows.centres, rows.first, rows.contexts, rows.negatives)
    return (*map(build.pointer, tensors), len(rows.negatives), len(vectors))


class CentreWork(MinibatchWork["CentreChunks"]):
    """What both kinds of tasks have in common."""

    def __init__(
        self,
        lanes: LaneRows,
        sampler: Sampler,
        sampling: NegativeSampling,
        offsets: tuple[int, int],
        kernel: CentreKernel | None = None,
    ) -> None:
        """offsets: of the centres' and of the contexts' table; kernel: made for this sampling;
        none: PyTorch computes."""
        super().__init__(CentreChunks(lanes, sampler, sampling, offsets))
        self._kernel = kernel
        # N drawn negatives stand for k of each context: the sum over them, times k / N, has the
        # expectation that the sum over k own ones has.
        self._weight = sampling.negatives / sampling.chunk_negatives


class PairWork(CentreWork):
    """Skip-gram over centres with contexts (walks, edges, the `pairs` encoding of sessions)."""

    def evaluate(
        self,
        index: Tensor,
        vectors: Tensor,
        gradient: Tensor,
        scale: float,
        dense: Dense,  # noqa: ARG002
    ) -> TaskLoss:
        """See Work."""
        rows = self._batch.rows(index, len(vectors) - 1)
        if self._kernel is not None:
            loss = self._kernel.pairs(vectors, gradient, rows, self._weight, scale)
            return TaskLoss(loss)
        return self._by_pytorch(rows, vectors, gradient, scale)

    def _by_pytorch(
        self, rows: "CentreRows", vectors: Tensor, gradient: Tensor, scale: float
    ) -> TaskLoss:
        chunks = self._batch
        # [chunks, T, N]: a negative counts once for each context that it is not itself.
        weight = (chunks.degree - chunks.own) * self._weight
        a = F.embedding(rows.centres, vectors)  # [chunks * T, d]
        b = F.embedding(rows.contexts, vectors)  # [pairs, d]
        z = F.embedding(rows.negatives, vectors)  # [chunks, N, d]
        positive, near = chunks.scores(a, b, z)
        # Slopes of softplus, in closed form: autograd would keep every intermediate tensor.
        away_slope = torch.sigmoid(-positive)
        near_slope = torch.sigmoid(near)
        attraction = total(softplus(-positive, away_slope))
        repulsion = total(softplus(near, near_slope) * weight)
        pull = away_slope * -scale
        push = near_slope * weight * scale
        to_a, to_b, to_z = chunks.back(pull, push, a, b, z)
        add_rows(gradient, rows.centres, to_a)
        add_rows(gradient, rows.contexts, to_b)
        add_rows(gradient, rows.negatives, to_z)
        return TaskLoss(attraction + repulsion)


class RelationWork(CentreWork):
    """Alignment of items (centres) with the values linked to them (contexts) in the relational
    space (trainer/objective/relations.py)."""

    def __init__(
        self,
        relation: str,
        lanes: LaneRows,
        sampler: Sampler,
        sampling: NegativeSampling,
        offsets: tuple[int, int],
        printed: bool,
        kernel: CentreKernel | None = None,
    ) -> None:
        super().__init__(lanes, sampler, sampling, offsets, kernel)
        self._names = parameter_names(relation)
        self._printed = printed

    def evaluate(
        self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        """See Work."""
        rows = self._batch.rows(index, len(vectors) - 1)
        if self._kernel is None:
            return self._by_pytorch(rows, vectors, gradient, scale, dense)
        matrix, t, b = (dense[name] for name in self._names)
        alignment = Alignment(matrix, float(t), float(b), self._printed)
        loss, slopes = self._kernel.relation(
            vectors, gradient, rows, self._weight, scale, alignment
        )
        return TaskLoss(loss, dict(zip(self._names, slopes, strict=True)))

    def _by_pytorch(
        self, rows: "CentreRows", vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        chunks = self._batch
        w_name, t_name, b_name = self._names
        matrix = dense[w_name]
        # [chunks, T, N]: a negative that is linked to the item counts nothing at all.
        weight = chunks.degree * (chunks.own == 0) * self._weight
        # Centres [chunks * T], contexts [pairs], negatives [chunks, N], and their vectors [..., d].
        positions = (rows.centres, rows.contexts, rows.negatives)
        plain = [F.embedding(part, vectors) for part in positions]
        mapped = [relational(part, matrix) for part in plain]
        positive, negative = chunks.scores(*mapped)
        loss, pull, push, by_t, by_b = self._loss(positive, negative, weight, scale, dense)
        by_matrix = torch.zeros_like(matrix)
        back = chunks.back(pull, push, *mapped)
        for position, e, r, slope in zip(positions, plain, mapped, back, strict=True):
            # r = sigmoid(W e): d/d(W e) = slope * r (1 - r); [..., d] -> [rows, d]
            d = r.shape[-1]
            before = (slope * r * (1 - r)).reshape(-1, d)
            # [rows, d] x [d, d] -> [rows, d], back to e
            add_rows(gradient, position, before @ matrix)
            # [d, rows] x [rows, d] -> [d, d], to W
            by_matrix += before.T @ e.reshape(-1, d)
        return TaskLoss(loss, {t_name: by_t, b_name: by_b, w_name: by_matrix})

    def _loss(
        self, positive: Tensor, negative: Tensor, weight: Tensor, scale: float, dense: Dense
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(loss, scale * its slopes by the positive dot products [pairs] and by the negative ones
        [chunks, T, N], scale * its gradients by t and by b)."""
        if self._printed:
            # Eq. 4 is linear in the dot products: every slope is a weight.
            loss = total(negative * weight) - total(positive)
            pull = torch.full_like(positive, -scale)
            by_t, by_b = loss.new_zeros(2).float()
            return loss, pull, weight * scale, by_t, by_b
        _, t_name, b_name = self._names
        t = dense[t_name]
        b = dense[b_name]
        away = -(t * positive + b)
        near = t * negative + b
        away_slope = torch.sigmoid(away)
        near_slope = torch.sigmoid(near)
        attraction = total(softplus(away, away_slope))
        repulsion = total(softplus(near, near_slope) * weight)
        pull = away_slope * -scale
        push = near_slope * weight * scale
        by_t = (pull * positive).sum() + (push * negative).sum()
        by_b = pull.sum() + push.sum()
        return attraction + repulsion, pull * t, push * t, by_t, by_b


@dataclass(frozen=True)
class CentreRows:
    """What stands where: rows of the vectors, int64."""

    centres: Tensor
    """[chunks * T]"""
    first: Tensor
    """[chunks * T + 1] the first of each centre's contexts, and their number."""
    contexts: Tensor
    """[pairs]"""
    negatives: Tensor
    """[chunks, N]"""


class CentreChunks:
    """Centres in chunks, each with a ragged list of contexts."""

    def __init__(
        self,
        lanes: LaneRows,
        sampler: Sampler,
        sampling: NegativeSampling,
        offsets: tuple[int, int],
    ) -> None:
        """Lays out the lanes' rows and draws their negatives."""
        rows = concatenate([rows for _, rows in lanes])
        if rows.centres is None:
            raise ValueError("centres with contexts are wanted, these rows are sequences")
        centre_offset, context_offset = offsets
        lane_centres = [(lane, len(rows)) for lane, rows in lanes]
        layout = lay_out(lane_centres, sampling.chunk)
        # [chunks, N]
        negatives = sampler.draw(layout.lane, layout.number, sampling.chunk_negatives)
        # Contexts and negatives are both of the output table: [pairs + chunks * N].
        outputs = np.concatenate((rows.values, negatives.reshape(-1))) + context_offset
        inputs = rows.centres + centre_offset
        keys = np.concatenate((inputs, outputs))
        self.pairs = len(rows.values)
        self._parts = [len(rows), len(rows.values), negatives.size]
        self._token_grid = layout.token_grid
        self.keys = torch.from_numpy(keys)
        """Of centres, contexts and negatives, one after the other."""
        self.contexts = torch.from_numpy(rows.values)
        """[pairs] rows of the context view."""
        self.negatives = torch.from_numpy(negatives)
        """[chunks, N] rows of the context view."""
        self.degrees = torch.from_numpy(layout.spread(rows.lengths, 0))
        """[chunks, T] contexts of each centre, 0 for padding."""

    def move(self, device: torch.device) -> None:
        """Takes the tensors to a device."""
        for name in ("keys", "contexts", "negatives", "degrees", "_token_grid"):
            setattr(self, name, moved(getattr(self, name), device))

    @cached_property
    def centre_of(self) -> Tensor:
        """[pairs] flat position of each context's centre in [chunks * T]."""
        degrees = self.degrees.view(-1)
        centres = torch.arange(len(degrees), device=degrees.device)
        # The size is known here: without it the host would wait for a device to add it up.
        return centres.repeat_interleave(degrees, output_size=self.pairs)

    @cached_property
    def degree(self) -> Tensor:
        """[chunks, T, 1] contexts of each centre, 0 for padding; float32."""
        return self.degrees.float().unsqueeze(2)

    @cached_property
    def own(self) -> Tensor:
        """[chunks, T, N] how many of the centre's contexts are the negative itself."""
        chunks, chunk = self.degrees.shape
        chunk_of = torch.div(self.centre_of, chunk, rounding_mode="floor")
        # [chunks, N] -> [pairs, N]: the negatives that a pair's centre shares.
        shared = self.negatives.index_select(0, chunk_of)
        equal = (self.contexts.unsqueeze(1) == shared).float()
        # [pairs, N] -> [chunks * T, N], summed over the contexts of a centre.
        flat = equal.new_zeros(chunks * chunk, equal.shape[1])
        flat = flat.index_add_(0, self.centre_of, equal)
        return flat.view(chunks, chunk, -1)

    def rows(self, index: Tensor, padding: int) -> CentreRows:
        """Where the vectors of `keys` stand, from their indices."""
        centres, contexts, negatives = torch.split(index, self._parts)
        ends = self.degrees.view(-1).cumsum(0)
        first = torch.cat((self.degrees.new_zeros(1), ends))
        # [tokens] -> [chunks, T] -> [chunks * T]
        centre_grid = put(centres, self._token_grid, padding)
        negatives = negatives.view(self.negatives.shape)
        return CentreRows(centre_grid.view(-1), first, contexts, negatives)

    def scores(self, a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Dot products of centres a [chunks * T, d] with contexts b [pairs, d] and negatives z
        [chunks, N, d]: [pairs], [chunks, T, N]."""
        # [chunks * T, d] -> [pairs, d]: each context's centre beside it.
        centres = F.embedding(self.centre_of, a)
        positive = (centres * b).sum(1)
        # [chunks, T, d] x [chunks, d, N] -> [chunks, T, N]
        shaped = a.view(*self.degrees.shape, -1)
        return positive, shaped @ z.mT

    def back(
        self, pull: Tensor, push: Tensor, a: Tensor, b: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of a, b and z from the slopes by the positive [pairs] and negative [chunks, T,
        N] dot products."""
        shaped = a.view(*self.degrees.shape, -1)
        pairwise = pull.unsqueeze(1)
        # [chunks, T, N] x [chunks, N, d] -> [chunks, T, d] -> [chunks * T, d]
        from_negatives = (push @ z).view_as(a)
        # [pairs, d] added to [chunks * T, d], each where its centre is.
        to_a = from_negatives.index_add(0, self.centre_of, pairwise * b)
        to_b = pairwise * F.embedding(self.centre_of, a)
        # [chunks, N, T] x [chunks, T, d] -> [chunks, N, d]
        return to_a, to_b, push.mT @ shaped
