"""Two hundred steps on four ranks are those of one rank; test_ranks.py has them on two, and shorter
trainings on four."""

from pathlib import Path

import pytest

from tests.trainer.ranks.test_ranks import (
    CASES,
    LEVELS,
    LONG,
    at_levels,
    check_equal,
    train_cases,
    write_corpus,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and below `1` and `4` what so many ranks have learned of them."""
    folder = tmp_path_factory.mktemp("long")
    write_corpus(folder / "shards")
    train_cases(folder / "shards", folder / "1", 1, {LONG: {"train": CASES[LONG]}})
    train_cases(folder / "shards", folder / "4", 4, at_levels([LONG]))
    return folder


@pytest.mark.parametrize("level", LEVELS)
def test_two_hundred_steps_on_four_ranks_are_those_of_one(folder: Path, level: str) -> None:
    check_equal(folder / "shards", LONG, folder / "1" / LONG, folder / "4" / f"{LONG}, {level}")
