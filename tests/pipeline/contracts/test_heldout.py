"""Who is for validation, and what a next item is."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contracts.heldout import next_items, of_validation

USERS = pa.array([f"user {number}" for number in range(5000)])


def test_about_the_share_is_for_validation_and_the_others_are_not() -> None:
    for share in (0.05, 0.1, 0.5):
        # Within four standard deviations of a fair draw.
        assert of_validation(USERS, share).mean() == pytest.approx(
            share, abs=4 * (share * (1 - share) / 5000) ** 0.5
        )
    assert not of_validation(USERS, 0).any()


def test_whether_a_user_is_depends_on_the_id_alone() -> None:
    alone = [bool(of_validation(pa.array([user]), 0.1)[0]) for user in USERS.to_pylist()]
    assert of_validation(USERS, 0.1).tolist() == alone
    assert (
        of_validation(pa.concat_arrays([USERS[7:9], USERS[7:9]]), 0.1).tolist()
        == [alone[7], alone[8]] * 2
    )
    assert of_validation(pa.array([], pa.string()), 0.1).tolist() == []


def test_the_users_are_those_of_always() -> None:
    """Else what was chosen by some users would be judged by others who were looked at."""
    assert np.flatnonzero(of_validation(USERS, 0.1))[:8].tolist() == [5, 8, 20, 31, 37, 56, 67, 95]


def test_a_larger_share_adds_to_a_smaller_one() -> None:
    small, large = of_validation(USERS, 0.1), of_validation(USERS, 0.3)
    assert (large & small).sum() == small.sum() < large.sum()


def slow_next_items(sessions: list[list[int]]) -> list[tuple[int, int]]:
    """(trigger, target) items of every case."""
    found = []
    for items in sessions:
        without_repeats = [
            item for at, item in enumerate(items) if at == 0 or items[at - 1] != item
        ]
        found += list(itertools.pairwise(without_repeats))
    return found


def test_a_next_item_is_another_one_in_the_same_session() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        sessions = [random.integers(0, 3, random.integers(0, 6)).tolist() for _ in range(4)]
        session = np.repeat(np.arange(len(sessions)), [len(items) for items in sessions])
        item = np.array([item for items in sessions for item in items], np.int64)
        trigger, target = next_items(session, item)
        assert list(
            zip(item[trigger].tolist(), item[target].tolist(), strict=True)
        ) == slow_next_items(sessions)
