"""Where a rank computes: on the processor, or on the GPU that goes with its number on its host."""

import torch
from torch import Tensor

from trainer.config import Train, TrainConfigError
from trainer.ranks.comm import Comm

CPU = torch.device("cpu")


def device_of(train: Train, comm: Comm) -> torch.device:
    """The device of this rank, which PyTorch takes from now on. Raises TrainConfigError where there
    is no GPU for it."""
    if train.device == "cpu":
        return CPU
    there = torch.cuda.device_count()
    if comm.local_rank >= there:
        raise TrainConfigError(
            f'train.device = "cuda": PyTorch finds {there} GPUs here, this is number '
            f"{comm.local_rank + 1} of the ranks on this host; "
            'start one rank a GPU, or say "cpu"'
        )
    torch.cuda.set_device(comm.local_rank)
    return torch.device("cuda", comm.local_rank)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The host does not wait for the copy, which is made from memory that
    stays in its place; the device makes it after what it was told before, and before what it is
    told afterwards."""
    return tensor if device == CPU else tensor.pin_memory().to(device, non_blocking=True)
