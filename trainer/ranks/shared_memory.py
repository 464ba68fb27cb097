"""Ranks of one host over memory that they share: the faster level of the exchange.

Horovod starts the ranks and carries what is said now and then; in the steps they meet here. The
memory has no name (memfd): it is gone with the last process that holds it, however that ends, and
nothing is left to be cleaned up.
"""

import mmap
import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.config import Train, TrainConfigError
from trainer.kernels import bindings, build
from trainer.kernels.bindings import ExchangeKernel
from trainer.ranks import comm
from trainer.ranks.comm import NAP_SECONDS, Comm, agree
from trainer.ranks.processes import GO_ON, CommError

LOOKS = 20_000
"""Looks at a meeting before a rank sleeps, some 0.3 ms; none where there are more ranks than cores,
which have better things to do."""


class MemoryRefusedError(TrainConfigError):
    """The system does not let the ranks share memory."""


class SharedComm:
    """The ranks of another `Comm`, all on this host. Every operation raises CommError where a rank
    died, was stopped, or does not come."""

    def __init__(self, inner: Comm, kernel: ExchangeKernel) -> None:
        """All ranks call it."""
        self.rank = inner.rank
        self.size = inner.size
        self.local_rank = inner.local_rank
        self.waited, self.calls, self.sent_bytes = 0.0, 0, 0
        self.kernel = kernel
        self._inner = inner
        self._who = f"rank {self.rank} of {self.size}"
        self.peers = inner.peers
        self._looks = LOOKS if self.size <= len(os.sched_getaffinity(0)) else 0
        self._meeting = self.memory((16,), torch.int32)
        self._board = self.memory((2, self.size, 1), torch.float64)

    def memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of 0 that all ranks hold together; pages that nobody writes take no memory. All
        ranks call it.

        Raises MemoryRefusedError, on all of them, where the system does not let one open it.
        """
        numbers = torch.Size(shape).numel()
        # Memory of no bytes cannot be mapped.
        size = max(1, numbers) * dtype.itemsize
        handle = os.memfd_create("m2grl") if self.rank == 0 else -1
        if self.rank == 0:
            os.truncate(handle, size)
        # What has no name is reached through the process that holds it open.
        path, *_ = self._inner.gather(f"/proc/{os.getpid()}/fd/{handle}", "memory")
        mapped, refused = None, None
        try:
            opened = os.open(path, os.O_RDWR)
            mapped = mmap.mmap(opened, size)
            os.close(opened)
        except OSError as error:
            refused = (
                f"rank {self.rank} cannot map {size:,} bytes of {path} ({error.strerror}); "
                'or say train.exchange = "alltoall"'
            )
        try:
            agree(self._inner, refused, MemoryRefusedError, "memory opened")
        finally:
            if self.rank == 0:
                os.close(handle)
        assert mapped is not None
        flat = torch.frombuffer(mapped, dtype=dtype, count=numbers)
        return flat.view(list(shape))

    def allreduce(self, tensor: Tensor, name: str) -> Tensor:
        """See Comm. Summed in float64, in rank order."""
        count = tensor.numel()
        if count > self._board.shape[2]:
            self._board = self.memory((2, self.size, count), torch.float64)
        # Two boards in turn: whoever writes one again has met the others since they read it.
        turn = self.calls % 2
        # [ranks, count]
        board = self._board[turn, :, :count]
        board[self.rank] = tensor.reshape(-1)
        self.meet(name)
        return board.sum(0).view(tensor.shape).to(tensor.dtype)

    def alltoall(
        self, tensor: Tensor, splits: Sequence[int], name: str
    ) -> tuple[Tensor, list[int]]:
        """See Comm."""
        return self._inner.alltoall(tensor, splits, name)

    def gather(self, value: Any, name: str) -> list[Any]:
        """See Comm."""
        return self._inner.gather(value, name)

    def barrier(self) -> None:
        """See Comm."""
        self.meet("barrier")

    def close(self) -> None:
        """See Comm."""
        self._inner.close()

    def meet(self, name: str) -> None:
        """Returns when all ranks have called it; what each wrote before, all can read."""
        began = time.perf_counter()
        self.calls += 1
        meeting = build.pointer(self._meeting)
        number = self.kernel.arrive(meeting, self.size)
        looks = self._looks
        nanoseconds = int(NAP_SECONDS * 1e9)
        while not self.kernel.wait(meeting, number, looks, nanoseconds):
            # Who has slept once is not in a hurry.
            looks = 0
            self.peers.check(name)
            if time.perf_counter() - began > comm.PATIENCE_SECONDS:
                raise CommError(
                    f"{self._who} waited {comm.PATIENCE_SECONDS} s in the exchange '{name}': "
                    f"another rank hangs. {GO_ON}"
                )
        self.waited += time.perf_counter() - began


def is_likely(train: Train) -> bool:
    """Whether ranks that are all on one host will share memory, as far as one can tell before it
    meets the others: not whether the system lets them."""
    return train.may_share_memory and build.obstacle() is None


def nearest_comm(ranks: Comm, train: Train) -> Comm:
    """The ranks over shared memory, where `train.exchange` asks for it, or leaves it open and it
    can be; else as they are.

    All ranks call it. Raises TrainConfigError where it is asked for and cannot be.
    """
    if ranks.size == 1 or not train.may_share_memory:
        return ranks
    apart = not ranks.peers.on_one_host
    if apart and train.exchange == "shared":
        raise TrainConfigError(
            'train.exchange = "shared": the ranks run on several hosts; leave it at "auto", or '
            'say "alltoall"'
        )
    kernels = "compiled" if train.exchange == "shared" else train.kernels
    if apart:
        kernels = "torch"
    kernel = build.if_wanted(kernels, lambda: bindings.bind_exchange(train.dimension))
    # All ranks ask, also those that are apart: every one has to come to an exchange.
    is_compiled = ranks.gather(kernel is not None, "kernels")
    if kernel is None or not all(is_compiled):
        return ranks
    try:
        return SharedComm(ranks, kernel)
    except MemoryRefusedError as error:
        if train.exchange == "auto":
            return ranks
        raise TrainConfigError(f'train.exchange = "shared": {error}') from None
