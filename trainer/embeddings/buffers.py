"""Memory that steps use again: the system takes a freed block of megabytes back, and clears each of
its pages when it is asked for anew."""

import torch
from torch import Tensor

from trainer.ranks.devices import CPU

SPARE = 1.25
"""How much more than asked for is taken, so that steps of about the same size share a block."""


class Workspace:
    """Blocks by name. What was taken is overwritten by whoever takes the same name next."""

    def __init__(self, device: torch.device = CPU) -> None:
        self._device = device
        self._blocks: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int) -> Tensor:
        """A tensor [rows, columns] float32 of any content."""
        block = self._blocks.get(name)
        # Another width is another tensor: rows must lie side by side.
        fits = block is not None and len(block) >= rows and block.shape[1] == columns
        if block is None or not fits:
            # Before the next is made: never two at a time.
            self._blocks.pop(name, None)
            block = torch.empty(int(rows * SPARE), columns, device=self._device)
            self._blocks[name] = block
        return block[:rows]
