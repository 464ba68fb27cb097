"""The fast step over centres with contexts: walks, edges, the `pairs` encoding of sessions, and the links of relations.

A chunk of centres shares its negatives (trainer/chunks.py); gradients are in closed form. The compiled kernel and the step in PyTorch
compute the same; tests/trainer holds the slow twin of both: the same batch expanded to pairs, differentiated by autograd.
"""

import ctypes
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.arithmetic import add_rows, softplus, total
from trainer.chunks import Ints, LaneRows, Layout, Sampler, Settings, lay_out
from trainer.kernels import build
from trainer.relations import relational
from trainer.streams import concatenate
from trainer.work import Dense, Outcome


@dataclass(frozen=True)
class Alignment:
    """How a relation's pairs are scored: cross-entropy on t (r . r) + b with r = sigmoid(W e), or eq. 4 as printed (negated)."""

    matrix: Tensor
    """W [d, d]"""
    t: float
    b: float
    printed: bool


class CentreKernel:
    """The compiled step for vectors of one length and one kind of chunk."""

    def __init__(self, dimension: int, settings: Settings) -> None:
        """Raises KernelError where it cannot be compiled."""
        library = build.load("centres", dimension=dimension, chunk=settings.chunk, negatives=settings.chunk_negatives)
        pointer, whole, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        self._pairs, self._relation = library.pairs, library.relation
        self._pairs.restype = self._relation.restype = ctypes.c_double
        self._pairs.argtypes = [*[pointer] * 6, *[whole] * 2, *[real] * 2]
        self._relation.argtypes = [*self._pairs.argtypes, pointer, real, real, ctypes.c_int, *[pointer] * 3]

    def pairs(self, vectors: Tensor, gradient: Tensor, places: "Places", weight: float, scale: float) -> float:
        """The loss of skip-gram, a sum over pairs; adds scale * its gradient to `gradient`. Both [rows + 1, d], the last row for padding.

        weight: what a negative counts for each context of the centre.
        """
        return float(self._pairs(*_common(vectors, gradient, places), weight, scale))

    def relation(
        self, vectors: Tensor, gradient: Tensor, places: "Places", weight: float, scale: float, alignment: Alignment
    ) -> tuple[float, list[Tensor]]:
        """(loss of a relation, scale * its gradients of W, t and b); rows as above."""
        slopes = [torch.empty_like(alignment.matrix), torch.empty(()), torch.empty(())]
        head = (build.pointer(alignment.matrix), alignment.t, alignment.b, int(alignment.printed))
        loss = self._relation(*_common(vectors, gradient, places), weight, scale, *head, *map(build.pointer, slopes))
        return float(loss), slopes


def _common(vectors: Tensor, gradient: Tensor, places: "Places") -> tuple[ctypes.c_void_p | int, ...]:
    """What both kernels begin with."""
    tensors = (vectors, gradient, places.centres, places.first, places.contexts, places.negatives)
    return (*map(build.pointer, tensors), len(places.negatives), len(vectors))


class PairWork:
    """Skip-gram over centres with contexts (walks, edges, the `pairs` encoding of sessions)."""

    def __init__(
        self, lanes: LaneRows, sampler: Sampler, settings: Settings, offsets: tuple[int, int], kernel: CentreKernel | None = None
    ) -> None:
        """kernel: made for these settings; none: PyTorch computes."""
        self._chunks, self._kernel = CentreChunks.of(lanes, sampler, settings), kernel
        self._weight = settings.negatives / settings.chunk_negatives
        self.pairs = len(self._chunks.contexts)
        self.keys = self._chunks.keys(*offsets)

    def evaluate(self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense) -> Outcome:  # noqa: ARG002
        """See Work."""
        chunks, places = self._chunks, self._chunks.places(index, len(vectors) - 1)
        if self._kernel is not None:
            return Outcome(self._kernel.pairs(vectors, gradient, places, self._weight, scale))
        centres, contexts, negatives = places.centres, places.contexts, places.negatives
        weight = (chunks.degree - chunks.own) * self._weight
        a, b, z = F.embedding(centres, vectors), F.embedding(contexts, vectors), F.embedding(negatives, vectors)
        positive, near = chunks.scores(a, b, z)
        away_slope, near_slope = torch.sigmoid(-positive), torch.sigmoid(near)
        loss = total(softplus(-positive, away_slope)) + total(softplus(near, near_slope) * weight)
        pull, push = away_slope * -scale, near_slope * weight * scale
        for rows, part in zip((centres, contexts, negatives), chunks.back(pull, push, a, b, z), strict=True):
            add_rows(gradient, rows, part)
        return Outcome(loss)


class RelationWork:
    """Alignment of items (centres) with the values linked to them (contexts) in the relational space (trainer/relations.py)."""

    def __init__(
        self,
        relation: str,
        lanes: LaneRows,
        sampler: Sampler,
        settings: Settings,
        offsets: tuple[int, int],
        printed: bool,
        kernel: CentreKernel | None = None,
    ) -> None:
        """kernel: made for these settings; none: PyTorch computes."""
        self._relation = relation
        self._printed = printed
        self._chunks, self._kernel = CentreChunks.of(lanes, sampler, settings), kernel
        self._weight = settings.negatives / settings.chunk_negatives
        self.pairs = len(self._chunks.contexts)
        self.keys = self._chunks.keys(*offsets)

    def evaluate(self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense) -> Outcome:
        """See Work."""
        places = self._chunks.places(index, len(vectors) - 1)
        if self._kernel is None:
            return self._by_pytorch(places, vectors, gradient, scale, dense)
        matrix, t, b = (dense[f"{self._relation}.{name}"] for name in "Wtb")
        alignment = Alignment(matrix, float(t), float(b), self._printed)
        loss, slopes = self._kernel.relation(vectors, gradient, places, self._weight, scale, alignment)
        return Outcome(loss, {f"{self._relation}.{name}": slope for name, slope in zip("Wtb", slopes, strict=True)})

    def _by_pytorch(self, places: "Places", vectors: Tensor, gradient: Tensor, scale: float, dense: Dense) -> Outcome:
        chunks, matrix = self._chunks, dense[f"{self._relation}.W"]
        weight = chunks.degree * (chunks.own == 0) * self._weight
        rows = (places.centres, places.contexts, places.negatives)
        plain = [F.embedding(part, vectors) for part in rows]
        mapped = [relational(part, matrix) for part in plain]
        dots = chunks.scores(*mapped)
        loss, pull, push, head = self._loss(dots, weight, scale, dense)
        head[f"{self._relation}.W"] = torch.zeros_like(matrix)
        for place, e, r, slope in zip(rows, plain, mapped, chunks.back(pull, push, *mapped), strict=True):
            # r = sigmoid(W e): d/d(W e) = slope * r (1 - r), then one product back to e and one to W.
            before = (slope * r * (1 - r)).reshape(-1, r.shape[-1])
            add_rows(gradient, place, before @ matrix)
            head[f"{self._relation}.W"] += before.T @ e.reshape(-1, e.shape[-1])
        return Outcome(loss, head)

    def _loss(
        self, dots: tuple[Tensor, Tensor], weight: Tensor, scale: float, dense: Dense
    ) -> tuple[float, Tensor, Tensor, dict[str, Tensor]]:
        """(loss, scale * its slope by each positive dot product, by each negative one, gradients of t and b)."""
        positive, negative = dots
        t, b = dense[f"{self._relation}.t"], dense[f"{self._relation}.b"]
        if self._printed:
            loss = total(negative * weight) - total(positive)
            return loss, torch.full_like(positive, -scale), weight * scale, _head(self._relation, torch.zeros(()), torch.zeros(()))
        away, near = -(t * positive + b), t * negative + b
        away_slope, near_slope = torch.sigmoid(away), torch.sigmoid(near)
        loss = total(softplus(away, away_slope)) + total(softplus(near, near_slope) * weight)
        pull, push = away_slope * -scale, near_slope * weight * scale
        head = _head(self._relation, (pull * positive).sum() + (push * negative).sum(), pull.sum() + push.sum())
        return loss, pull * t, push * t, head


@dataclass(frozen=True)
class Places:
    """What stands where: rows of the vectors, int64."""

    centres: Tensor
    """[chunks * T]"""
    first: Tensor
    """[chunks * T + 1] the first of each centre's contexts, and their number."""
    contexts: Tensor
    """[pairs]"""
    negatives: Tensor
    """[chunks, N]"""


@dataclass(frozen=True)
class CentreChunks:
    """Centres in chunks, each with a ragged list of contexts."""

    layout: Layout
    centre_nodes: Ints
    """[centres]"""
    contexts: Ints
    """[pairs]"""
    negatives: Ints
    """[chunks, N]"""
    degrees: Ints
    """[chunks, T] contexts of each centre, 0 for padding."""

    @classmethod
    def of(cls, lanes: LaneRows, sampler: Sampler, settings: Settings) -> "CentreChunks":
        """Lays out the lanes' rows and draws their negatives."""
        rows = concatenate([rows for _, rows in lanes])
        if rows.centres is None:
            raise ValueError("centres with contexts are wanted, these rows are sequences")
        layout = lay_out([(lane, len(rows)) for lane, rows in lanes], settings.chunk)
        negatives = sampler.draw(layout.lane, layout.number, settings.chunk_negatives)
        return cls(layout, rows.centres, rows.values, negatives, layout.spread(rows.lengths, 0))

    @cached_property
    def centre_of(self) -> Tensor:
        """[pairs] flat place of each context's centre in [chunks * T]."""
        degrees = self.degrees.reshape(-1)
        return torch.from_numpy(np.repeat(np.arange(len(degrees)), degrees))

    @cached_property
    def degree(self) -> Tensor:
        """[chunks, T, 1] contexts of each centre, 0 for padding; float32."""
        return torch.from_numpy(self.degrees).float().unsqueeze(2)

    @cached_property
    def own(self) -> Tensor:
        """[chunks, T, N] how many of the centre's contexts are the negative itself."""
        chunks, count = self.negatives.shape
        equal = torch.from_numpy(self.contexts[:, None] == self.negatives[self.centre_of.numpy() // self.layout.chunk]).float()
        flat = torch.zeros(chunks * self.layout.chunk, count).index_add_(0, self.centre_of, equal)
        return flat.view(chunks, self.layout.chunk, count)

    def keys(self, centre_offset: int, context_offset: int) -> Tensor:
        """Keys of centres, contexts and negatives, one after the other."""
        contexts = np.concatenate((self.contexts, self.negatives.reshape(-1))) + context_offset
        return torch.from_numpy(np.concatenate((self.centre_nodes + centre_offset, contexts)))

    def places(self, index: Tensor, padding: int) -> Places:
        """Where the vectors of `keys` stand, from their indices."""
        centres, contexts, negatives = torch.split(index, [len(self.centre_nodes), len(self.contexts), self.negatives.size])
        spread = torch.from_numpy(self.layout.spread(centres.numpy(), padding).reshape(-1))
        first = torch.from_numpy(np.concatenate(([0], np.cumsum(self.degrees))))
        return Places(spread, first, contexts, negatives.view(self.negatives.shape))

    def scores(self, a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Dot products of centres a [chunks * T, d] with contexts b [pairs, d] and negatives z [chunks, N, d]: [pairs], [chunks, T, N]."""
        shaped = a.view(self.layout.chunks, self.layout.chunk, -1)
        return (F.embedding(self.centre_of, a) * b).sum(1), shaped @ z.mT

    def back(self, pull: Tensor, push: Tensor, a: Tensor, b: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of a, b and z from the slopes by the positive [pairs] and negative [chunks, T, N] dot products."""
        shaped = a.view(self.layout.chunks, self.layout.chunk, -1)
        to_a = (push @ z).view_as(a).index_add(0, self.centre_of, pull.unsqueeze(1) * b)
        return to_a, pull.unsqueeze(1) * F.embedding(self.centre_of, a), push.mT @ shaped


def _head(relation: str, t: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {f"{relation}.t": t, f"{relation}.b": b}
