"""The fast step over sequences (the `windows` encoding): blocks of tokens with a halo, of which the
band within the window counts.

A chunk of centres shares its negatives (trainer/objective/chunks.py); gradients are in closed form.
The compiled kernel and the step in PyTorch compute the same; tests/trainer holds the slow twin of
both: the same batch expanded to pairs, differentiated by autograd.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everybody knows)
from torch import Tensor

from trainer.arrays import Int64s
from trainer.data.streams import LaneRows, concatenate
from trainer.kernels import bindings, build
from trainer.objective.arithmetic import add_rows, scalar, softplus, total
from trainer.objective.batch import Dense, TaskLoss
from trainer.objective.chunks import NegativeSampling, Sampler, lay_out, put
from trainer.ranks.devices import moved

SLICE_TOKENS = {"cpu": 1152, "cuda": 1 << 17}
"""Tokens that PyTorch computes at a time. What they read and form stays in a core's cache; a GPU
wants many, and has memory for these."""
NO_CENTRE, NO_CONTEXT = -1, -2
"""Sequence numbers of padding. They differ, so that padding is in no sequence with padding."""


class WindowKernel:
    """The compiled step for vectors of one length, one chunk and one window."""

    def __init__(self, dimension: int, sampling: NegativeSampling, window: int) -> None:
        """Raises KernelError where it cannot be compiled."""
        self._windows = bindings.bind_windows(
            dimension, sampling.chunk, sampling.chunk_negatives, window
        )

    def __call__(
        self, vectors: Tensor, gradient: Tensor, tokens: "Tokens", weight: float, scale: float
    ) -> Tensor:
        """The loss, a sum over pairs; adds scale * its gradient to `gradient` [rows + 1, d], whose
        last row stands for padding.

        weight: what a negative counts for each context of the centre.
        """
        positions = (tokens.centres, tokens.contexts, tokens.sequence, tokens.negatives)
        pointers = map(build.pointer, (vectors, gradient, *positions))
        chunks = len(tokens.centres)
        padding = len(vectors) - 1
        loss = self._windows(*pointers, chunks, padding, weight, scale)
        return scalar(loss)


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
        sampling: NegativeSampling,
        offsets: tuple[int, int],
        kernel: WindowKernel | None,
    ) -> None:
        """kernel: made for this sampling and this window; none: PyTorch computes."""
        rows = concatenate([rows for _, rows in lanes])
        input_offset, output_offset = offsets
        tokens = len(rows.values)
        lane_tokens = [(lane, len(rows.values)) for lane, rows in lanes]
        layout = lay_out(lane_tokens, sampling.chunk)
        # [chunks, N]
        negatives = sampler.draw(layout.lane, layout.number, sampling.chunk_negatives)
        self._window = window
        self._kernel = kernel
        # N drawn negatives stand for k of each context: the sum over them, times k / N, has the
        # expectation that the sum over k own ones has.
        self._weight = sampling.negatives / sampling.chunk_negatives
        self._parts = [tokens, tokens, negatives.size]
        self._negatives_shape = negatives.shape
        self._token_grid = layout.token_grid
        # [tokens] -> [chunks, T]
        sequence = np.repeat(np.arange(len(rows)), rows.lengths)
        self._sequence = torch.from_numpy(layout.spread(sequence, NO_CENTRE))
        pairs = window_pairs(rows.lengths, window)
        self.pairs = int(pairs.sum())
        # Every token is read twice: as a centre, and as a context of its neighbours.
        inputs = rows.values + input_offset
        outputs = rows.values + output_offset
        drawn = negatives.reshape(-1) + output_offset
        keys = np.concatenate((inputs, outputs, drawn))
        self.keys = torch.from_numpy(keys)

    def move(self, device: torch.device) -> None:
        """See Work."""
        self.keys = moved(self.keys, device)
        self._token_grid = moved(self._token_grid, device)
        self._sequence = moved(self._sequence, device)

    def evaluate(
        self,
        index: Tensor,
        vectors: Tensor,
        gradient: Tensor,
        scale: float,
        dense: Dense,  # noqa: ARG002
    ) -> TaskLoss:
        """See Work."""
        padding = len(vectors) - 1
        tokens = self._tokens(index, padding)
        if self._kernel is not None:
            return TaskLoss(self._kernel(vectors, gradient, tokens, self._weight, scale))
        slices = self._slices(tokens, padding)
        losses = [self._slice(part, vectors, gradient, scale) for part in slices]
        return TaskLoss(torch.stack(losses).sum())

    def _tokens(self, index: Tensor, padding: int) -> Tokens:
        """Where the vectors of `keys` stand in the chunks."""
        centres, contexts, negatives = torch.split(index, self._parts)
        # [tokens] -> [chunks, T]
        centre_grid = put(centres, self._token_grid, padding)
        context_grid = put(contexts, self._token_grid, padding)
        return Tokens(
            centre_grid, context_grid, self._sequence, negatives.view(self._negatives_shape)
        )

    def _slices(self, tokens: Tokens, padding: int) -> Iterator["ChunkSlice"]:
        """A few chunks at a time, with their halo."""
        centre_sequence = tokens.sequence
        device = centre_sequence.device
        context_sequence = torch.where(centre_sequence < 0, NO_CONTEXT, centre_sequence)
        # [chunks, T] -> [chunks, T + 2 window]
        contexts = _with_halo(tokens.contexts, self._window, padding)
        halo_sequence = _with_halo(context_sequence, self._window, NO_CONTEXT)
        chunks, chunk = tokens.centres.shape
        band = _band(chunk, self._window, device)
        step = max(1, SLICE_TOKENS[device.type] // chunk)
        for first in range(0, chunks, step):
            part = slice(first, first + step)
            # [chunks, T, 1] == [chunks, 1, T + 2 window]
            together = centre_sequence[part].unsqueeze(2) == halo_sequence[part].unsqueeze(1)
            mask = (together & band).float()
            yield ChunkSlice(tokens.centres[part], contexts[part], tokens.negatives[part], mask)

    def _slice(self, part: "ChunkSlice", vectors: Tensor, gradient: Tensor, scale: float) -> Tensor:
        """Loss of some chunks. Axes: [chunks, centre, context or negative], vectors [chunks,
        centre..., d]. H is T + 2 window."""
        mask = part.mask
        a = F.embedding(part.centres, vectors)  # [chunks, T, d]
        b = F.embedding(part.contexts, vectors)  # [chunks, H, d]
        z = F.embedding(part.negatives, vectors)  # [chunks, N, d]
        # All T x H products are formed, though the mask keeps the band alone: a dense product of
        # blocks this small is faster than gathering the pairs.
        away = -(a @ b.mT)  # [chunks, T, d] x [chunks, d, H] -> [chunks, T, H]
        near = a @ z.mT  # [chunks, T, d] x [chunks, d, N] -> [chunks, T, N]
        away_slope = torch.sigmoid(away)
        near_slope = torch.sigmoid(near)
        # How many of a centre's contexts are the drawn negative itself:
        # [chunks, T, H] x [chunks, H, N] -> [chunks, T, N]
        is_negative = (part.contexts.unsqueeze(2) == part.negatives.unsqueeze(1)).float()
        own = mask @ is_negative
        weight = (mask.sum(2, keepdim=True) - own) * self._weight
        attraction = total(softplus(away, away_slope) * mask)
        repulsion = total(softplus(near, near_slope) * weight)
        # The slopes are not needed again: they are overwritten by the gradients of the products.
        pull = away_slope.mul_(mask).mul_(-scale)
        push = near_slope.mul_(weight).mul_(scale)
        # [chunks, T, H] x [chunks, H, d] + [chunks, T, N] x [chunks, N, d] -> [chunks, T, d]
        add_rows(gradient, part.centres, pull @ b + push @ z)
        # [chunks, H, T] x [chunks, T, d] -> [chunks, H, d]
        add_rows(gradient, part.contexts, pull.mT @ a)
        # [chunks, N, T] x [chunks, T, d] -> [chunks, N, d]
        add_rows(gradient, part.negatives, push.mT @ a)
        return attraction + repulsion


@dataclass(frozen=True)
class ChunkSlice:
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
    """How many positive pairs sequences hold: ordered pairs (i, j) with 0 < |i - j| <= window (the
    contexts of eq. 1). Of n = length it is twice the sum over distances of max(0, n - distance).

    Four sequences, window 2. Of three tokens each is the context of both others: 6 pairs.

    >>> window_pairs(np.array([1, 2, 3, 5]), window=2).tolist()
    [0, 2, 6, 14]
    """
    # The longest distance within a sequence; there are n - distance pairs of each, both ways.
    reach = np.minimum(window, np.maximum(lengths - 1, 0))
    pairs: Int64s = 2 * (reach * lengths - reach * (reach + 1) // 2)
    return pairs


def _band(chunk: int, window: int, device: torch.device) -> Tensor:
    """[chunk, chunk + 2 window]: which halo positions lie within the window of a centre, the centre
    itself not.

    >>> _band(4, 1, torch.device("cpu")).int().tolist()
    [[1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]]
    """
    positions = torch.arange(chunk + 2 * window, device=device)
    centres = positions[:chunk].unsqueeze(1)
    # A centre's own column is `window` to the right of its row: the halo begins before the chunk.
    distance = positions - window - centres
    return (distance.abs() <= window) & (distance != 0)


def _with_halo(values: Tensor, window: int, padding: int) -> Tensor:
    """[chunks, T] -> [chunks, T + 2 window]: each chunk with the `window` positions before and
    after it.

    >>> _with_halo(torch.tensor([[1, 2], [3, 4]]), window=1, padding=0).tolist()
    [[0, 1, 2, 3], [2, 3, 4, 0]]
    """
    chunk = values.shape[1]
    edge = values.new_full((window,), padding)
    # [chunks * T] with an edge on both sides, of which the halves of neighbouring chunks overlap.
    flat = torch.cat((edge, values.reshape(-1), edge))
    return flat.unfold(0, chunk + 2 * window, chunk)
