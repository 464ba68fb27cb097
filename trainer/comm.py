"""The one door to Horovod: what ranks say to each other.

`open_comm` gives the ranks of a `horovodrun`, or the local twin with the same interface when the process was started alone, so that
everything but the multi-process tests runs without Horovod.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


POLL_SECONDS = 5e-5


class CommError(Exception):
    """Another rank died or could not be reached."""


class Comm(Protocol):
    """Ranks 0 .. size - 1, each calling the same operations in the same order."""

    rank: int
    size: int
    waited: float
    """Seconds spent in exchanges since the start."""
    calls: int
    """Collective operations since the start."""

    def alltoall(self, tensor: Tensor, splits: Sequence[int], name: str) -> tuple[Tensor, list[int]]:
        """Sends the first splits[0] rows to rank 0, and so on; returns the rows received, in rank order, and how many from each."""

    def allreduce(self, tensor: Tensor, name: str) -> Tensor:
        """The elementwise sum over all ranks, the same on each."""

    def gather(self, value: Any, name: str) -> list[Any]:
        """Every rank's value (any picklable object), in rank order."""

    def barrier(self) -> None:
        """Returns when all ranks have called it."""

    def close(self) -> None:
        """Ends the exchange; the last call."""


class LocalComm:
    """One rank alone: every exchange is the identity."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.waited = 0.0
        self.calls = 0

    def alltoall(self, tensor: Tensor, splits: Sequence[int], name: str) -> tuple[Tensor, list[int]]:  # noqa: ARG002
        """See Comm."""
        return tensor, list(splits)

    def allreduce(self, tensor: Tensor, name: str) -> Tensor:  # noqa: ARG002
        """See Comm."""
        return tensor

    def gather(self, value: Any, name: str) -> list[Any]:  # noqa: ARG002
        """See Comm."""
        return [value]

    def barrier(self) -> None:
        """See Comm."""

    def close(self) -> None:
        """See Comm."""


class HorovodComm:
    """The ranks of a horovodrun."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        self._hvd = hvd
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.waited = 0.0
        self.calls = 0

    def alltoall(self, tensor: Tensor, splits: Sequence[int], name: str) -> tuple[Tensor, list[int]]:
        """See Comm. Raises CommError where a rank died, ValueError where a split is beyond Horovod's 32-bit counts."""
        if sum(splits) * max(1, tensor[:1].numel()) >= 2**31:
            raise ValueError(
                f"{name}: {sum(splits)} rows of {tensor.shape[1:]} in one exchange exceed 2^31 values; lower train.batch_pairs"
            )
        received, counts = self._wait(lambda: self._hvd.alltoall_async(tensor, torch.tensor(splits, dtype=torch.int32), name=name))
        return received, counts.tolist()

    def allreduce(self, tensor: Tensor, name: str) -> Tensor:
        """See Comm. Raises CommError where a rank died."""
        reduced: Tensor = self._wait(lambda: self._hvd.allreduce_async(tensor, name=name, op=self._hvd.Sum))
        return reduced

    def gather(self, value: Any, name: str) -> list[Any]:
        """See Comm. Raises CommError where a rank died."""
        gathered: list[Any] = self._timed(lambda: self._hvd.allgather_object(value, name=name))
        return gathered

    def barrier(self) -> None:
        """See Comm. Raises CommError where a rank died."""
        self._timed(self._hvd.barrier)

    def close(self) -> None:
        """See Comm."""
        self._hvd.shutdown()

    def _wait(self, begin: Callable[[], int]) -> Any:
        """Begins an exchange and waits for it asleep: Horovod's own wait spins, and takes the core from the rank it waits for."""

        def finish() -> Any:
            handle = begin()
            while not self._hvd.poll(handle):
                time.sleep(POLL_SECONDS)
            return self._hvd.synchronize(handle)

        return self._timed(finish)

    def _timed(self, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return call()
        except self._hvd.HorovodInternalError as error:
            raise CommError(f"rank {self.rank} of {self.size} lost another rank: {error}") from error
        finally:
            self.waited += time.perf_counter() - start
            self.calls += 1


def open_comm() -> Comm:
    """The ranks this process was launched with: Horovod's under horovodrun, else itself alone."""
    return HorovodComm() if "HOROVOD_RANK" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ else LocalComm()
