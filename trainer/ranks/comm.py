"""The one door to Horovod: what ranks say to each other.

`open_comm` gives the ranks of a `horovodrun`, or the local twin with the same interface when the
process was started alone, so that everything but the multi-process tests runs without Horovod.
"""

import os
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.config import TrainConfigError
from trainer.ranks.processes import GO_ON, CommError, Peers, this_process

POLL_SECONDS = 5e-5
"""Sleep between looks at an exchange under way."""

CALM_MILLISECONDS, EAGER_MILLISECONDS = 20, 1
"""How often Horovod's thread looks for work: each look takes the ranks' own time, and an exchange
waits for the next one. The first is for steps that do without Horovod."""
PATIENCE_SECONDS = 600.0
"""How long an exchange may take, including what another rank still has to do before it. Horovod
itself would wait for ever."""
MOST_VALUES = 2**31 - 1
"""Numbers in one exchange: Horovod counts them in 32 bits."""
NAP_SECONDS = 0.1
"""Time between looks at the others' processes, in an exchange that takes that long."""


class Comm(Protocol):
    """Ranks 0 .. size - 1, each calling the same operations in the same order."""

    rank: int
    size: int
    local_rank: int
    """Number of the rank among those of its host."""
    peers: Peers
    """The processes of all ranks."""
    waited: float
    """Seconds spent in exchanges since the start."""
    calls: int
    """Collective operations since the start."""
    sent_bytes: int
    """Bytes that alltoall has sent to other ranks since the start."""

    def alltoall(
        self, tensor: Tensor, splits: Sequence[int], name: str
    ) -> tuple[Tensor, list[int]]:
        """Sends the first splits[0] rows to rank 0, and so on; returns the rows received, in rank
        order, and how many from each."""

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

    rank = local_rank = 0
    size = 1

    def __init__(self) -> None:
        self.peers = Peers(0, [this_process()])
        self.waited = 0.0
        self.calls = self.sent_bytes = 0

    def alltoall(
        self,
        tensor: Tensor,
        splits: Sequence[int],
        name: str,  # noqa: ARG002
    ) -> tuple[Tensor, list[int]]:
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
    """The ranks of a horovodrun.

    Every operation raises CommError where a rank died or has not come for PATIENCE_SECONDS.
    """

    def __init__(self, cycle_milliseconds: int = EAGER_MILLISECONDS) -> None:
        os.environ.setdefault("HOROVOD_CYCLE_TIME", str(cycle_milliseconds))
        import horovod.torch as hvd

        self._hvd = hvd
        try:
            hvd.init()
        except (ImportError, RuntimeError, hvd.HorovodInternalError) as error:
            rank = os.environ.get("HOROVOD_RANK", "?")
            raise CommError(f"rank {rank} cannot reach the others: {error}. {GO_ON}") from error
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()
        self.waited = 0.0
        self.calls = self.sent_bytes = 0
        self._who = f"rank {self.rank} of {self.size}"
        self.peers = Peers(self.rank, [])
        self.peers = Peers(self.rank, self.gather(this_process(), "processes"))

    def alltoall(
        self, tensor: Tensor, splits: Sequence[int], name: str
    ) -> tuple[Tensor, list[int]]:
        """See Comm. Raises TrainConfigError where it is more than Horovod's 32-bit counts hold."""
        rows, width = sum(splits), tensor[:1].numel()
        if rows * max(1, width) > MOST_VALUES:
            raise TrainConfigError(
                f"{name}: {rows} rows of {list(tensor.shape[1:])} in one exchange are "
                f"more than {MOST_VALUES} values; "
                "lower train.batch_pairs, or start more ranks"
            )
        counts = torch.tensor(splits, dtype=torch.int32)
        # What a rank sends to itself goes nowhere.
        elsewhere = rows - splits[self.rank]
        self.sent_bytes += elsewhere * width * tensor.element_size()
        received, from_each = self._exchange(
            lambda: self._hvd.alltoall_async(tensor, counts, name=name), name
        )
        return received, from_each.tolist()

    def allreduce(self, tensor: Tensor, name: str) -> Tensor:
        """See Comm."""
        reduced: Tensor = self._exchange(
            lambda: self._hvd.allreduce_async(tensor, name=name, op=self._hvd.Sum), name
        )
        return reduced

    def gather(self, value: Any, name: str) -> list[Any]:
        """See Comm."""
        pickled = bytearray(pickle.dumps(value))
        own = torch.frombuffer(pickled, dtype=torch.uint8)
        # [ranks], then the bytes of all ranks, one after the other
        sizes = self._allgather(torch.tensor([len(own)]), f"{name}, sizes")
        together = self._allgather(own, name)
        parts = torch.split(together, sizes.tolist())
        return [pickle.loads(part.numpy().tobytes()) for part in parts]

    def _allgather(self, tensor: Tensor, name: str) -> Tensor:
        joined: Tensor = self._exchange(lambda: self._hvd.allgather_async(tensor, name=name), name)
        return joined

    def barrier(self) -> None:
        """See Comm."""
        self.allreduce(torch.zeros(1), "barrier")

    def close(self) -> None:
        """See Comm."""
        self._hvd.shutdown()

    def _exchange(self, begin: Callable[[], int], name: str) -> Any:
        """Begins an exchange and waits for its end, asleep: Horovod's own wait spins, and takes the
        core from the rank it waits for."""
        start = time.perf_counter()
        self.calls += 1
        try:
            handle = begin()
            looked = start
            while not self._hvd.poll(handle):
                now = time.perf_counter()
                if now - looked > NAP_SECONDS:
                    self.peers.check(name)
                    looked = now
                if now - start > PATIENCE_SECONDS:
                    raise CommError(
                        f"{self._who} waited {PATIENCE_SECONDS} s in the exchange '{name}': "
                        f"another rank hangs. {GO_ON}"
                    )
                time.sleep(POLL_SECONDS)
            return self._hvd.synchronize(handle)
        except self._hvd.HorovodInternalError as error:
            who = "horovodrun names it below"
            if not self.peers.on_one_host:
                who = (
                    "one that horovodrun names, or one that is stopped or out of reach "
                    f"({self.peers.elsewhere})"
                )
            raise CommError(
                f"{self._who} lost another rank in the exchange '{name}': {who}. {GO_ON}"
            ) from error
        finally:
            self.waited += time.perf_counter() - start


def agree(comm: Comm, objection: str | None, error: type[Exception], name: str) -> None:
    """Returns when no rank objects; else raises `error` on all ranks, with the objection of the
    first that does. All ranks call it."""
    objections = comm.gather(objection, name)
    for first in filter(None, objections):
        raise error(first)


def open_comm(calm: bool = False) -> Comm:
    """The ranks this process was launched with: Horovod's under horovodrun, else itself alone.

    `calm`: where all ranks are on this host, the steps will not ask Horovod.
    """
    if "HOROVOD_RANK" not in os.environ and "OMPI_COMM_WORLD_RANK" not in os.environ:
        return LocalComm()
    here = os.environ.get("HOROVOD_LOCAL_SIZE") == os.environ.get("HOROVOD_SIZE", "?")
    return HorovodComm(CALM_MILLISECONDS if calm and here else EAGER_MILLISECONDS)
