"""The exchange of rows and gradients against whole tables."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.runs import on_ranks
from trainer.embeddings.keys import KeySpace, keys_of_rank
from trainer.embeddings.tables import ReadKernel, Tables, make_tables
from trainer.kernels.bindings import bind_exchange
from trainer.phases import Clock
from trainer.ranks.comm import Comm, LocalComm
from trainer.ranks.shared_memory import SharedComm

KEYS = KeySpace.of({"item": 11, "category": 4, "shop": 1})
DIMENSION, SEED = 3, 9


def wanted_by(rank: int) -> Tensor:
    """Distinct ascending keys, some wanted by every rank; the last rank wants nothing."""
    random = np.random.default_rng(rank)
    return torch.from_numpy(np.sort(random.permutation(KEYS.size)[: 0 if rank == 3 else 9 + rank]))


def whole_table() -> Tensor:
    return started(LocalComm()).values


def started(comm: Comm, shared: bool = False, compiled: bool = False) -> Tables:
    ranks = SharedComm(comm, bind_exchange(DIMENSION)) if shared else comm
    tables = make_tables(
        KEYS, DIMENSION, ranks, Clock(), ReadKernel(DIMENSION) if compiled else None
    )
    tables.start(SEED)
    return tables


def test_keys_stand_one_table_after_the_other() -> None:
    offsets = [(table.view, table.side, table.offset) for table in KEYS.tables]
    assert offsets == [
        *(("item", "input", 0), ("item", "output", 11), ("category", "input", 22)),
        *(("category", "output", 26), ("shop", "input", 30), ("shop", "output", 31)),
    ]
    assert KEYS.size == 32
    assert [keys_of_rank(32, rank, 3) for rank in range(3)] == [11, 11, 10]


def test_start_values_are_small_uniform_inputs_and_zero_outputs() -> None:
    values = whole_table()
    for table in KEYS.tables:
        part = values[table.offset : table.offset + table.rows]
        assert part.abs().max() <= 0.5 / DIMENSION if table.side == "input" else not part.any()
    assert values[:11].abs().max() > 0.3 / DIMENSION
    assert len(set(values[:11].reshape(-1).tolist())) == 11 * DIMENSION


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_start_values_and_lookup_are_those_of_whole_tables(
    size: int, shared: bool, compiled: bool
) -> None:
    def found_by(comm: Comm) -> Tensor:
        tables = started(comm, shared, compiled)
        tables.comm.barrier()
        return tables.lookup(wanted_by(comm.rank))[0]

    found = on_ranks(size, found_by)
    for rank, vectors in enumerate(found):
        assert torch.equal(vectors[:-1], whole_table()[wanted_by(rank)])
        assert not vectors[-1].any()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_gradients_come_home_summed_once_a_row(size: int, shared: bool) -> None:
    def home(comm: Comm) -> Tensor:
        tables, keys = started(comm, shared), wanted_by(comm.rank)
        _, ticket = tables.lookup(keys)
        rows, sums = tables.send_home(ticket, gradient_of(comm.rank, len(keys)))
        assert len(set(rows.tolist())) == len(rows)
        whole = torch.zeros(KEYS.size, DIMENSION)
        whole[rows * comm.size + comm.rank] = sums
        return whole

    expected = torch.zeros(KEYS.size, DIMENSION)
    for rank in range(size):
        expected.index_add_(0, wanted_by(rank), gradient_of(rank, len(wanted_by(rank))))
    assert torch.allclose(torch.stack(on_ranks(size, home)).sum(0), expected, atol=1e-6)


def gradient_of(rank: int, rows: int) -> Tensor:
    return torch.randn(rows, DIMENSION, generator=torch.Generator().manual_seed(100 + rank))
