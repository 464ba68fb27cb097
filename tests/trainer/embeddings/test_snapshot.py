"""Rows that are read while they change are read as they were."""

import threading
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.embeddings.snapshot import Snapshot

ROWS = 12
SIZE = ROWS * 4 * 4
"""Bytes of all rows."""


def tensors() -> dict[str, Tensor]:
    """Every other row of a larger tensor, as ranks that share memory hold theirs, and one number a
    row."""
    whole = torch.arange(2 * ROWS * 3, dtype=torch.float32).view(2 * ROWS, 3)
    return {"state": torch.arange(ROWS, dtype=torch.float32), "values": whole[1::2]}


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 8), st.sets(st.integers(0, ROWS - 1), min_size=1)), max_size=12
    ),
    piece=st.integers(1, ROWS + 1),
    copied=st.booleans(),
)
def test_what_is_read_is_what_was(
    changes: list[tuple[int, set[int]]], piece: int, copied: bool
) -> None:
    """Any rows changed, any number of times, before the first piece and after any other."""
    held = tensors()
    before = {name: tensor.numpy().copy() for name, tensor in held.items()}
    snapshot, pieces = Snapshot(held, copied_bytes=SIZE if copied else SIZE - 1), count()

    def change() -> None:
        now = next(pieces)
        for when, rows in changes:
            if when == now:
                numbers = torch.tensor(sorted(rows, reverse=True))
                snapshot.keep(numbers)
                for tensor in held.values():
                    tensor[numbers] -= 1000

    read: dict[str, list[np.ndarray]] = {name: [] for name in held}
    change()
    for name in held:
        for part in snapshot.read(name, piece):
            read[name].append(part)
            change()
    for name, parts in read.items():
        assert np.array_equal(np.concatenate(parts), before[name])


def test_rows_that_were_read_are_not_kept_aside() -> None:
    held = tensors()
    snapshot = Snapshot(held, copied_bytes=0)
    for name in held:
        for _ in snapshot.read(name, 5):
            pass
    snapshot.keep(torch.arange(ROWS))
    assert snapshot.kept_bytes == 0


def test_of_rows_that_are_copied_nothing_is_kept_aside() -> None:
    snapshot = Snapshot(tensors(), copied_bytes=SIZE)
    snapshot.keep(torch.arange(ROWS))
    assert snapshot.kept_bytes == 0


def test_rows_are_kept_aside_once() -> None:
    snapshot = Snapshot(tensors(), copied_bytes=0)
    snapshot.keep(torch.tensor([3, 4]))
    once = snapshot.kept_bytes
    assert once > 0
    snapshot.keep(torch.tensor([4, 3]))
    assert snapshot.kept_bytes == once


@pytest.mark.parametrize("ending", ["read", "closed"])
def test_beyond_the_bound_a_change_waits_until_all_is_read(ending: str) -> None:
    held = tensors()
    snapshot = Snapshot(held, kept_bytes=1, copied_bytes=0)
    snapshot.keep(torch.tensor([0]))
    changed = threading.Event()
    thread = threading.Thread(target=lambda: (snapshot.keep(torch.tensor([1])), changed.set()))
    thread.start()
    assert not changed.wait(0.1)
    if ending == "read":
        for name in held:
            assert not changed.is_set()
            list(snapshot.read(name, 100))
    else:
        snapshot.close()
    thread.join(10)
    assert changed.is_set()
