"""Distinct keys: the compiled kernel gives what torch.unique gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.embeddings.unique_keys import Distinct
from trainer.kernels.bindings import bind_distinct


@given(
    st.integers(1, 300).flatmap(
        lambda size: st.tuples(
            st.just(size), st.lists(st.lists(st.integers(0, size - 1)), max_size=3)
        )
    )
)
def test_distinct_keys_ascend_and_each_key_finds_itself(case: tuple[int, list[list[int]]]) -> None:
    size, steps = case
    compiled, twin = Distinct(size, bind_distinct()), Distinct(size)
    for keys in steps:  # one after the other: nothing of a step is left to the next
        drawn = torch.tensor(keys, dtype=torch.int64)
        for got, wanted in zip(compiled(drawn), twin(drawn), strict=True):
            assert got.dtype == wanted.dtype
            assert got.tolist() == wanted.tolist()


def test_many_keys_of_a_large_space() -> None:
    keys = torch.from_numpy(np.random.default_rng(1).zipf(1.2, 100_000).clip(max=3_000_000) - 1)
    found, index = Distinct(3_000_000, bind_distinct())(keys)
    assert torch.equal(found, torch.unique(keys))
    assert torch.equal(found[index], keys)


@pytest.mark.parametrize("key", [-1, 100, 2**62])
def test_what_is_no_key_is_told_and_forgotten(key: int) -> None:
    distinct = Distinct(100, bind_distinct())
    with pytest.raises(IndexError, match=f"{key} is no key: there are 100"):
        distinct(torch.tensor([3, key]))
    assert distinct(torch.tensor([5]))[0].tolist() == [5]
