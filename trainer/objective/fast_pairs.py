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
from trainer.kernels import build
from trainer.objective.arithmetic import add_rows, scalar, softplus, total
from trainer.objective.batch import Dense, MinibatchWork, TaskLoss
from trainer.objective.chunks import NegativeSampling, Sampler, lay_out, put
from trainer.objective.relations import relational
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

    def __init__(self, dimension: int, settings: NegativeSampling) -> None:
        """Raises KernelError where it cannot be compiled."""
        library = build.load_library(
            "centres", dimension=dimension, chunk=settings.chunk, negatives=settings.chunk_negatives
        )
        pointer, whole, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        self._pairs, self._relation = library.pairs, library.relation
        self._pairs.restype = self._relation.restype = ctypes.c_double
        self._pairs.argtypes = [*[pointer] * 6, *[whole] * 2, *[real] * 2]
        self._relation.argtypes = [
            *self._pairs.argtypes,
            pointer,
            real,
            real,
            ctypes.c_int,
            *[pointer] * 3,
        ]

    def pairs(
        self, vectors: Tensor, gradient: Tensor, places: "CentreRows", weight: float, scale: float
    ) -> Tensor:
        """The loss of skip-gram, a sum over pairs; adds scale * its gradient to `gradient`. Both
        [rows + 1, d], the last row for padding.

        weight: what a negative counts for each context of the centre.
        """
        return scalar(self._pairs(*_common(vectors, gradient, places), weight, scale))

    def relation(
        self,
        vectors: Tensor,
        gradient: Tensor,
        places: "CentreRows",
        weight: float,
        scale: float,
        alignment: Alignment,
    ) -> tuple[Tensor, list[Tensor]]:
        """(loss of a relation, scale * its gradients of W, t and b); rows as above."""
        slopes = [torch.empty_like(alignment.matrix), torch.empty(()), torch.empty(())]
        head = (build.pointer(alignment.matrix), alignment.t, alignment.b, int(alignment.printed))
        loss = self._relation(
            *_common(vectors, gradient, places), weight, scale, *head, *map(build.pointer, slopes)
        )
        return scalar(loss), slopes


def _common(
    vectors: Tensor, gradient: Tensor, places: "CentreRows"
) -> tuple[ctypes.c_void_p | int, ...]:
    """What both kernels begin with."""
    tensors = (vectors, gradient, places.centres, places.first, places.contexts, places.negatives)
    return (*map(build.pointer, tensors), len(places.negatives), len(vectors))


class CentreWork(MinibatchWork["CentreChunks"]):
    """What both kinds of tasks have in common."""

    def __init__(
        self,
        lanes: LaneRows,
        sampler: Sampler,
        settings: NegativeSampling,
        offsets: tuple[int, int],
        kernel: CentreKernel | None = None,
    ) -> None:
        """offsets: of the centres' and of the contexts' table; kernel: made for these settings;
        none: PyTorch computes."""
        super().__init__(CentreChunks(lanes, sampler, settings, offsets))
        self._kernel, self._weight = kernel, settings.negatives / settings.chunk_negatives


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
        chunks, places = self._batch, self._batch.places(index, len(vectors) - 1)
        if self._kernel is not None:
            return TaskLoss(self._kernel.pairs(vectors, gradient, places, self._weight, scale))
        centres, contexts, negatives = places.centres, places.contexts, places.negatives
        weight = (chunks.degree - chunks.own) * self._weight
        a, b, z = (
            F.embedding(centres, vectors),
            F.embedding(contexts, vectors),
            F.embedding(negatives, vectors),
        )
        positive, near = chunks.scores(a, b, z)
        away_slope, near_slope = torch.sigmoid(-positive), torch.sigmoid(near)
        loss = total(softplus(-positive, away_slope)) + total(softplus(near, near_slope) * weight)
        pull, push = away_slope * -scale, near_slope * weight * scale
        for rows, part in zip(
            (centres, contexts, negatives), chunks.back(pull, push, a, b, z), strict=True
        ):
            add_rows(gradient, rows, part)
        return TaskLoss(loss)


class RelationWork(CentreWork):
    """Alignment of items (centres) with the values linked to them (contexts) in the relational
    space (trainer/objective/relations.py)."""

    def __init__(
        self,
        relation: str,
        lanes: LaneRows,
        sampler: Sampler,
        settings: NegativeSampling,
        offsets: tuple[int, int],
        printed: bool,
        kernel: CentreKernel | None = None,
    ) -> None:
        super().__init__(lanes, sampler, settings, offsets, kernel)
        self._relation, self._printed = relation, printed

    def evaluate(
        self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        """See Work."""
        places = self._batch.places(index, len(vectors) - 1)
        if self._kernel is None:
            return self._by_pytorch(places, vectors, gradient, scale, dense)
        matrix, t, b = (dense[f"{self._relation}.{name}"] for name in "Wtb")
        alignment = Alignment(matrix, float(t), float(b), self._printed)
        loss, slopes = self._kernel.relation(
            vectors, gradient, places, self._weight, scale, alignment
        )
        return TaskLoss(
            loss,
            {f"{self._relation}.{name}": slope for name, slope in zip("Wtb", slopes, strict=True)},
        )

    def _by_pytorch(
        self, places: "CentreRows", vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        chunks, matrix = self._batch, dense[f"{self._relation}.W"]
        weight = chunks.degree * (chunks.own == 0) * self._weight
        rows = (places.centres, places.contexts, places.negatives)
        plain = [F.embedding(part, vectors) for part in rows]
        mapped = [relational(part, matrix) for part in plain]
        dots = chunks.scores(*mapped)
        loss, pull, push, head = self._loss(dots, weight, scale, dense)
        head[f"{self._relation}.W"] = torch.zeros_like(matrix)
        for place, e, r, slope in zip(
            rows, plain, mapped, chunks.back(pull, push, *mapped), strict=True
        ):
            # r = sigmoid(W e): d/d(W e) = slope * r (1 - r), then one product back to e and one to
            # W.
            before = (slope * r * (1 - r)).reshape(-1, r.shape[-1])
            add_rows(gradient, place, before @ matrix)
            head[f"{self._relation}.W"] += before.T @ e.reshape(-1, e.shape[-1])
        return TaskLoss(loss, head)

    def _loss(
        self, dots: tuple[Tensor, Tensor], weight: Tensor, scale: float, dense: Dense
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """(loss, scale * its slope by each positive dot product, by each negative one, gradients of
        t and b)."""
        positive, negative = dots
        t, b = dense[f"{self._relation}.t"], dense[f"{self._relation}.b"]
        if self._printed:
            loss = total(negative * weight) - total(positive)
            return (
                loss,
                torch.full_like(positive, -scale),
                weight * scale,
                _head(self._relation, loss.new_zeros(()).float(), loss.new_zeros(()).float()),
            )
        away, near = -(t * positive + b), t * negative + b
        away_slope, near_slope = torch.sigmoid(away), torch.sigmoid(near)
        loss = total(softplus(away, away_slope)) + total(softplus(near, near_slope) * weight)
        pull, push = away_slope * -scale, near_slope * weight * scale
        head = _head(
            self._relation,
            (pull * positive).sum() + (push * negative).sum(),
            pull.sum() + push.sum(),
        )
        return loss, pull * t, push * t, head


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
        settings: NegativeSampling,
        offsets: tuple[int, int],
    ) -> None:
        """Lays out the lanes' rows and draws their negatives."""
        rows = concatenate([rows for _, rows in lanes])
        if rows.centres is None:
            raise ValueError("centres with contexts are wanted, these rows are sequences")
        layout = lay_out([(lane, len(rows)) for lane, rows in lanes], settings.chunk)
        negatives = sampler.draw(layout.lane, layout.number, settings.chunk_negatives)
        seen = np.concatenate((rows.values, negatives.reshape(-1))) + offsets[1]
        self.pairs = len(rows.values)
        self._parts = [len(rows), len(rows.values), negatives.size]
        self._places = layout.places
        self.keys = torch.from_numpy(np.concatenate((rows.centres + offsets[0], seen)))
        """Of centres, contexts and negatives, one after the other."""
        self.contexts, self.negatives = torch.from_numpy(rows.values), torch.from_numpy(negatives)
        """[pairs] and [chunks, N] rows of the context view."""
        self.degrees = torch.from_numpy(layout.spread(rows.lengths, 0))
        """[chunks, T] contexts of each centre, 0 for padding."""

    def move(self, device: torch.device) -> None:
        """Takes the tensors to a device."""
        for name in ("keys", "contexts", "negatives", "degrees", "_places"):
            setattr(self, name, moved(getattr(self, name), device))

    @cached_property
    def centre_of(self) -> Tensor:
        """[pairs] flat place of each context's centre in [chunks * T]."""
        degrees = self.degrees.view(-1)
        return torch.arange(len(degrees), device=degrees.device).repeat_interleave(
            degrees, output_size=self.pairs
        )

    @cached_property
    def degree(self) -> Tensor:
        """[chunks, T, 1] contexts of each centre, 0 for padding; float32."""
        return self.degrees.float().unsqueeze(2)

    @cached_property
    def own(self) -> Tensor:
        """[chunks, T, N] how many of the centre's contexts are the negative itself."""
        chunks, chunk = self.degrees.shape
        of_chunk = self.negatives.index_select(
            0, torch.div(self.centre_of, chunk, rounding_mode="floor")
        )
        equal = (self.contexts.unsqueeze(1) == of_chunk).float()
        flat = equal.new_zeros(chunks * chunk, equal.shape[1]).index_add_(0, self.centre_of, equal)
        return flat.view(chunks, chunk, -1)

    def places(self, index: Tensor, padding: int) -> CentreRows:
        """Where the vectors of `keys` stand, from their indices."""
        centres, contexts, negatives = torch.split(index, self._parts)
        first = torch.cat((self.degrees.new_zeros(1), self.degrees.view(-1).cumsum(0)))
        return CentreRows(
            put(centres, self._places, padding).view(-1),
            first,
            contexts,
            negatives.view(self.negatives.shape),
        )

    def scores(self, a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Dot products of centres a [chunks * T, d] with contexts b [pairs, d] and negatives z
        [chunks, N, d]: [pairs], [chunks, T, N]."""
        shaped = a.view(*self.degrees.shape, -1)
        return (F.embedding(self.centre_of, a) * b).sum(1), shaped @ z.mT

    def back(
        self, pull: Tensor, push: Tensor, a: Tensor, b: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of a, b and z from the slopes by the positive [pairs] and negative [chunks, T,
        N] dot products."""
        shaped = a.view(*self.degrees.shape, -1)
        to_a = (push @ z).view_as(a).index_add(0, self.centre_of, pull.unsqueeze(1) * b)
        return to_a, pull.unsqueeze(1) * F.embedding(self.centre_of, a), push.mT @ shaped


def _head(relation: str, t: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {f"{relation}.t": t, f"{relation}.b": b}
