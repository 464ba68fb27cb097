"""Two hundred steps on four ranks are those of one; a rank that dies over alltoall ends the run.

test_ranks.py has shorter trainings on four, and ranks that die over shared memory.
"""

from pathlib import Path

import pytest

from tests.trainer.ranks.test_ranks import (
    CASES,
    GONE,
    LEVELS,
    LONG,
    STOPPED,
    at_levels,
    check_end,
    check_equal,
    train_cases,
    write_corpus,
)

pytestmark = pytest.mark.timeout(1800)


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


@pytest.mark.parametrize(("fault", "message"), [("killed", GONE), ("stops", STOPPED)])
def test_a_rank_that_dies_or_stops_over_alltoall_ends_the_run_with_a_message(
    folder: Path, tmp_path: Path, fault: str, message: str
) -> None:
    check_end(folder / "shards", tmp_path, fault, "alltoall", 60, message, "Process name: 1")
