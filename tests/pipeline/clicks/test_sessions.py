"""Session split and merge, rule by rule: each rule is a user of one log."""

import re
from contextlib import redirect_stdout
from io import StringIO

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.clicks.sessions import with_sessions
from pipeline.config import Sessions
from tests.pipeline.frames import at, click_frame, session_table_of

Found = dict[str, list[list[str]]]

GAPS = [
    ("just under an hour", "a", "10:00"),
    ("just under an hour", "b", "10:59:59.999"),
    ("an hour", "a", "10:00"),
    ("an hour", "b", "11:00"),
    ("over midnight", "a", "23:50"),
    ("over midnight", "b", "24:10"),
]

APPS = [
    # user, item, time, open, close
    ("29:59.999 apart", "a", "10:00", "10:00", "10:10"),
    ("29:59.999 apart", "b", "10:40", "10:39:59.999", "10:50"),
    ("30:00 apart", "a", "10:00", "10:00", "10:10"),
    ("30:00 apart", "b", "10:40", "10:40", "10:50"),
    ("idle split stays", "a", "10:00", "10:00", "11:30"),
    ("idle split stays", "b", "11:45", "11:45", "12:00"),
    ("idle within", "a", "10:00", "10:00", "13:00"),
    ("idle within", "b", "11:00", "10:00", "13:00"),
    ("idle within", "c", "11:10", "10:00", "13:00"),
    ("two devices", "a", "10:00", "10:00", "10:50"),
    ("two devices", "b", "10:05", "10:01", "10:06"),
    ("two devices", "c", "10:45", "10:00", "10:50"),
    ("a chain", "a", "10:00", "10:00", "10:10"),
    ("a chain", "b", "10:35", "10:35", "10:40"),
    ("a chain", "c", "11:05", "11:05", "11:06"),
    ("no close", "a", "10:00", "10:00", None),
    ("no close", "b", "10:05", "10:00", None),
    ("no close", "c", "10:34", "10:34", None),
    ("no close, apart", "a", "10:00", "10:00", None),
    ("no close, apart", "b", "10:30", "10:30", None),
    ("close before the last click", "a", "10:00", "10:00", "10:01"),
    ("close before the last click", "b", "10:20", "10:00", "10:01"),
    ("close before the last click", "c", "10:45", "10:45", "10:46"),
]


def items_by_user(sessions: DataFrame) -> Found:
    found: Found = {}
    for row in sessions.orderBy("user_id", "start", "end").collect():
        found.setdefault(row["user_id"], []).append(row["item_ids"])
    return found


@pytest.fixture(scope="module")
def by_gaps(spark: SparkSession) -> Found:
    return items_by_user(
        session_table_of(with_sessions(click_frame(spark, GAPS), Sessions(), seed=1))
    )


@pytest.fixture(scope="module")
def by_apps(spark: SparkSession) -> Found:
    rows = [
        (user, item, time, at(opened), at(closed) if closed else None)
        for user, item, time, opened, closed in APPS
    ]
    clicks = click_frame(spark, rows, "app_open timestamp, app_close timestamp")
    return items_by_user(session_table_of(with_sessions(clicks, Sessions(), seed=1)))


@pytest.mark.parametrize(
    ("user", "sessions"),
    [
        ("just under an hour", [["a", "b"]]),
        ("an hour", [["a"], ["b"]]),
        ("over midnight", [["a", "b"]]),
    ],
)
def test_a_gap_of_an_hour_splits(by_gaps: Found, user: str, sessions: list[list[str]]) -> None:
    assert by_gaps[user] == sessions


@pytest.mark.parametrize(
    ("user", "sessions"), [("29:59.999 apart", [["a", "b"]]), ("30:00 apart", [["a"], ["b"]])]
)
def test_sessions_less_than_30_minutes_apart_merge(
    by_apps: Found, user: str, sessions: list[list[str]]
) -> None:
    assert by_apps[user] == sessions


def test_a_merge_never_undoes_an_idle_split(by_apps: Found) -> None:
    # App A closed at 11:30 after its last click at 10:00; app B opened at 11:45.
    assert by_apps["idle split stays"] == [["a"], ["b"]]


def test_an_idle_hour_splits_within_an_app_session(by_apps: Found) -> None:
    assert by_apps["idle within"] == [["a"], ["b", "c"]]


def test_overlapping_app_sessions_merge(by_apps: Found) -> None:
    assert by_apps["two devices"] == [["a", "b", "c"]]


def test_chains_of_sessions_merge(by_apps: Found) -> None:
    assert by_apps["a chain"] == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("user", "sessions"), [("no close", [["a", "b", "c"]]), ("no close, apart", [["a"], ["b"]])]
)
def test_a_missing_close_is_the_last_click(
    by_apps: Found, user: str, sessions: list[list[str]]
) -> None:
    assert by_apps[user] == sessions


def test_a_close_before_the_last_click_is_the_last_click(by_apps: Found) -> None:
    assert by_apps["close before the last click"] == [["a", "b", "c"]]


def test_a_session_over_50_is_halved_until_none_is(spark: SparkSession) -> None:
    lengths = {
        "50": [50],
        "51": [26, 25],
        "101": [26, 25, 50],
        "205": [26, 26, 26, 25, 26, 25, 26, 25],
    }
    rows = [(user, f"{i:03}", f"10:00:{i / 10}") for user in lengths for i in range(int(user))]
    sessions = session_table_of(
        with_sessions(click_frame(spark, rows), Sessions(maximum_length=50), seed=1)
    )
    found = items_by_user(sessions)
    assert {user: [len(session) for session in found[user]] for user in found} == lengths
    assert all(
        [item for session in found[user] for item in session]
        == [f"{i:03}" for i in range(int(user))]
        for user in found
    )


def test_clicks_are_sorted_once_and_after_halving_by_the_position_they_had(
    spark: SparkSession,
) -> None:
    """Two clicks on one item at one time tie in every other order: a sort that spills to the disk
    may turn them round."""
    rows = [("u", "a", "10:00", f"{i}") for i in range(5)]
    clicks = click_frame(spark, rows, "category string")
    whole, halved = (
        with_sessions(clicks, Sessions(maximum_length=most), seed=1) for most in (None, 2)
    )
    assert [keys.count("ASC") for keys in sort_keys(whole)] == [4]
    # A plan begins with its last step.
    assert [re.findall("position|first|timestamp", keys) for keys in sort_keys(halved)] == [
        ["position"],
        ["first"],
        ["timestamp"],
    ]
    found = halved.groupBy("session_piece").agg(F.sort_array(F.collect_list("session_position")))
    assert sorted(tuple(row) for row in found.collect()) == [(0, [0, 1]), (2, [0]), (3, [0, 1])]


def sort_keys(frame: DataFrame) -> list[str]:
    """By what Spark is to sort, as its plan says."""
    with redirect_stdout(StringIO()) as text:
        frame.explain()
    return re.findall(r"Sort \[(.*?)\], false", text.getvalue())


def test_halves_that_start_at_the_same_time_have_ids_of_their_own(spark: SparkSession) -> None:
    rows = [("u", f"{i}", "10:00") for i in range(5)]
    sessions = session_table_of(
        with_sessions(click_frame(spark, rows), Sessions(maximum_length=2), seed=1)
    ).collect()
    assert len({row["session_id"] for row in sessions}) == len(sessions) == 3
    assert sorted(item for row in sessions for item in row["item_ids"]) == ["0", "1", "2", "3", "4"]


def test_equal_times_are_ordered_neither_by_input_nor_by_id(spark: SparkSession) -> None:
    items = [f"{i:02}" for i in range(20)]
    rows = [("u", item, "10:00") for item in items]
    orders = {}
    for seed in (1, 2):
        for name, given in (("ascending", rows), ("descending", rows[::-1])):
            sessions = session_table_of(with_sessions(click_frame(spark, given), Sessions(), seed))
            orders[seed, name] = items_by_user(sessions)["u"][0]
    assert orders[1, "ascending"] == orders[1, "descending"] != orders[2, "ascending"]
    assert orders[1, "ascending"] not in (items, items[::-1])


def test_clicks_outside_every_app_session_stand_alone(spark: SparkSession) -> None:
    rows = [
        ("u", "a", "10:00", None),
        ("u", "b", "10:29", None),
        ("u", "c", "11:00", "s"),
        ("u", "d", "11:45", "s"),
    ]
    sessions = session_table_of(
        with_sessions(click_frame(spark, rows, "app_session_id string"), Sessions(), seed=1)
    )
    assert items_by_user(sessions)["u"] == [["a", "b"], ["c", "d"]]


def test_a_session_lasts_from_its_first_click_to_its_last(spark: SparkSession) -> None:
    sessions = session_table_of(
        with_sessions(
            click_frame(spark, [("u", "a", "23:59"), ("u", "b", "24:01")]), Sessions(), seed=1
        )
    )
    (row,) = sessions.collect()
    assert (row["start"], row["end"]) == (at("23:59"), at("24:01"))
