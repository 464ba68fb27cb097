"""The click filter, rule by rule."""

from collections import Counter
from datetime import datetime

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.clicks.clean import clicks, judge_events
from pipeline.clicks.sessions import with_sessions
from pipeline.config import Clean, Sessions
from tests.pipeline.frames import at, click_frame

Judged = dict[tuple[str, str, datetime], tuple[float | None, str | None]]

LOG = [
    # user, item, time, event type
    ("moves on", "a", "10:00", "browse"),
    ("moves on", "b", "10:00:01.999", "browse"),
    ("moves on", "c", "10:00:03.999", "browse"),
    ("stays on one item", "a", "10:00", "browse"),
    ("stays on one item", "a", "10:00:01", "buy"),
    ("stays on one item", "b", "10:00:02", "browse"),
    ("at once", "a", "10:00", "browse"),
    ("at once", "b", "10:00", "browse"),
    ("other types end a stay", "a", "10:00", "browse"),
    ("other types end a stay", "b", "10:00:01", "buy"),
    ("twice", "a", "10:00", "browse"),
    ("twice", "a", "10:00", "browse"),
    ("twice", "a", "10:00", "buy"),
    ("twice", "b", "10:01", "browse"),
]


def judged_rows(frame: DataFrame) -> Judged:
    return {
        (row["user_id"], row["item_id"], row["timestamp"]): (row["stay_seconds"], row["dropped"])
        for row in frame.collect()
    }


@pytest.fixture(scope="module")
def derived(spark: SparkSession) -> DataFrame:
    events = click_frame(spark, LOG, "event_type string")
    return judge_events(events, Clean(stay="derived"), (), seed=1).cache()


def test_a_stay_of_exactly_two_seconds_stays(derived: DataFrame) -> None:
    rows = judged_rows(derived)
    assert rows["moves on", "a", at("10:00")] == (1.999, "stay below minimum")
    assert rows["moves on", "b", at("10:00:01.999")] == (2.0, None)


def test_a_users_last_click_has_an_unknown_stay_and_is_kept(derived: DataFrame) -> None:
    assert judged_rows(derived)["moves on", "c", at("10:00:03.999")] == (None, None)


def test_only_an_event_on_a_different_item_ends_a_stay(derived: DataFrame) -> None:
    rows = judged_rows(derived)
    assert rows["stays on one item", "a", at("10:00")] == (2.0, None)
    assert rows["stays on one item", "a", at("10:00:01")] == (1.0, "stay below minimum")


def test_equal_timestamps_give_an_unknown_stay(derived: DataFrame) -> None:
    rows = judged_rows(derived)
    assert {rows["at once", item, at("10:00")] for item in "ab"} == {(None, None)}


def test_exact_duplicates_are_dropped_once(derived: DataFrame) -> None:
    found = sorted(
        (row["event_type"], row["dropped"] or "")
        for row in derived.where("user_id = 'twice'").collect()
    )
    assert found == [("browse", ""), ("browse", ""), ("browse", "duplicate"), ("buy", "")]


def test_events_that_tie_in_everything_but_their_type_have_the_same_stay(
    derived: DataFrame,
) -> None:
    stays = [
        row["stay_seconds"]
        for row in derived.where("user_id = 'twice' AND item_id = 'a'").collect()
    ]
    assert stays == [60.0, 60.0, 60.0]


def test_a_stay_is_derived_before_events_are_selected_by_type(spark: SparkSession) -> None:
    events = click_frame(spark, LOG, "event_type string")
    rows = judged_rows(judge_events(events, Clean(stay="derived"), ("browse",), seed=1))
    assert rows["other types end a stay", "a", at("10:00")] == (1.0, "stay below minimum")
    assert rows["other types end a stay", "b", at("10:00:01")] == (None, "event type")


def test_an_event_of_no_type_is_none_of_the_types_that_count(spark: SparkSession) -> None:
    events = click_frame(
        spark, [("u", "a", "10:00", None), ("u", "b", "11:00", "view")], "event_type string"
    )
    rows = judge_events(events, Clean(), ("view",), seed=1).orderBy("timestamp").collect()
    assert [row["dropped"] for row in rows] == ["event type", None]


def test_an_apps_close_ends_a_stay(spark: SparkSession) -> None:
    rows = [
        ("u", "a", "10:00", at("10:00:01")),
        ("u", "b", "12:00", at("11:00")),
        ("u", "c", "13:00", at("13:00:02")),
    ]
    stays = judged_rows(
        judge_events(
            click_frame(spark, rows, "app_close timestamp"), Clean(stay="derived"), (), seed=1
        )
    )
    # A close before the click says nothing.
    assert [stays[key] for key in sorted(stays)] == [
        (1.0, "stay below minimum"),
        (3600.0, None),
        (2.0, None),
    ]


def test_a_given_stay_is_taken_and_an_unknown_one_kept(spark: SparkSession) -> None:
    rows = [("u", "a", "10:00", 1.999), ("u", "b", "10:01", 2.0), ("u", "c", "10:02", None)]
    judged = judge_events(
        click_frame(spark, rows, "stay_seconds double"), Clean(stay="given"), (), seed=1
    )
    assert [row["dropped"] for row in judged.orderBy("timestamp").collect()] == [
        "stay below minimum",
        None,
        None,
    ]


def test_ratings_under_3_are_dropped_and_3_stays(spark: SparkSession) -> None:
    rows = [("u", "a", "10:00", 2.5), ("u", "b", "10:01", 3.0), ("u", "c", "10:02", None)]
    judged = judge_events(
        click_frame(spark, rows, "value double"), Clean(minimum_value=3), (), seed=1
    )
    assert [row["dropped"] for row in judged.orderBy("timestamp").collect()] == [
        "value below minimum",
        None,
        None,
    ]


def test_a_user_of_more_distinct_clicks_than_the_limit_is_dropped_for_that_day(
    spark: SparkSession,
) -> None:
    days = {
        "at the limit": [0, 1, 1, 1, 2],
        "over it": [0, 1, 2, 3],
        "over two days": [0, 1, 1_438, 1_440, 1_441],
    }
    rows = [
        (user, "a", f"00:{minute}", "view") for user, minutes in days.items() for minute in minutes
    ]
    rows += [("at the limit", "a", f"00:{minute}", "browse") for minute in range(9)]
    events = click_frame(spark, rows, "event_type string").withColumn(
        "date", F.to_date("timestamp")
    )
    for stay in ("absent", "derived"):
        judged = judge_events(events, Clean(stay=stay, maximum_clicks_per_day=3), ("view",), seed=1)  # type: ignore[arg-type]
        dropped = Counter((row["user_id"], row["dropped"]) for row in judged.collect())
        assert dropped == {
            ("at the limit", None): 3,
            ("at the limit", "duplicate"): 2,
            ("at the limit", "event type"): 9,
            ("over it", "too many clicks a day"): 4,
            ("over two days", None): 5,
        }


def test_clicks_have_the_columns_of_the_contract(spark: SparkSession) -> None:
    rows = [("u", "a", "10:00", at("10:00").date(), "browse", "x")]
    events = click_frame(spark, rows, "date date, event_type string, category string")
    found = with_sessions(clicks(judge_events(events, Clean(), (), seed=1)), Sessions(), seed=1)
    first, last = (
        ["user_id", "item_id", "timestamp", "stay_seconds", "date"],
        ["session_start", "session_piece", "session_position"],
    )
    assert found.columns == [*first, "category", *last]
