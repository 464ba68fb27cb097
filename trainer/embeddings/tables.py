"""Row-sharded tables: the rows that a rank owns, and the exchange that lets every rank read and
update any row.

A step has three named parts: **input-dist** (which rows are wanted goes to their owners),
**lookup**, **output-dist** (the rows come back). Gradients take the same way home: summed once per
row by the sender, added by the owner in rank order, applied once with the owner's optimiser state.
There are two levels: between ranks of one host all this goes through memory that they share, where
input-dist and output-dist are nothing but reading; between hosts through alltoall. A rank alone
needs neither.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data import counter_rng
from trainer.embeddings.buffers import Workspace
from trainer.embeddings.keys import KeySpace, Table, keys_of_rank
from trainer.embeddings.optimisers import RowOptimiser
from trainer.kernels import bindings, build
from trainer.phases import Clock
from trainer.ranks.comm import Comm
from trainer.ranks.devices import CPU
from trainer.ranks.shared_memory import SharedComm

INITIAL_ROWS = 65536
"""Rows whose start values are drawn at a time."""


def make_tables(
    keys: KeySpace,
    dimension: int,
    comm: Comm,
    clock: Clock,
    kernel: "ReadKernel | None" = None,
    device: torch.device = CPU,
) -> "Tables":
    """The tables of these ranks, all 0; `clock` counts the phases of a lookup. All ranks call it.
    kernel: none: PyTorch reads the rows."""
    if isinstance(comm, SharedComm):
        return SharedTables(keys, dimension, comm, clock, kernel, device)
    kind = LocalTables if comm.size == 1 else ScatteredTables
    return kind(keys, dimension, comm, clock, kernel, device)


class ReadKernel:
    """Reads rows in C++: those that come next are asked for before they are needed."""

    def __init__(self, dimension: int) -> None:
        """Raises KernelError where it cannot be compiled."""
        self._read = bindings.bind_read(dimension)

    def __call__(self, values: Tensor, rows: Tensor, out: Tensor) -> None:
        """out = values[rows]; rows that are not there are not noticed."""
        source = build.pointer(values)
        written = build.pointer(out)
        self._read(source, build.pointer(rows), len(rows), written)


class Tables(ABC):
    """This rank's rows of all tables: `values` [rows, d] float32, key = row * size + rank."""

    values: Tensor

    def __init__(
        self,
        keys: KeySpace,
        comm: Comm,
        clock: Clock,
        kernel: ReadKernel | None,
        device: torch.device,
    ) -> None:
        self.keys = keys
        self._kernel = kernel
        self.comm = comm
        self.clock = clock
        self._buffers = Workspace(device)

    @abstractmethod
    def lookup(self, keys: Tensor) -> tuple[Tensor, Any]:
        """The vectors of distinct, ascending keys [keys] of any rank, and a last row of 0 for
        padding; [keys + 1, d] float32. And what `send_home` has to know of them. Both hold until
        the next lookup."""

    @abstractmethod
    def send_home(self, ticket: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [keys, d] of a lookup's rows, summed over the ranks by their owner: (distinct
        local rows, sums)."""

    def start(self, seed: int) -> None:
        """Start values: input vectors uniform in (-0.5/d, 0.5/d), keyed by (seed, view, row),
        output vectors 0: word2vec's."""
        dimension = self.values.shape[1]
        columns = np.arange(dimension)
        for table in self.keys.tables:
            if table.side == "output":
                continue
            purpose = counter_rng.purpose(f"start of {table.view}")
            for local, rows in self.own_rows(table, INITIAL_ROWS):
                # [rows, 1] and [d] -> [rows, d]
                drawn = counter_rng.uniform(seed, purpose, rows[:, None], columns)
                start = (drawn - 0.5) / dimension
                self.values[local] = torch.from_numpy(start).float()

    def own_rows(self, table: Table, most: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Pieces, of at most so many rows, of this rank's part of a table: (slice of `values`, the
        table's row numbers, ascending)."""
        rank = self.comm.rank
        size = self.comm.size
        # The least local row whose key, row * size + rank, is not below the table's first; and the
        # same of the table after it.
        begin = -(-(table.offset - rank) // size)
        end = -(-(table.offset + table.rows - rank) // size)
        for first in range(begin, end, most):
            local = slice(first, min(end, first + most))
            keys = np.arange(local.start, local.stop) * size + rank
            yield local, keys - table.offset

    def _read(self, values: Tensor, rows: Tensor) -> Tensor:
        """The rows, and a last one of 0."""
        vectors = self._buffers.take("vectors", len(rows) + 1, values.shape[1])
        read = vectors[:-1]
        if self._kernel is not None:
            self._kernel(values, rows, read)
        else:
            torch.index_select(values, 0, rows, out=read)
        vectors[-1] = 0
        return vectors

    def update(
        self,
        optimiser: RowOptimiser,
        rows: Tensor,
        gradient: Tensor,
        step: int,
        rate: float,
        shrink: float,
    ) -> None:
        """Moves this rank's rows against shrink * their summed gradient."""
        optimiser.update(self.values, rows, gradient, step, rate, shrink)


class LocalTables(Tables):
    """All rows are this rank's."""

    def __init__(
        self,
        keys: KeySpace,
        dimension: int,
        comm: Comm,
        clock: Clock,
        kernel: ReadKernel | None,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(keys, comm, clock, kernel, device)
        self.values = torch.zeros(keys.size, dimension, device=device)

    def lookup(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """See Tables."""
        with self.clock("lookup"):
            return self._read(self.values, keys), keys

    def send_home(self, ticket: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """See Tables."""
        return ticket, gradient


class SharedTables(Tables):
    """All rows lie in memory that the ranks share: each reads any, and writes those it owns.
    Gradients go through mailboxes there.

    Between the update of one step and the lookup of the next all ranks have to meet: the exchange
    of the steps' pairs sees to that, and to it that no mailbox is written again before all have
    read it.
    """

    comm: SharedComm

    def __init__(
        self,
        keys: KeySpace,
        dimension: int,
        comm: SharedComm,
        clock: Clock,
        kernel: ReadKernel | None,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(keys, comm, clock, kernel, device)
        self.whole = comm.memory((keys.size, dimension), torch.float32)
        self.values = self.whole[comm.rank :: comm.size]
        # Room for every key, of which memory is taken as far as it is written.
        self._keys = comm.memory((comm.size, keys.size), torch.int64)
        self._gradients = comm.memory((comm.size, keys.size, dimension), torch.float32)
        self._sent = comm.memory((comm.size, comm.size), torch.int64)
        """[from, to]"""

    def lookup(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """See Tables."""
        with self.clock("lookup"):
            return self._read(self.whole, keys), keys

    def send_home(self, ticket: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """See Tables."""
        rank = self.comm.rank
        kernel = self.comm.kernel
        keys = build.pointer(ticket)
        gradients = build.pointer(gradient)
        boxes = (self._keys[rank], self._gradients[rank], self._sent[rank])
        written = map(build.pointer, boxes)
        kernel.post(keys, gradients, len(ticket), self.comm.size, *written)
        self.comm.meet("gradients")
        return self._collect()

    def _collect(self) -> tuple[Tensor, Tensor]:
        """What all ranks posted for this one."""
        rank = self.comm.rank
        size = self.comm.size
        # [from, to] -> [from]: in each mailbox, what is for this rank comes after what is for
        # those before it.
        begins = self._sent[:, :rank].sum(1).tolist()
        counts = self._sent[:, rank].contiguous()
        # [from] addresses, as int64
        keys = _addresses(self._keys, begins)
        gradients = _addresses(self._gradients, begins)
        # Room for no row in two mailboxes.
        most = int(counts.sum())
        rows = torch.empty(most, dtype=torch.int64)
        sums = self._buffers.take("sums", most, self.whole.shape[1])
        boxes = map(build.pointer, (keys, gradients, counts))
        written = map(build.pointer, (rows, sums))
        distinct = self.comm.kernel.collect(*boxes, size, *written)
        return rows[:distinct], sums[:distinct]


def _addresses(boxes: Tensor, begins: list[int]) -> Tensor:
    """[ranks] where in memory each rank's part of its box [ranks, keys, ...] begins."""
    parts = [boxes[sender, begin:] for sender, begin in enumerate(begins)]
    return torch.tensor([part.data_ptr() for part in parts])


@dataclass(frozen=True)
class Ticket:
    """One lookup's way to the owners and back."""

    order: Tensor
    """[keys] positions of the wanted keys, sorted by owner."""
    sent: list[int]
    """Keys wanted from each rank."""
    rows: Tensor
    """[asked] local rows that the ranks want of this one, in rank order."""
    asked: list[int]
    """Keys each rank wants of this one."""


class ScatteredTables(Tables):
    """Each rank holds its rows alone; rows and gradients go by alltoall."""

    def __init__(
        self,
        keys: KeySpace,
        dimension: int,
        comm: Comm,
        clock: Clock,
        kernel: ReadKernel | None,
        device: torch.device = CPU,
    ) -> None:
        super().__init__(keys, comm, clock, kernel, device)
        rows = keys_of_rank(keys.size, comm.rank, comm.size)
        self.values = torch.zeros(rows, dimension, device=device)

    def lookup(self, keys: Tensor) -> tuple[Tensor, Ticket]:
        """See Tables."""
        with self.clock("input-dist"):
            ticket = self._input_dist(keys)
        with self.clock("lookup"):
            # index_select, here and below: values[rows] takes four times as long.
            asked_vectors = self.values.index_select(0, ticket.rows)
        with self.clock("output-dist"):
            received, _ = self.comm.alltoall(asked_vectors, ticket.asked, "output-dist")
            # [sent to owners, d] -> [keys + 1, d], from the order of owners to that of the keys.
            d = self.values.shape[1]
            vectors = self.values.new_zeros(len(keys) + 1, d)
            vectors.index_copy_(0, ticket.order, received)
        return vectors, ticket

    def _input_dist(self, keys: Tensor) -> Ticket:
        size = self.comm.size
        owners = keys % size
        order = torch.argsort(owners, stable=True)
        sent = torch.bincount(owners, minlength=size).tolist()
        asked_keys, asked = self.comm.alltoall(keys[order], sent, "input-dist")
        rows = torch.div(asked_keys, size, rounding_mode="floor")
        return Ticket(order, sent, rows, asked)

    def send_home(self, ticket: Ticket, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """See Tables."""
        # [keys, d], from the order of the keys to that of their owners.
        by_owner = gradient.index_select(0, ticket.order)
        received, _ = self.comm.alltoall(by_owner, ticket.sent, "gradients")
        # [asked, d] -> [rows, d]: added in rank order, so that the sums are always the same.
        rows, position = torch.unique(ticket.rows, return_inverse=True)
        sums = gradient.new_zeros(len(rows), gradient.shape[1])
        return rows, sums.index_add_(0, position, received)
