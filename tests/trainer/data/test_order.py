"""The order of a run: permutations, each row once a pass, whatever the ranks, from any step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import order
from trainer.data.order import Rate

ROWS = st.integers(1, 200)
KEY = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 50))


@given(st.integers(0, 500), st.integers(1, 40))
def test_lanes_cut_a_stream_into_equal_slices(rows: int, lanes: int) -> None:
    slices = [order.lane_slice(rows, lanes, lane) for lane in range(lanes)]
    assert [row for first, stop in slices for row in range(first, stop)] == list(range(rows))
    sizes = [stop - first for first, stop in slices]
    assert max(sizes) - min(sizes) <= 1


@given(ROWS, st.integers(1, 60))
def test_an_epoch_serves_row_floor_s_n_over_steps(rows: int, steps: int) -> None:
    rate = order.once_an_epoch(steps)
    served = [
        position
        for step in range(steps)
        for span in order.spans(rate, step, rows)
        for position in range(span.start, span.stop)
    ]
    assert served == list(range(rows))
    for step in range(steps):
        expected = range(step * rows // steps, (step + 1) * rows // steps)
        assert [
            p for span in order.spans(rate, step, rows) for p in range(span.start, span.stop)
        ] == list(expected)


def test_floor_serving_by_hand() -> None:
    """Ten rows in four steps: 2, 3, 2, 3; the second epoch is pass 1 from its start."""
    served = [
        [(span.number, span.start, span.stop) for span in order.spans(Rate(1, 4), step, 10)]
        for step in range(5)
    ]
    assert served == [[(0, 0, 2)], [(0, 2, 5)], [(0, 5, 7)], [(0, 7, 10)], [(1, 0, 2)]]


@given(ROWS, st.integers(1, 50), st.integers(1, 50), st.integers(1, 30))
def test_a_stream_that_repeats_passes_over_every_row_before_the_next_pass(
    rows: int, batch: int, pairs: int, steps: int
) -> None:
    rate = order.pairs_a_step(batch, pairs)
    served = [
        (span.number, position)
        for step in range(steps)
        for span in order.spans(rate, step, rows)
        for position in range(span.start, span.stop)
    ]
    assert served == [divmod(i, rows) for i in range(steps * rows * batch // pairs)]


@given(ROWS, st.integers(1, 40), KEY)
def test_a_pass_visits_each_row_exactly_once(
    rows: int, shuffle_rows: int, key: tuple[int, int]
) -> None:
    visited, position = [], 0
    while position < rows:
        block = order.block_at(position, rows, shuffle_rows, *key)
        assert block.position == position
        assert len(block.order) <= shuffle_rows
        visited += (block.first + block.order).tolist()
        position += len(block.order)
    assert sorted(visited) == list(range(rows))


@given(ROWS, st.integers(1, 40), KEY, st.data())
def test_the_order_can_be_entered_at_any_position(
    rows: int, shuffle_rows: int, key: tuple[int, int], data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, rows - 1))
    entered = order.block_at(position, rows, shuffle_rows, *key)
    from_start = order.block_at(entered.position, rows, shuffle_rows, *key)
    assert entered.position <= position < entered.position + len(entered.order)
    assert (entered.first, entered.order.tolist()) == (from_start.first, from_start.order.tolist())


def test_passes_and_lanes_have_orders_of_their_own() -> None:
    orders = [
        np.concatenate([order.block_at(p, 100, 50, 7, lane, number).order for p in (0, 50)])
        for lane in range(2)
        for number in range(2)
    ]
    assert len({tuple(found.tolist()) for found in orders}) == len(orders)
    assert not any((found == np.arange(len(found))).all() for found in orders)


def test_a_position_beyond_the_lane_is_an_error() -> None:
    with pytest.raises(IndexError, match="position 10 of 10 rows"):
        order.block_at(10, 10, 4, 1)


@pytest.mark.parametrize(
    ("pairs", "batch", "steps"), [(1, 100, 1), (100, 100, 1), (101, 100, 2), (0, 100, 1)]
)
def test_steps_an_epoch(pairs: int, batch: int, steps: int) -> None:
    assert order.steps_an_epoch(pairs, batch) == steps
