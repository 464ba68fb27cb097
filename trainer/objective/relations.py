"""The relational space of an inter-view task (paper section 3.4): r = sigmoid(W e), with one W for
both views.

Eq. 4 as printed is no likelihood, and a dot product of two sigmoids is always positive, so our loss
is the binary cross-entropy on t (r_a . r_b) + b with a learned scale t > 0 and shift b. With small
vectors r . r is about d/4, where the start values put the score at -ln k: the odds of one positive
against k negatives.
"""

import math

import numpy as np
import torch
from torch import Tensor

from trainer.data import counter_rng

SMALLEST_SCALE = 1e-3


def start(relation: str, dimension: int, negatives: int, seed: int) -> dict[str, Tensor]:
    """Start values: W [d, d] random orthogonal, t = 4 / sqrt(d), b = -t d / 4 - ln k."""
    uniform = counter_rng.uniform(
        seed,
        counter_rng.purpose(f"W of {relation}"),
        np.arange(dimension)[:, None],
        np.arange(2 * dimension),
    )
    normal = np.sqrt(-2 * np.log1p(-uniform[:, :dimension])) * np.cos(
        2 * np.pi * uniform[:, dimension:]
    )
    q, r = np.linalg.qr(normal)
    scale = 4 / math.sqrt(dimension)
    return {
        f"{relation}.W": torch.from_numpy(q * np.sign(np.diag(r))).float(),
        f"{relation}.t": torch.tensor(scale),
        f"{relation}.b": torch.tensor(-scale * dimension / 4 - math.log(negatives)),
    }


def relational(vectors: Tensor, matrix: Tensor) -> Tensor:
    """r = sigmoid(W e) for vectors [..., d]."""
    return torch.sigmoid(vectors @ matrix.T)


def project(dense: dict[str, Tensor]) -> None:
    """Keeps every t positive, after a step."""
    for name, value in dense.items():
        if name.endswith(".t"):
            value.clamp_(min=SMALLEST_SCALE)
