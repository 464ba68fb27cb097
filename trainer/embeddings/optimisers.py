"""Optimisers of table rows, applied by a row's owner to the rows that a step touched, and Adam for
the few dense parameters."""

import math
from typing import Protocol

import torch
from torch import Tensor

from trainer.kernels import bindings, build
from trainer.ranks.devices import CPU

BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10
"""Far below the root mean square of a row's gradient, which the mean over a batch makes small
(about 1e-6)."""


class RowOptimiser(Protocol):
    """Updates rows of one rank's part of the tables. Rows that a step does not touch do not move
    and keep their state."""

    state: dict[str, Tensor]
    """Named tensors whose first axis is the rank's rows."""

    def update(
        self,
        values: Tensor,
        rows: Tensor,
        gradient: Tensor,
        step: int,
        rate: float,
        shrink: float = 1.0,
    ) -> None:
        """values[rows] moves against shrink * `gradient` [touched, d]; rows [touched] are distinct;
        `step` counts from 0."""


class RowAdagrad:
    """Row-wise Adagrad: one accumulator a row, the sum of the mean square of its gradients (as in
    Gupta et al., 2014).

    Rows 1 and 3 of four move against their first gradient by the rate, along its direction:

    >>> values = torch.zeros(4, 2)
    >>> gradient = torch.tensor([[3.0, -3.0], [0.1, 0.1]])
    >>> optimiser = RowAdagrad(4)
    >>> optimiser.update(values, torch.tensor([1, 3]), gradient, step=0, rate=0.5)
    >>> values.round(decimals=3).tolist()
    [[0.0, 0.0], [-0.5, 0.5], [0.0, 0.0], [-0.5, -0.5]]
    """

    def __init__(
        self, rows: int, kernel: "AdagradKernel | None" = None, device: torch.device = CPU
    ) -> None:
        self.state = {"square_sum": torch.zeros(rows, device=device)}
        self._kernel = kernel

    def update(
        self,
        values: Tensor,
        rows: Tensor,
        gradient: Tensor,
        step: int,  # noqa: ARG002
        rate: float,
        shrink: float = 1.0,
    ) -> None:
        """See RowOptimiser."""
        if self._kernel is not None:
            self._kernel(values, self.state["square_sum"], rows, gradient, rate, shrink)
            return
        gradient = _shrunk(gradient, shrink)
        square_sum = self.state["square_sum"]
        # The norm [touched] forms no copy of the gradient, as gradient.square() would.
        norms = torch.linalg.vector_norm(gradient, dim=1)
        total = square_sum[rows] + norms.square() / gradient.shape[1]
        square_sum[rows] = total
        # [touched, d] * [touched, 1]
        factors = -rate / (total.sqrt() + ADAGRAD_EPSILON)
        values.index_add_(0, rows, gradient * factors.unsqueeze(1))


class AdagradKernel:
    """The same in C++, in one pass over the rows."""

    def __init__(self, dimension: int) -> None:
        """Raises KernelError where it cannot be compiled."""
        self._adagrad = bindings.bind_adagrad(dimension)

    def __call__(
        self,
        values: Tensor,
        square_sum: Tensor,
        rows: Tensor,
        gradient: Tensor,
        rate: float,
        shrink: float,
    ) -> None:
        """Moves values[rows]; the rows of `values` may lie further apart than their length."""
        # A rank's rows lie between those of others, where they share memory.
        stride = values.stride(0) // values.shape[1]
        others = map(build.pointer, (square_sum, rows, gradient))
        numbers = (len(rows), stride, shrink, rate, ADAGRAD_EPSILON)
        self._adagrad(values.data_ptr(), *others, *numbers)


class RowAdam:
    """Adam on touched rows with the global step count, as torch.optim.SparseAdam."""

    def __init__(self, rows: int, dimension: int, device: torch.device = CPU) -> None:
        self.state = {
            name: torch.zeros(rows, dimension, device=device) for name in ("mean", "square")
        }

    def update(
        self,
        values: Tensor,
        rows: Tensor,
        gradient: Tensor,
        step: int,
        rate: float,
        shrink: float = 1.0,
    ) -> None:
        """See RowOptimiser."""
        gradient = _shrunk(gradient, shrink)
        # [touched, d], copies of the rows' state, which are then moved in place and put back.
        mean = self.state["mean"].index_select(0, rows)
        mean.lerp_(gradient, 1 - BETAS[0])
        square = self.state["square"].index_select(0, rows)
        square.mul_(BETAS[1])
        square.addcmul_(gradient, gradient, value=1 - BETAS[1])
        self.state["mean"].index_copy_(0, rows, mean)
        self.state["square"].index_copy_(0, rows, square)
        values.index_add_(0, rows, adam_move(mean, square, step, rate))


class DenseAdam:
    """Adam for the dense parameters, which every rank holds and updates alike."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.state: dict[str, Tensor] = {}
        for kind in ("mean", "square"):
            for name, value in parameters.items():
                self.state[f"{kind}.{name}"] = torch.zeros_like(value)

    def update(
        self, parameters: dict[str, Tensor], gradients: dict[str, Tensor], step: int, rate: float
    ) -> None:
        """Moves every parameter in place."""
        for name, value in parameters.items():
            gradient = gradients[name]
            mean = self.state[f"mean.{name}"]
            mean.lerp_(gradient, 1 - BETAS[0])
            square = self.state[f"square.{name}"]
            square.lerp_(gradient.square(), 1 - BETAS[1])
            value.add_(adam_move(mean, square, step, rate))


def shorten(values: Tensor, rows: Tensor, weight_decay: float, max_norm: float | None) -> None:
    """values[rows] lose that share of their length, and then what they are longer than
    `max_norm`."""
    vectors = values.index_select(0, rows) * (1 - weight_decay)
    if max_norm is not None:
        # [touched, 1]; a vector of 0 gives inf, which is clamped: it stays 0.
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        vectors *= (max_norm / lengths).clamp(max=1)
    values.index_copy_(0, rows, vectors)


def _shrunk(gradient: Tensor, shrink: float) -> Tensor:
    return gradient if shrink == 1 else gradient * shrink


def adam_move(mean: Tensor, square: Tensor, step: int, rate: float) -> Tensor:
    """Adam's step with bias correction (Kingma and Ba, 2015, algorithm 1), `step` counting from
    0."""
    # The corrections of both means are numbers: they are multiplied into the rate and into
    # epsilon, and no corrected copy of a mean is formed.
    first = 1 - BETAS[0] ** (step + 1)
    second = math.sqrt(1 - BETAS[1] ** (step + 1))
    deviation = square.sqrt().add_(ADAM_EPSILON * second)
    return (mean / deviation).mul_(-rate * second / first)
