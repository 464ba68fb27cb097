"""The fast step: sessions are the unit, negatives are drawn per chunk, gradients are in closed form.

Centre i with n_i contexts counts negative n of its chunk with weight (n_i - number of i's contexts equal to n) k / N, N negatives a
chunk: the expected objective is eq. 3's with a true context never its own negative. In a relation a negative that is linked to the item
counts nothing, else n_i k / N. tests/trainer holds the slow twin: the same batch expanded to pairs, differentiated by autograd.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.chunks import Ints, LaneRows, Layout, lay_out
from trainer.noise import Noise
from trainer.relations import relational
from trainer.streams import concatenate
from trainer.work import Dense, Outcome

SLICE_TOKENS = 1152
"""Tokens computed at a time: what they read and form stays in a core's cache."""


@dataclass(frozen=True)
class Settings:
    """How a task draws its negatives."""

    negatives: int
    """k"""
    chunk: int
    chunk_negatives: int
    """N"""


@dataclass(frozen=True)
class Sampler:
    """Negatives of a step's chunks: keyed by (seed and task, step, lane, chunk, position)."""

    noise: Noise
    key: tuple[int, ...]
    step: int

    def draw(self, layout: Layout, count: int) -> Ints:
        """[chunks, count] rows of the context view."""
        return self.noise.draw(*self.key, self.step, layout.lane[:, None], layout.number[:, None], np.arange(count))


class WindowWork:
    """Skip-gram over sequences: every position's contexts are the positions at most `window` away in its sequence."""

    def __init__(self, lanes: LaneRows, window: int, sampler: Sampler, settings: Settings, offsets: tuple[int, int]) -> None:
        rows = concatenate([rows for _, rows in lanes])
        self._layout = lay_out([(lane, len(rows.values)) for lane, rows in lanes], settings.chunk)
        self._window = window
        self._weight = settings.negatives / settings.chunk_negatives
        negatives = sampler.draw(self._layout, settings.chunk_negatives)
        self._drawn = negatives.shape
        sequence = np.repeat(np.arange(len(rows)), rows.lengths)
        # Padding never equals padding: -1 as a centre, -2 as a context.
        self._centre_sequence = torch.from_numpy(self._layout.spread(sequence, -1))
        self._context_sequence = _with_halo(torch.from_numpy(self._layout.spread(sequence, -2)), window, -2)
        self.pairs = int(window_pairs(rows.lengths, window).sum())
        self.keys = torch.from_numpy(
            np.concatenate((rows.values + offsets[0], rows.values + offsets[1], negatives.reshape(-1) + offsets[1]))
        )

    def evaluate(self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense) -> Outcome:  # noqa: ARG002
        """See Work."""
        centres, contexts, negatives = self._places(index, len(vectors) - 1)
        band = _band(self._layout.chunk, self._window)
        loss, step = 0.0, max(1, SLICE_TOKENS // self._layout.chunk)
        for first in range(0, self._layout.chunks, step):
            part = slice(first, first + step)
            mask = ((self._centre_sequence[part].unsqueeze(2) == self._context_sequence[part].unsqueeze(1)) & band).float()
            loss += self._slice(centres[part], contexts[part], negatives[part], mask, vectors, gradient, scale)
        return Outcome(loss)

    def _places(self, index: Tensor, padding: int) -> tuple[Tensor, Tensor, Tensor]:
        """Indices into the vectors: centres [chunks, T], contexts with halo [chunks, T + 2 window], negatives [chunks, N]."""
        tokens = len(self._layout.place)
        place = torch.from_numpy(self._layout.place)
        spread = torch.full((2, self._layout.chunks * self._layout.chunk), padding)
        spread[:, place] = index[: 2 * tokens].view(2, tokens)
        centres, contexts = spread.view(2, self._layout.chunks, self._layout.chunk)
        return centres, _with_halo(contexts, self._window, padding), index[2 * tokens :].view(self._drawn)

    def _slice(
        self, centres: Tensor, contexts: Tensor, negatives: Tensor, mask: Tensor, vectors: Tensor, gradient: Tensor, scale: float
    ) -> float:
        """Loss of some chunks. Axes: [chunk, centre, context or negative], vectors [chunk, centre..., d]; mask [chunk, T, T + 2 window]."""
        a, b, z = F.embedding(centres, vectors), F.embedding(contexts, vectors), F.embedding(negatives, vectors)
        away, near = -(a @ b.mT), a @ z.mT
        away_slope, near_slope = torch.sigmoid(away), torch.sigmoid(near)
        # How many of a centre's contexts are the drawn negative itself.
        own = mask @ (contexts.unsqueeze(2) == negatives.unsqueeze(1)).float()
        weight = (mask.sum(2, keepdim=True) - own) * self._weight
        loss = _total(_softplus(away, away_slope) * mask) + _total(_softplus(near, near_slope) * weight)
        pull, push = away_slope.mul_(mask).mul_(-scale), near_slope.mul_(weight).mul_(scale)
        _add(gradient, centres, pull @ b + push @ z)
        _add(gradient, contexts, pull.mT @ a)
        _add(gradient, negatives, push.mT @ a)
        return loss


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
        loss = _total(_softplus(-positive, away_slope)) + _total(_softplus(near, near_slope) * weight)
        pull, push = away_slope * -scale, near_slope * weight * scale
        for places, part in zip((centres, contexts, negatives), chunks.back(pull, push, a, b, z), strict=True):
            _add(gradient, places, part)
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
            _add(gradient, place, before @ matrix)
            head[f"{self._relation}.W"] += before.T @ e.reshape(-1, e.shape[-1])
        return Outcome(loss, head)

    def _loss(
        self, dots: tuple[Tensor, Tensor], weight: Tensor, scale: float, dense: Dense
    ) -> tuple[float, Tensor, Tensor, dict[str, Tensor]]:
        """(loss, scale * its slope by each positive dot product, by each negative one, gradients of t and b)."""
        positive, negative = dots
        t, b = dense[f"{self._relation}.t"], dense[f"{self._relation}.b"]
        if self._printed:
            loss = _total(negative * weight) - _total(positive)
            return loss, torch.full_like(positive, -scale), weight * scale, _head(self._relation, torch.zeros(()), torch.zeros(()))
        away, near = -(t * positive + b), t * negative + b
        away_slope, near_slope = torch.sigmoid(away), torch.sigmoid(near)
        loss = _total(_softplus(away, away_slope)) + _total(_softplus(near, near_slope) * weight)
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


def window_pairs(lengths: Ints, window: int) -> Ints:
    """Ordered pairs (i, j) with 0 < |i - j| <= window in sequences of n = lengths: twice the sum over distances of max(0, n - distance)."""
    reach = np.minimum(window, np.maximum(lengths - 1, 0))
    pairs: Ints = 2 * (reach * lengths - reach * (reach + 1) // 2)
    return pairs


def _head(relation: str, t: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {f"{relation}.t": t, f"{relation}.b": b}


def _band(chunk: int, window: int) -> Tensor:
    """[chunk, chunk + 2 window]: which halo positions lie within the window of a centre, the centre itself not."""
    distance = torch.arange(chunk + 2 * window) - window - torch.arange(chunk).unsqueeze(1)
    return (distance.abs() <= window) & (distance != 0)


def _with_halo(values: Tensor, window: int, padding: int) -> Tensor:
    """[chunks, T] -> [chunks, T + 2 window]: each chunk with the `window` positions before and after it."""
    chunk = values.shape[1]
    edge = torch.full((window,), padding, dtype=values.dtype)
    return torch.cat((edge, values.reshape(-1), edge)).unfold(0, chunk + 2 * window, chunk)


def _softplus(score: Tensor, slope: Tensor) -> Tensor:
    """log(1 + exp(score)) with `slope` = sigmoid(score) at hand: to 1e-7, in a quarter of the time of F.softplus on a CPU."""
    return score.clamp(min=0).sub_(torch.maximum(slope, 1 - slope).log_())


def _total(terms: Tensor) -> float:
    """The sum of all terms: along the last axis in float32 (pairwise), then in float64."""
    return float(terms.sum(-1).sum(dtype=torch.float64))


def _add(gradient: Tensor, places: Tensor, part: Tensor) -> None:
    """Adds rows where they belong, duplicates summed."""
    gradient.index_add_(0, places.reshape(-1), part.reshape(-1, part.shape[-1]))
