"""Slow plain twins of the trainer's kernels, in float64 and differentiated by autograd, and what is
needed to compare with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.trainer.shards import Sequences, contexts_at
from trainer.data.streams import LaneRows, StreamRows
from trainer.objective.batch import Work
from trainer.objective.chunks import NegativeSampling, Sampler
from trainer.objective.noise import Noise
from trainer.objective.relations import relational

Centres = list[tuple[int, list[int]]]
"""(centre, contexts)"""
Dense = dict[str, Tensor]


def sequence_rows(sequences: Sequences) -> StreamRows:
    return StreamRows(None, _flat(sequences), _offsets(sequences))


def centre_rows(centres: Centres) -> StreamRows:
    contexts = [contexts for _, contexts in centres]
    return StreamRows(
        np.array([centre for centre, _ in centres], np.int64), _flat(contexts), _offsets(contexts)
    )


def _flat(lists: Sequences) -> np.ndarray:
    return np.array([value for values in lists for value in values], np.int64)


def _offsets(lists: Sequences) -> np.ndarray:
    return np.concatenate(([0], np.cumsum([len(values) for values in lists]))).astype(np.int64)


def centres_of(sequences: Sequences, window: int) -> Centres:
    """Each position of each sequence with its contexts."""
    return [
        (node, contexts_at(sequence, i, window))
        for sequence in sequences
        for i, node in enumerate(sequence)
    ]


def sampler(counts: Sequence[int], exponent: float = 0.75, step: int = 0) -> Sampler:
    return Sampler(Noise(np.array(counts), exponent), (11, 12), step)


def random_tables(nodes: int, dimension: int, seed: int = 0, scale: float = 0.7) -> Tensor:
    """[2 nodes, d] float32: input vectors, then output vectors (or the values' input vectors)."""
    return torch.randn(2 * nodes, dimension, generator=torch.Generator().manual_seed(seed)) * scale


@dataclass(frozen=True)
class Evaluated:
    loss: float
    gradient: Tensor
    """[keys, d], like the tables."""
    dense: Dense


def evaluate(
    work: Work, tables: Tensor, scale: float = 1.0, dense: Dense | None = None
) -> Evaluated:
    """What a rank does with a task's work, on whole tables."""
    keys, index = torch.unique(work.keys, return_inverse=True)
    vectors = torch.cat((tables[keys], torch.zeros(1, tables.shape[1])))
    gradient = torch.zeros_like(vectors)
    outcome = work.evaluate(index, vectors, gradient, scale, dense or {})
    whole = torch.zeros_like(tables)
    whole[keys] = gradient[:-1]
    return Evaluated(float(outcome.loss), whole, outcome.dense)


@dataclass(frozen=True)
class Expanded:
    """A batch as pairs: every positive pair, and every negative with the weight it counts with."""

    positive: list[tuple[int, int]]
    negative: list[tuple[int, int, float]]


def expand_fast(
    lanes: list[tuple[int, Centres]],
    negatives: Sampler,
    settings: NegativeSampling,
    whole_row: bool,
) -> Expanded:
    """The fast step's batch: the centres of a lane fill chunks one after the other, each chunk with
    its own draws.

    whole_row: a negative among the centre's contexts counts nothing (relations); else it counts
    once less for each context that it is.
    """
    positive, weighted = [], []
    for lane, centres in lanes:
        for i, (centre, contexts) in enumerate(centres):
            positive += [(centre, context) for context in contexts]
            for position in range(settings.chunk_negatives):
                node = int(
                    negatives.noise.draw(
                        *negatives.key, negatives.step, lane, i // settings.chunk, position
                    )[0]
                )
                own = contexts.count(node)
                times = (0 if own else len(contexts)) if whole_row else len(contexts) - own
                weighted.append(
                    (centre, node, times * settings.negatives / settings.chunk_negatives)
                )
    return Expanded(positive, weighted)


def intra_loss(batch: Expanded, tables: Tensor) -> Tensor:
    """Eq. 3 summed over the pairs of a batch; tables [2 nodes, d] float64: input, then output
    vectors."""
    inputs, outputs = torch.chunk(tables, 2)
    a, b, _ = _columns(batch.positive)
    c, n, weight = _columns(batch.negative)
    return (
        F.softplus(-(inputs[a] * outputs[b]).sum(1)).sum()
        + (F.softplus((inputs[c] * outputs[n]).sum(1)) * weight).sum()
    )


def relation_loss(batch: Expanded, tables: Tensor, dense: Dense, printed: bool) -> Tensor:
    """The inter-view loss summed over the links of a batch; tables [2 nodes, d] float64: item, then
    value vectors; dense: W, t, b."""
    items, values = (relational(part, dense["W"]) for part in torch.chunk(tables, 2))
    a, b, _ = _columns(batch.positive)
    c, n, weight = _columns(batch.negative)
    positive, negative = (items[a] * values[b]).sum(1), (items[c] * values[n]).sum(1)
    if printed:
        return (negative * weight).sum() - positive.sum()
    t, shift = dense["t"], dense["b"]
    return (
        F.softplus(-(t * positive + shift)).sum()
        + (F.softplus(t * negative + shift) * weight).sum()
    )


def _columns(rows: Sequence[tuple[float, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    columns = [*zip(*rows, strict=True), ()] if rows else [(), (), ()]
    return (
        torch.tensor(columns[0], dtype=torch.int64),
        torch.tensor(columns[1], dtype=torch.int64),
        torch.tensor(columns[2]).double(),
    )


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest deviation, relative to the largest value."""
    return float(
        (got.double() - want.double()).abs().max() / want.double().abs().max().clamp(min=1e-12)
    )


def lanes_of_sequences(lanes: list[tuple[int, Sequences]]) -> LaneRows:
    return [(lane, sequence_rows(sequences)) for lane, sequences in lanes]


def lanes_of_centres(lanes: list[tuple[int, Centres]]) -> LaneRows:
    return [(lane, centre_rows(centres)) for lane, centres in lanes]
