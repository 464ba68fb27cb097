"""What is measured of a run now and then, on all ranks together: how lengths of vectors go with
counts, and how much memory it takes."""

from dataclasses import dataclass

import numpy as np
import psutil
import torch

from pipeline.config import ITEM_VIEW
from trainer.arrays import Array, Float64s, Int64s
from trainer.data import counter_rng
from trainer.model import M2GRL

SAMPLE = 4096
"""Items of the sample: their correlation is within 0.03 of that of all."""


@dataclass(frozen=True)
class Watched:
    """A measurement."""

    length_count_correlation: float | None
    """Spearman correlation of the sampled item input vectors' lengths with the items' counts; none
    where it is not defined: all counts, or all lengths, are the same."""
    memory_bytes: list[int]
    """Resident memory of each rank, by rank; memory that ranks share counts in each."""


class Watch:
    """Measures a model, by one exchange."""

    def __init__(self, model: M2GRL, counts: Int64s, seed: int) -> None:
        """counts: occurrences of each item; the same sample of those that occur is looked at each
        time."""
        self._model = model
        clicked = np.flatnonzero(counts)
        purpose = counter_rng.purpose("items watched")
        order = counter_rng.permutation(len(clicked), seed, purpose)
        sample = clicked[order[:SAMPLE]]
        self._counts = counts[sample]
        keys = torch.from_numpy(sample) + model.tables.keys.table(ITEM_VIEW, "input").offset
        rank = model.comm.rank
        size = model.comm.size
        # [sample] which items are this rank's, and their rows among its own.
        self._is_own = keys % size == rank
        own_keys = keys[self._is_own]
        self._rows = torch.div(own_keys, size, rounding_mode="floor").to(model.device)

    def measure(self) -> Watched:
        """All ranks call it."""
        model = self._model
        sample = len(self._counts)
        # [sample + ranks]: each rank fills in its own rows' lengths and its memory; the sum has
        # all of them.
        own = torch.zeros(sample + model.comm.size, dtype=torch.float64)
        vectors = model.tables.values.index_select(0, self._rows)
        lengths_here = vectors.norm(dim=1).double().cpu()
        own[:sample][self._is_own] = lengths_here
        memory_here = psutil.Process().memory_info().rss
        own[sample + model.comm.rank] = memory_here
        summed = model.comm.allreduce(own, "watched").numpy()
        lengths = summed[:sample]
        memory = summed[sample:]
        correlation = _rank_correlation(lengths, self._counts)
        return Watched(correlation, memory.astype(np.int64).tolist())


def _rank_correlation(lengths: Float64s, counts: Int64s) -> float | None:
    if np.ptp(lengths) == 0 or np.ptp(counts) == 0:
        return None
    # Spearman's is Pearson's of the ranks; [2, 2], of which the corner is the one between them.
    correlations = np.corrcoef(_ranks(lengths), _ranks(counts))
    return float(correlations[0, 1])


def _ranks(values: Array) -> Float64s:
    """1 for the smallest, equal values the mean of theirs. By hand: scipy.stats takes each rank 45
    MB and a second of its start."""
    _, position, times = np.unique(values, return_inverse=True, return_counts=True)
    # [distinct]: the last rank of those that are equal, less half of how many follow the first.
    last = np.cumsum(times)
    mean: Float64s = last - (times - 1) / 2
    return mean[position]
