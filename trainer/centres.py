"""The fast step over centres with contexts: walks, edges, the `pairs` encoding of sessions, and the links of relations.

A chunk of centres shares its negatives (trainer/chunks.py); gradients are in closed form. tests/trainer holds the slow twin: the same batch
expanded to pairs, differentiated by autograd.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.arithmetic import add_rows, softplus, total
from trainer.chunks import Ints, LaneRows, Layout, Sampler, Settings, lay_out
from trainer.relations import relational
from trainer.streams import concatenate
from trainer.work import Dense, Outcome


class PairWork:
    """Skip-gram over centres with contexts (walks, edges, the `pairs` encoding of sessions)."""

    def __init__(self, lanes: LaneRows, sampler: Sampler, settings: Settings, offsets: tuple[int, int]) -> None:
        self._chunks = CentreChunks.of(lanes, sampler, settings)
        self._weight = settings.negatives / settings.chunk_negatives
        self.pairs = len(self._chunks.contexts)
        self.keys = self._chunks.keys(*offsets)

    def evaluate(self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense) -> Outcome:  # noqa: ARG002
        """See Work."""
        chunks = self._chunks
        centres, contexts, negatives = chunks.split(index, len(vectors) - 1)
        weight = (chunks.degree - chunks.own) * self._weight
        a, b, z = F.embedding(centres, vectors), F.embedding(contexts, vectors), F.embedding(negatives, vectors)
        positive, near = chunks.scores(a, b, z)
        away_slope, near_slope = torch.sigmoid(-positive), torch.sigmoid(near)
        loss = total(softplus(-positive, away_slope)) + total(softplus(near, near_slope) * weight)
        pull, push = away_slope * -scale, near_slope * weight * scale
        for places, part in zip((centres, contexts, negatives), chunks.back(pull, push, a, b, z), strict=True):
            add_rows(gradient, places, part)
        return Outcome(loss)


class RelationWork:
    """Alignment of items (centres) with the values linked to them (contexts) in the relational space (trainer/relations.py)."""

    def __init__(
        self, relation: str, lanes: LaneRows, sampler: Sampler, settings: Settings, offsets: tuple[int, int], printed: bool
    ) -> None:
        self._relation = relation
        self._printed = printed
        self._chunks = CentreChunks.of(lanes, sampler, settings)
        self._weight = settings.negatives / settings.chunk_negatives
        self.pairs = len(self._chunks.contexts)
        self.keys = self._chunks.keys(*offsets)

    def evaluate(self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense) -> Outcome:
        """See Work."""
        chunks, matrix = self._chunks, dense[f"{self._relation}.W"]
        places = chunks.split(index, len(vectors) - 1)
        weight = chunks.degree * (chunks.own == 0) * self._weight
        plain = [F.embedding(part, vectors) for part in places]
        mapped = [relational(part, matrix) for part in plain]
        dots = chunks.scores(*mapped)
        loss, pull, push, head = self._loss(dots, weight, scale, dense)
        head[f"{self._relation}.W"] = torch.zeros_like(matrix)
        for place, e, r, slope in zip(places, plain, mapped, chunks.back(pull, push, *mapped), strict=True):
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
class CentreChunks:
    """Centres in chunks, each with a ragged list of contexts."""

    layout: Layout
    centre_nodes: Ints
    """[centres]"""
    contexts: Ints
    """[pairs]"""
    negatives: Ints
    """[chunks, N]"""
    centre_of: Tensor
    """[pairs] flat place of each context's centre in [chunks * T]."""
    degree: Tensor
    """[chunks, T, 1] contexts of each centre, 0 for padding."""
    own: Tensor
    """[chunks, T, N] how many of the centre's contexts are the negative itself."""

    @classmethod
    def of(cls, lanes: LaneRows, sampler: Sampler, settings: Settings) -> "CentreChunks":
        """Lays out the lanes' rows and draws their negatives."""
        rows = concatenate([rows for _, rows in lanes])
        if rows.centres is None:
            raise ValueError("centres with contexts are wanted, these rows are sequences")
        layout = lay_out([(lane, len(rows)) for lane, rows in lanes], settings.chunk)
        negatives = sampler.draw(layout, settings.chunk_negatives)
        centre_of = np.repeat(layout.place, rows.lengths)
        equal = torch.from_numpy(rows.values[:, None] == negatives[centre_of // settings.chunk]).float()
        own = torch.zeros(layout.chunks * settings.chunk, settings.chunk_negatives).index_add_(0, torch.from_numpy(centre_of), equal)
        degree = torch.from_numpy(layout.spread(rows.lengths, 0)).float().unsqueeze(2)
        shaped = own.view(layout.chunks, settings.chunk, settings.chunk_negatives)
        return cls(layout, rows.centres, rows.values, negatives, torch.from_numpy(centre_of), degree, shaped)

    def keys(self, centre_offset: int, context_offset: int) -> Tensor:
        """Keys of centres, contexts and negatives, one after the other."""
        contexts = np.concatenate((self.contexts, self.negatives.reshape(-1))) + context_offset
        return torch.from_numpy(np.concatenate((self.centre_nodes + centre_offset, contexts)))

    def split(self, index: Tensor, padding: int) -> tuple[Tensor, Tensor, Tensor]:
        """Indices into the vectors, from those of `keys`: centres [chunks * T], contexts [pairs], negatives [chunks, N]."""
        centres, contexts, negatives = torch.split(index, [len(self.centre_nodes), len(self.contexts), self.negatives.size])
        spread = torch.full((self.layout.chunks * self.layout.chunk,), padding)
        spread[torch.from_numpy(self.layout.place)] = centres
        return spread, contexts, negatives.view(self.negatives.shape)

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
