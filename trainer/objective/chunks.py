"""Laying the tokens of lanes out in chunks that share their negatives.

A token is a position of a sequence (windows) or a centre with its contexts (pairs). Each lane's
tokens fill whole chunks, the last one padded: what a chunk holds depends on the lane alone, not on
the rank that serves it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.arrays import Int64s
from trainer.objective.noise import DrawKernel, Noise


@dataclass(frozen=True)
class Layout:
    """Where the tokens stand in [chunks, chunk]."""

    chunk: int
    parts: tuple[tuple[int, int, int], ...]
    """Of each lane: its first token, that one's flat position, and how many tokens there are."""
    lane: Int64s
    """[chunks] lane of each chunk."""
    number: Int64s
    """[chunks] number of the chunk within its lane and step."""

    @property
    def chunks(self) -> int:
        """Chunks of all lanes."""
        return len(self.lane)

    @property
    def token_grid(self) -> Tensor:
        """[chunks, chunk] which token stands there, for `put`; past the last one where there is
        none."""
        return torch.from_numpy(self.spread(np.arange(self.tokens), self.tokens))

    @property
    def tokens(self) -> int:
        """Tokens of all lanes."""
        return sum(count for _, _, count in self.parts)

    def spread(self, values: Int64s, padding: int) -> Int64s:
        """Token values [tokens] where their tokens stand; [chunks, chunk], with `padding`
        elsewhere.

        Lanes 0 and 1 with 3 tokens and 1, in chunks of 2:

        >>> lay_out([(0, 3), (1, 1)], chunk=2).spread(np.array([7, 8, 9, 5]), padding=-1).tolist()
        [[7, 8], [9, -1], [5, -1]]
        """
        flat = np.full(self.chunks * self.chunk, padding, np.int64)
        for token, position, count in self.parts:
            flat[position : position + count] = values[token : token + count]
        # [chunks * chunk] -> [chunks, chunk]
        return flat.reshape(self.chunks, self.chunk)


@dataclass(frozen=True)
class NegativeSampling:
    """How a task draws its negatives."""

    negatives: int
    """k"""
    chunk: int
    chunk_negatives: int
    """N"""


@dataclass(frozen=True)
class Sampler:
    """Negatives of a step: keyed by (seed and task, step, lane, number of the chunk or pair,
    position)."""

    noise: Noise
    key: tuple[int, ...]
    step: int
    kernel: DrawKernel | None = None

    def draw(self, lanes: Int64s, numbers: Int64s, count: int) -> Int64s:
        """[chunks or pairs, count] rows of the context view, for the lane and number of each."""
        key = (*self.key, self.step)
        if self.kernel is not None:
            return self.kernel(self.noise, key, lanes, numbers, count)
        positions = np.arange(count)
        # [chunks, 1] and [count] -> [chunks, count]
        return self.noise.draw(*key, lanes[:, None], numbers[:, None], positions)


def put(values: Tensor, token_grid: Tensor, padding: int) -> Tensor:
    """Token values [tokens] where their tokens stand [chunks, chunk], with `padding` elsewhere."""
    # [tokens + 1]: what the grid's padding points to comes last.
    padded = torch.cat((values, values.new_full((1,), padding)))
    return padded.index_select(0, token_grid.view(-1)).view(token_grid.shape)


def lay_out(tokens: list[tuple[int, int]], chunk: int) -> Layout:
    """Layout of lanes given as (lane, number of tokens)."""
    parts = []
    lanes = []
    numbers = []
    token, position = 0, 0
    for lane, count in tokens:
        chunks = -(-count // chunk)
        parts.append((token, position, count))
        lanes.append(np.full(chunks, lane))
        numbers.append(np.arange(chunks))
        token += count
        # The next lane begins with a chunk of its own.
        position += chunks * chunk
    return Layout(chunk, tuple(parts), _join(lanes), _join(numbers))


def _join(parts: list[Int64s]) -> Int64s:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
