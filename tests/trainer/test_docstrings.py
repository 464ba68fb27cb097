"""The examples in docstrings give what they say."""

import doctest
from types import ModuleType

import pytest

from trainer.data import counter_rng, order, streams
from trainer.embeddings import keys, optimisers
from trainer.objective import chunks, exact, fast_windows, noise, relations, weighting

MODULES = (
    chunks,
    counter_rng,
    exact,
    fast_windows,
    keys,
    noise,
    optimisers,
    order,
    relations,
    streams,
    weighting,
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted, "no example"
    assert not result.failed
