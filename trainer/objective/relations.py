"""The relational space of an inter-view task (paper section 3.4): r = sigmoid(W e), with one W for
both views.

Eq. 4 as printed is no likelihood, and a dot product of two sigmoids is always positive. So our loss
is the binary cross-entropy on t (r_a . r_b) + b with a learned scale t > 0 and shift b. With small
vectors r . r is about d/4, where the start values put the score at -ln k: the odds of one positive
against k negatives.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.arrays import Float64s
from trainer.data import counter_rng

SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class RelationParameters:
    """W, t and b of one relation: the dense parameters that its task owns (DenseParameters)."""

    relation: str
    dimension: int
    negatives: int
    """k: negatives that a positive pair counts for."""
    seed: int

    def start(self) -> dict[str, Tensor]:
        """Start values: W [d, d] random orthogonal, t = 4 / sqrt(d), b = -t d / 4 - ln k; float32.

        The score of two vectors near 0 is then -ln k:

        >>> dense = RelationParameters("item_shop", dimension=4, negatives=10, seed=1).start()
        >>> {name: tuple(value.shape) for name, value in dense.items()}
        {'item_shop.W': (4, 4), 'item_shop.t': (), 'item_shop.b': ()}
        >>> r = relational(torch.zeros(4), dense["item_shop.W"])
        >>> score = dense["item_shop.t"] * (r @ r) + dense["item_shop.b"]
        >>> round(float(torch.exp(-score)), 3)
        10.0
        """
        scale = 4 / math.sqrt(self.dimension)
        shift = -scale * self.dimension / 4 - math.log(self.negatives)
        matrix = torch.from_numpy(self._orthogonal()).float()
        w, t, b = parameter_names(self.relation)
        return {w: matrix, t: torch.tensor(scale), b: torch.tensor(shift)}

    def project(self, dense: dict[str, Tensor]) -> None:
        """Keeps t positive, in place: below 0 the loss would push linked pairs apart.

        >>> dense = {"item_shop.t": torch.tensor(-0.2), "item_shop.b": torch.tensor(-0.2)}
        >>> RelationParameters("item_shop", dimension=4, negatives=10, seed=1).project(dense)
        >>> {name: round(float(value), 3) for name, value in dense.items()}
        {'item_shop.t': 0.001, 'item_shop.b': -0.2}
        """
        _, t, _ = parameter_names(self.relation)
        dense[t].clamp_(min=SMALLEST_SCALE)

    def _orthogonal(self) -> Float64s:
        """[d, d] random orthogonal, evenly distributed."""
        d = self.dimension
        purpose = counter_rng.purpose(f"W of {self.relation}")
        rows = np.arange(d)[:, None]
        columns = np.arange(2 * d)
        # [d, 2 d]: the left half gives the lengths, the right half the angles (Box and Muller).
        uniform = counter_rng.uniform(self.seed, purpose, rows, columns)
        left, right = np.split(uniform, 2, axis=1)
        lengths = np.sqrt(-2 * np.log1p(-left))
        normal = lengths * np.cos(2 * np.pi * right)
        q, r = np.linalg.qr(normal)
        # The signs of r's diagonal are the library's choice: with them positive, q is even over
        # all orthogonal matrices (Mezzadri, 2007), and the same wherever it is computed.
        orthogonal: Float64s = q * np.sign(np.diag(r))
        return orthogonal


def parameter_names(relation: str) -> tuple[str, str, str]:
    """Names of a relation's W [d, d], t [] and b [] among the dense parameters."""
    return f"{relation}.W", f"{relation}.t", f"{relation}.b"


def relational(vectors: Tensor, matrix: Tensor) -> Tensor:
    """r = sigmoid(W e) for vectors [..., d] and W [d, d]; [..., d].

    The score of eq. 4 is the dot product of two such r. Four rows, of two features each:

    >>> matrix = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> items = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, 9.0], [-9.0, -9.0]])
    >>> relational(items, matrix).round(decimals=2).tolist()
    [[0.5, 0.5], [0.5, 0.75], [1.0, 0.5], [0.0, 0.0]]
    """
    return torch.sigmoid(vectors @ matrix.T)
