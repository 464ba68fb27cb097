"""Weights of the tasks: learned by homoscedastic uncertainty (paper section 3.5), or fixed.

Eq. 10 is L = sum over tasks of L_t / sigma_t^2 + log sigma_t^2, learned as s = log sigma^2. Its
fixed point is sigma_t^2 = L_t. The floor is a projection of s after the step: a clamp inside the
graph would have no gradient below the floor, and the task could never come back.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from trainer.config import Train, TrainConfigError

LOG_VARIANCE = "log_sigma2"
"""Name of the dense parameter s [tasks]."""
STATIC_ITEM_WEIGHT = 0.05


class Weighting(Protocol):
    """Gives each task its weight, and learns what there is to learn."""

    def weights(self, dense: dict[str, Tensor]) -> list[float]:
        """Weight of each task, in their order."""

    def gradients(self, dense: dict[str, Tensor], losses: list[float]) -> dict[str, Tensor]:
        """Gradients of eq. 10 with respect to the weighting's own parameters, for the tasks' mean
        losses.

        A loss is nan for a task without pairs in this step: it has no gradient.
        """

    def project(self, dense: dict[str, Tensor]) -> None:
        """Brings the parameters back into their bounds, after a step."""


class Fixed:
    """Weights that stay as given."""

    def __init__(self, weights: list[float]) -> None:
        self._weights = weights

    def weights(self, dense: dict[str, Tensor]) -> list[float]:  # noqa: ARG002
        """See Weighting."""
        return self._weights

    def gradients(
        self,
        dense: dict[str, Tensor],  # noqa: ARG002
        losses: list[float],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """See Weighting."""
        return {}

    def project(self, dense: dict[str, Tensor]) -> None:
        """See Weighting."""


class Adaptive:
    """1 / sigma^2 with learned s = log sigma^2 (eq. 10); `cap` bounds the relations' weights by
    that multiple of the item task's.

    Four tasks, the last a relation, with sigma^2 of 2, 1, 0.5 and 0.1:

    >>> weighting = Adaptive(relations=[3], floor=0.05, cap=0.5)
    >>> dense = {LOG_VARIANCE: torch.log(torch.tensor([2.0, 1.0, 0.5, 0.1]))}
    >>> [round(weight, 3) for weight in weighting.weights(dense)]
    [0.5, 1.0, 2.0, 0.25]

    s rests where sigma^2 is the task's mean loss, and falls where the loss is less:

    >>> slopes = weighting.gradients(dense, [2.0, 1.0, 0.25, math.nan])
    >>> slopes[LOG_VARIANCE].numpy().round(3).tolist()
    [0.0, 0.0, 0.5, 0.0]
    """

    def __init__(self, relations: list[int], floor: float, cap: float) -> None:
        self._relations = relations
        self._floor = math.log(floor)
        self._cap = cap

    def weights(self, dense: dict[str, Tensor]) -> list[float]:
        """See Weighting."""
        log_variance = dense[LOG_VARIANCE].double()
        weights: list[float] = torch.exp(-log_variance).tolist()
        # An easy relation's sigma^2 falls far below the item task's: its weight would pull the
        # items of a category together.
        most = self._cap * weights[0]
        for task in self._relations:
            weights[task] = min(weights[task], most)
        return weights

    def gradients(self, dense: dict[str, Tensor], losses: list[float]) -> dict[str, Tensor]:
        """See Weighting: d/ds (L exp(-s) + s) = 1 - L exp(-s)."""
        log_variance = dense[LOG_VARIANCE].double()
        loss = torch.tensor(losses, dtype=torch.float64)
        slope = 1 - loss * torch.exp(-log_variance)
        # A task without pairs in this step has no loss (nan), and does not move.
        return {LOG_VARIANCE: torch.where(slope.isnan(), 0.0, slope).float()}

    def project(self, dense: dict[str, Tensor]) -> None:
        """See Weighting."""
        dense[LOG_VARIANCE].clamp_(min=self._floor)


def make_weighting(
    train: Train, tasks: list[str], relations: list[str]
) -> tuple[Weighting, dict[str, Tensor]]:
    """The weighting of a configuration, and the dense parameters it learns. The first task is the
    item task.

    Raises TrainConfigError where `weights` names no task or lacks one.
    """
    if train.weighting == "adaptive":
        numbers = [tasks.index(name) for name in relations]
        adaptive = Adaptive(numbers, train.sigma2_floor, train.relation_weight_cap)
        # sigma^2 = 1 of every task: all weigh alike at first.
        return adaptive, {LOG_VARIANCE: torch.zeros(len(tasks))}
    if train.weighting == "given":
        if set(train.weights) != set(tasks):
            raise TrainConfigError(
                f"train.weights names {sorted(train.weights)}; the tasks are {tasks}: give each "
                "exactly one weight"
            )
        return Fixed([train.weights[name] for name in tasks]), {}
    item = STATIC_ITEM_WEIGHT if train.weighting == "static" else 1.0
    return Fixed([item, *(1.0 for _ in tasks[1:])]), {}
