"""Row-sharded tables: the rows that a rank owns, and the exchange that lets every rank read and update any row.

A step has three named parts: **input-dist** (which rows are wanted goes to their owners), **lookup**, **output-dist** (the rows come
back). Gradients take the same way home: summed once per row by the sender, added by the owner in rank order, applied once with the
owner's optimiser state.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer import draws
from trainer.comm import Comm
from trainer.keys import KeySpace, Table, keys_of_rank
from trainer.optimisers import RowOptimiser

INITIAL_ROWS = 65536
"""Rows whose start values are drawn at a time."""


@dataclass(frozen=True)
class Ticket:
    """One lookup's way to the owners and back."""

    order: Tensor
    """[wanted] positions of the wanted keys, sorted by owner."""
    sent: list[int]
    """Keys wanted from each rank."""
    rows: Tensor
    """[asked] local rows that the ranks want of this one, in rank order."""
    asked: list[int]
    """Keys each rank wants of this one."""


class ShardedTables:
    """This rank's rows of all tables: `values` [rows, d] float32, key = row * size + rank."""

    def __init__(self, keys: KeySpace, dimension: int, comm: Comm) -> None:
        self.keys = keys
        self.comm = comm
        self.values = torch.zeros(keys_of_rank(keys.size, comm.rank, comm.size), dimension)

    def start(self, seed: int) -> None:
        """Start values: input vectors uniform in (-0.5/d, 0.5/d), keyed by (seed, view, row), output vectors 0: word2vec's."""
        dimension = self.values.shape[1]
        for table in self.keys.tables:
            if table.side == "input":
                for local, rows in self._own_rows(table):
                    drawn = draws.uniform(seed, draws.purpose(f"start of {table.view}"), rows[:, None], np.arange(dimension))
                    self.values[local] = torch.from_numpy((drawn - 0.5) / dimension).float()

    def _own_rows(self, table: Table) -> Iterator[tuple[slice, np.ndarray]]:
        """Pieces of this rank's part of a table: (slice of `values`, the table's row numbers)."""
        rank, size = self.comm.rank, self.comm.size
        begin = -(-(table.offset - rank) // size)
        end = -(-(table.offset + table.rows - rank) // size)
        for first in range(begin, end, INITIAL_ROWS):
            local = slice(first, min(end, first + INITIAL_ROWS))
            yield local, np.arange(local.start, local.stop) * size + rank - table.offset

    def lookup(self, keys: Tensor) -> tuple[Tensor, Ticket]:
        """The vectors of distinct keys [wanted] of any rank, and a last row of 0 for padding; [wanted + 1, d] float32."""
        if self.comm.size == 1:
            vectors = torch.empty(len(keys) + 1, self.values.shape[1])
            torch.index_select(self.values, 0, keys, out=vectors[:-1])
            vectors[-1] = 0
            return vectors, Ticket(keys, [len(keys)], keys, [len(keys)])
        ticket = self._input_dist(keys)
        # index_select, here and below: values[rows] takes four times as long.
        found = self.values.index_select(0, ticket.rows)
        received, _ = self.comm.alltoall(found, ticket.asked, "output-dist")
        vectors = torch.zeros(len(keys) + 1, self.values.shape[1])
        vectors.index_copy_(0, ticket.order, received)
        return vectors, ticket

    def _input_dist(self, keys: Tensor) -> Ticket:
        size = self.comm.size
        owners = keys % size
        order = torch.argsort(owners, stable=True)
        sent = torch.bincount(owners, minlength=size).tolist()
        wanted, asked = self.comm.alltoall(keys[order], sent, "input-dist")
        return Ticket(order, sent, torch.div(wanted, size, rounding_mode="floor"), asked)

    def send_home(self, ticket: Ticket, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [wanted, d] of a lookup's rows, summed over the ranks by their owner: (distinct local rows, sums)."""
        if self.comm.size == 1:
            return ticket.rows, gradient
        received, _ = self.comm.alltoall(gradient.index_select(0, ticket.order), ticket.sent, "gradients")
        rows, position = torch.unique(ticket.rows, return_inverse=True)
        return rows, torch.zeros(len(rows), gradient.shape[1]).index_add_(0, position, received)

    def update(self, optimiser: RowOptimiser, rows: Tensor, gradient: Tensor, step: int, rate: float, shrink: float) -> None:
        """Moves this rank's rows against shrink * their summed gradient."""
        optimiser.update(self.values, rows, gradient, step, rate, shrink)
