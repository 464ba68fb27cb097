"""The fast step over sequences (the `windows` encoding): blocks of tokens with a halo, of which the
band within the window counts.

A chunk of centres shares its negatives (trainer/objective/chunks.py); gradients are in closed form.
The compiled kernel and the step in PyTorch compute the same; tests/trainer holds the slow twin of
both: the same batch expanded to pairs, differentiated by autograd.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.arrays import Int64s
from trainer.data.streams import LaneRows, concatenate
from trainer.kernels import build
from trainer.objective.arithmetic import add_rows, scalar, softplus, total
from trainer.objective.batch import Dense, TaskLoss
from trainer.objective.chunks import NegativeSampling, Sampler, lay_out, put
from trainer.ranks.devices import moved

SLICE_TOKENS = {"cpu": 1152, "cuda": 1 << 17}
"""Tokens that PyTorch computes at a time. What they read and form stays in a core's cache; a GPU
wants many, and has memory for these."""


class WindowKernel:
    """The compiled step for vectors of one length, one chunk and one window."""

    def __init__(self, dimension: int, settings: NegativeSampling, window: int) -> None:
        """Raises KernelError where it cannot be compiled."""
        sizes = {
            "dimension": dimension,
            "chunk": settings.chunk,
            "negatives": settings.chunk_negatives,
            "window": window,
        }
        self._windows = build.load_library("windows", **sizes).windows
        self._windows.restype = ctypes.c_double
        self._windows.argtypes = [
            *[ctypes.c_void_p] * 6,
            *[ctypes.c_int64] * 2,
            *[ctypes.c_float] * 2,
        ]

    def __call__(
        self, vectors: Tensor, gradient: Tensor, tokens: "Tokens", weight: float, scale: float
    ) -> Tensor:
        """The loss, a sum over pairs; adds scale * its gradient to `gradient` [rows + 1, d], whose
        last row stands for padding.

        weight: what a negative counts for each context of the centre.
        """
        places = (
            vectors,
            gradient,
            tokens.centres,
            tokens.contexts,
            tokens.sequence,
            tokens.negatives,
        )
        return scalar(
            self._windows(
                *map(build.pointer, places), len(tokens.centres), len(vectors) - 1, weight, scale
            )
        )


@dataclass(frozen=True)
class Tokens:
    """What stands where: rows of the vectors, int64."""

    centres: Tensor
    """[chunks, T] input vectors."""
    contexts: Tensor
    """[chunks, T] output vectors."""
    sequence: Tensor
    """[chunks, T] number of the sequence; below 0 for padding."""
    negatives: Tensor
    """[chunks, N] output vectors."""


class WindowWork:
    """Skip-gram over sequences: every position's contexts are the positions at most `window` away
    in its sequence."""

    def __init__(
        self,
        lanes: LaneRows,
        window: int,
        sampler: Sampler,
        settings: NegativeSampling,
        offsets: tuple[int, int],
        kernel: WindowKernel | None,
    ) -> None:
        """kernel: made for these settings and this window; none: PyTorch computes."""
        rows = concatenate([rows for _, rows in lanes])
        layout = lay_out([(lane, len(rows.values)) for lane, rows in lanes], settings.chunk)
        negatives = sampler.draw(layout.lane, layout.number, settings.chunk_negatives)
        self._window, self._kernel = window, kernel
        self._weight = settings.negatives / settings.chunk_negatives
        self._parts, self._drawn = (
            [len(rows.values), len(rows.values), negatives.size],
            negatives.shape,
        )
        self._places = layout.places
        self._sequence = torch.from_numpy(
            layout.spread(np.repeat(np.arange(len(rows)), rows.lengths), -1)
        )
        self.pairs = int(window_pairs(rows.lengths, window).sum())
        self.keys = torch.from_numpy(
            np.concatenate(
                (
                    rows.values + offsets[0],
                    rows.values + offsets[1],
                    negatives.reshape(-1) + offsets[1],
                )
            )
        )

    def move(self, device: torch.device) -> None:
        """See Work."""
        self.keys, self._places, self._sequence = (
            moved(tensor, device) for tensor in (self.keys, self._places, self._sequence)
        )

    def evaluate(
        self,
        index: Tensor,
        vectors: Tensor,
        gradient: Tensor,
        scale: float,
        dense: Dense,  # noqa: ARG002
    ) -> TaskLoss:
        """See Work."""
        tokens = self._tokens(index, len(vectors) - 1)
        if self._kernel is not None:
            return TaskLoss(self._kernel(vectors, gradient, tokens, self._weight, scale))
        losses = [
            self._slice(part, vectors, gradient, scale)
            for part in self._slices(tokens, len(vectors) - 1)
        ]
        return TaskLoss(torch.stack(losses).sum())

    def _tokens(self, index: Tensor, padding: int) -> Tokens:
        """Where the vectors of `keys` stand in the chunks."""
        centres, contexts, negatives = torch.split(index, self._parts)
        centres, contexts = (put(part, self._places, padding) for part in (centres, contexts))
        return Tokens(centres, contexts, self._sequence, negatives.view(self._drawn))

    def _slices(self, tokens: Tokens, padding: int) -> Iterator["Slice"]:
        """A few chunks at a time, with their halo."""
        contexts = _with_halo(tokens.contexts, self._window, padding)
        # Padding never equals padding: -1 as a centre, -2 as a context.
        seen = _with_halo(torch.where(tokens.sequence < 0, -2, tokens.sequence), self._window, -2)
        chunks, chunk = tokens.centres.shape
        band, step = (
            _band(chunk, self._window, seen.device),
            max(1, SLICE_TOKENS[seen.device.type] // chunk),
        )
        for first in range(0, chunks, step):
            part = slice(first, first + step)
            mask = ((tokens.sequence[part].unsqueeze(2) == seen[part].unsqueeze(1)) & band).float()
            yield Slice(tokens.centres[part], contexts[part], tokens.negatives[part], mask)

    def _slice(self, part: "Slice", vectors: Tensor, gradient: Tensor, scale: float) -> Tensor:
        """Loss of some chunks. Axes: [chunk, centre, context or negative], vectors [chunk,
        centre..., d]."""
        centres, contexts, negatives, mask = part.centres, part.contexts, part.negatives, part.mask
        a, b, z = (
            F.embedding(centres, vectors),
            F.embedding(contexts, vectors),
            F.embedding(negatives, vectors),
        )
        away, near = -(a @ b.mT), a @ z.mT
        away_slope, near_slope = torch.sigmoid(away), torch.sigmoid(near)
        # How many of a centre's contexts are the drawn negative itself.
        own = mask @ (contexts.unsqueeze(2) == negatives.unsqueeze(1)).float()
        weight = (mask.sum(2, keepdim=True) - own) * self._weight
        loss = total(softplus(away, away_slope) * mask) + total(softplus(near, near_slope) * weight)
        pull, push = away_slope.mul_(mask).mul_(-scale), near_slope.mul_(weight).mul_(scale)
        add_rows(gradient, centres, pull @ b + push @ z)
        add_rows(gradient, contexts, pull.mT @ a)
        add_rows(gradient, negatives, push.mT @ a)
        return loss


@dataclass(frozen=True)
class Slice:
    """Some chunks, as PyTorch computes them."""

    centres: Tensor
    """[chunks, T]"""
    contexts: Tensor
    """[chunks, T + 2 window]"""
    negatives: Tensor
    """[chunks, N]"""
    mask: Tensor
    """[chunks, T, T + 2 window] 1 where the context counts for the centre, else 0."""


def window_pairs(lengths: Int64s, window: int) -> Int64s:
    """Ordered pairs (i, j) with 0 < |i - j| <= window in sequences of n = lengths: twice the sum
    over distances of max(0, n - distance)."""
    reach = np.minimum(window, np.maximum(lengths - 1, 0))
    pairs: Int64s = 2 * (reach * lengths - reach * (reach + 1) // 2)
    return pairs


def _band(chunk: int, window: int, device: torch.device) -> Tensor:
    """[chunk, chunk + 2 window]: which halo positions lie within the window of a centre, the centre
    itself not."""
    places = torch.arange(chunk + 2 * window, device=device)
    distance = places - window - places[:chunk].unsqueeze(1)
    return (distance.abs() <= window) & (distance != 0)


def _with_halo(values: Tensor, window: int, padding: int) -> Tensor:
    """[chunks, T] -> [chunks, T + 2 window]: each chunk with the `window` positions before and
    after it."""
    chunk = values.shape[1]
    edge = values.new_full((window,), padding)
    return torch.cat((edge, values.reshape(-1), edge)).unfold(0, chunk + 2 * window, chunk)
