"""What a task asks of a step, behind which the exact and the fast step look alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Dense = Mapping[str, Tensor]
"""Dense parameters of all tasks by name, such as `<relation>.W` [d, d], `<relation>.t` and
`<relation>.b` [] (see trainer/objective/relations.py)."""


class DenseParameters(Protocol):
    """What a task learns beside the tables: few numbers, which every rank holds and updates
    alike."""

    def start(self) -> dict[str, Tensor]:
        """Start values on the host, float32, under names that no other task has. Their order is
        that of the exchange and of the checkpoint's file."""

    def project(self, dense: dict[str, Tensor]) -> None:
        """Brings this task's parameters back into their bounds after a step, in place."""


@dataclass(frozen=True)
class TaskLoss:
    """What a task's work came to."""

    loss: Tensor
    """[] float64, a sum over the pairs; on the device."""
    dense: dict[str, Tensor] = field(default_factory=dict)
    """Gradients of scale * loss with respect to dense parameters."""


class Work(Protocol):
    """One task's share of a step on one rank: the rows it reads, and the loss and gradients it
    forms from them."""

    pairs: int
    """Positive pairs."""

    @property
    def keys(self) -> Tensor:
        """[reads] keys (trainer/embeddings/keys.py) of the rows it reads; they may repeat."""

    def move(self, device: torch.device) -> None:
        """Takes its tensors to a device."""

    def evaluate(
        self, index: Tensor, vectors: Tensor, gradient: Tensor, scale: float, dense: Dense
    ) -> TaskLoss:
        """Forms the loss, and adds scale * its gradient to `gradient`.

        index [reads]: where in `vectors` each of `keys` stands; vectors, gradient: [rows + 1, d].
        The last row stands for padding: its vector is 0 and what is added to its gradient is
        ignored.
        """


class Minibatch(Protocol):
    """What a work reads, as tensors that go to a device together."""

    keys: Tensor
    """See Work."""
    pairs: int
    """See Work."""

    def move(self, device: torch.device) -> None:
        """Takes its tensors to a device."""


MinibatchType = TypeVar("MinibatchType", bound=Minibatch)


class MinibatchWork(Generic[MinibatchType]):
    """A work's reads are those of its batch."""

    def __init__(self, batch: MinibatchType) -> None:
        self._batch = batch
        self.pairs = batch.pairs

    @property
    def keys(self) -> Tensor:
        """See Work."""
        return self._batch.keys

    def move(self, device: torch.device) -> None:
        """See Work."""
        self._batch.move(device)
