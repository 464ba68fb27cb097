"""What is held out."""

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.clicks.sessions import with_sessions
from pipeline.clicks.split import with_part
from pipeline.config import Sessions, Split
from pipeline.contracts.statistics import TEST, TRAIN, UNUSED
from tests.pipeline.frames import click_frame


def parts(spark: SparkSession, rows: list[tuple[str, str, str]], split: Split) -> dict[str, str]:
    """Part of each item's click."""
    clicks = with_sessions(click_frame(spark, rows), Sessions(), seed=1)
    return {
        row["item_id"]: row["part"]
        for row in with_part(clicks, split).select("item_id", "part").collect()
    }


def test_a_time_cut_holds_out_sessions_that_start_at_it_or_later(spark: SparkSession) -> None:
    rows = [
        ("before", "a", "9:59:59.999"),
        ("over the cut", "b", "9:30"),
        ("over the cut", "c", "10:15"),
        ("at the cut", "d", "10:00"),
        ("at the cut", "e", "12:00"),
    ]
    split = Split.model_validate({"kind": "time", "cut": "2024-03-01T10:00:00"})
    # What a session that started before the cut goes on to is for neither part.
    assert parts(spark, rows, split) == {"a": TRAIN, "b": TRAIN, "c": UNUSED, "d": TEST, "e": TEST}


def test_a_test_part_of_some_hours_ends(spark: SparkSession) -> None:
    rows = [
        ("u", "a", "8:00"),
        ("u", "b", "11:59:59.999"),
        ("u", "c", "12:30"),
        ("v", "d", "12:00"),
    ]
    split = Split.model_validate({"kind": "time", "cut": "2024-03-01T12:00:00+02:00", "hours": 2.0})
    # The session that began within the test part belongs to it as a whole.
    assert parts(spark, rows, split) == {"a": TRAIN, "b": TEST, "c": TEST, "d": UNUSED}


def test_the_last_items_of_users_with_enough_are_held_out(spark: SparkSession) -> None:
    rows = [("enough", f"e{i}", f"{10 + 2 * i}:00") for i in range(4)] + [
        ("too few", f"f{i}", f"10:0{i}") for i in range(3)
    ]
    found = parts(spark, rows, Split(kind="last_items", items=2, minimum_items=4))
    assert {item for item, part in found.items() if part == TEST} == {"e2", "e3"}
    assert set(found.values()) == {TRAIN, TEST}


def test_without_a_split_everything_is_training(spark: SparkSession) -> None:
    assert parts(spark, [("u", "a", "10:00"), ("u", "b", "20:00")], Split()) == {
        "a": TRAIN,
        "b": TRAIN,
    }


def test_a_cut_means_the_same_moment_in_every_zone(spark: SparkSession) -> None:
    cuts = [
        Split.model_validate({"kind": "time", "cut": text}).cut
        for text in ("2024-03-01T10:00:00", "2024-03-01T12:00:00+02:00")
    ]
    written = (
        spark.range(1)
        .select(*(F.lit(cut).cast("string").alias(f"cut{i}") for i, cut in enumerate(cuts)))
        .collect()[0]
    )
    assert list(written) == ["2024-03-01 10:00:00", "2024-03-01 10:00:00"]
