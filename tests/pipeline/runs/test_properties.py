"""The pipeline's rules against the plain-Python reference on hundreds of random histories, and the
reference against what must hold of it.

Hypothesis draws the histories; as users are independent, one run of Spark judges all of them under
one set of rules. Where the two differ, the smallest differing history is cut down further, all
candidates of a round as users of one log, and shown.
"""

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812
from scipy.stats import chisquare

from pipeline.clicks import clean
from pipeline.clicks.sessions import with_sessions
from pipeline.clicks.split import CLICK, with_part
from pipeline.config import Clean, Sessions, Split, View
from pipeline.graphs import views
from tests.pipeline import logs, reference
from tests.pipeline.logs import CUT, END, TEST_HOURS, TYPES, YEAR, History, Step
from tests.pipeline.reference import Event, Session, Tie

SEED = 11


@dataclass(frozen=True)
class Rules:
    """What the pipeline is told, and which columns the log has."""

    columns: frozenset[str] = frozenset()
    clean: Clean = field(default_factory=Clean)
    event_types: tuple[str, ...] = ()
    sessions: Sessions = field(default_factory=Sessions)
    split: Split = field(default_factory=Split)


BY_TIME = Split.model_validate({"kind": "time", "cut": CUT.isoformat()})
BY_HOURS = Split.model_validate({"kind": "time", "cut": CUT.isoformat(), "hours": TEST_HOURS})
RULES = {
    "gaps alone": Rules(),
    "gaps, derived stays": Rules(
        frozenset({"event_type"}),
        Clean(stay="derived"),
        TYPES,
        Sessions(maximum_length=7),
        BY_HOURS,
    ),
    "at most 8 clicks a day": Rules(
        frozenset({"event_type"}), Clean(stay="derived", maximum_clicks_per_day=8), TYPES
    ),
    "app ids, given stays": Rules(
        frozenset({"app_session_id", "stay_seconds"}),
        Clean(stay="given"),
        (),
        Sessions(maximum_length=2),
        Split(kind="last_items", items=1, minimum_items=2),
    ),
    "app opens and closes, derived stays": Rules(
        frozenset({"app_open", "app_close", "event_type"}),
        Clean(stay="derived"),
        TYPES,
        Sessions(),
        BY_TIME,
    ),
    "app opens, merged over more than the idle gap": Rules(
        frozenset({"app_open", "event_type"}),
        Clean(),
        (),
        Sessions(idle_gap_seconds=1800, merge_gap_seconds=7200),
        BY_HOURS,
    ),
    "app closes, derived stays of at least 0.3 s": Rules(
        frozenset({"app_close"}),
        Clean(stay="derived", minimum_stay_seconds=0.3),
        (),
        Sessions(idle_gap_seconds=600),
    ),
    "every column, given stays": Rules(
        frozenset(logs.APP) | {"event_type", "stay_seconds", "value", "category"},
        Clean(stay="given", minimum_value=3),
        TYPES,
        Sessions(maximum_length=50),
        Split(kind="last_items"),
    ),
    "every app column, derived stays, short merges": Rules(
        frozenset(logs.APP),
        Clean(stay="derived"),
        (),
        Sessions(merge_gap_seconds=1e-6, maximum_length=3),
        BY_TIME,
    ),
    "ratings, idle for a year": Rules(
        frozenset({"value"}),
        Clean(minimum_value=3),
        (),
        Sessions(idle_gap_seconds=YEAR, maximum_length=50),
        Split(kind="last_items"),
    ),
}


@dataclass
class Outcome:
    """What became of one user's log."""

    duplicates: int = 0
    judged: Counter[tuple[object, ...]] = field(default_factory=Counter)
    """The other events, each with its stay and why it is no click."""
    clicks: list[tuple[object, ...]] = field(default_factory=list)
    """(number, number of the session, its start, position in it, time, item, part), in order."""


Outcomes = dict[str, Outcome]


def run_rules(
    spark: SparkSession, events: list[Event], rules: Rules, partitions: int = 2
) -> tuple[Outcomes, Tie]:
    """What Spark makes of a log, by user; and in which order its hash puts equal times."""
    frame = logs.event_frame(spark, events, rules.columns).repartition(partitions).cache()
    judged = clean.judge_events(frame, rules.clean, rules.event_types, SEED)
    clicks = with_part(with_sessions(clean.clicks(judged), rules.sessions, SEED), rules.split)
    hashed = judged.withColumn("hash", F.xxhash64("user_id", "timestamp", "item_id", F.lit(SEED)))
    outcomes: Outcomes = {event.user_id: Outcome() for event in events}
    ties: dict[tuple[str, datetime, str], int] = {}
    for row in hashed.collect():
        found = outcomes[row["user_id"]]
        ties[row["user_id"], row["timestamp"], row["item_id"]] = row["hash"]
        if row["dropped"] == "duplicate":
            found.duplicates += 1
        else:
            found.judged[
                *(row[name] for name in frame.columns if name != "date"),
                row["stay_seconds"],
                row["dropped"],
            ] += 1
    numbers: dict[str, dict[tuple[object, ...], int]] = {}
    for user, start, piece, *rest in sorted(
        tuple(row) for row in clicks.select(*CLICK, "timestamp", "item_id", "part").collect()
    ):
        sessions, told = numbers.setdefault(user, {}), outcomes[user].clicks
        told.append((len(told), sessions.setdefault((start, piece), len(sessions)), start, *rest))
    frame.unpersist()
    return outcomes, lambda event: ties[event.user_id, event.timestamp, event.item_id]


def refer(events: list[Event], rules: Rules, tie: Tie) -> Outcomes:
    """What the reference makes of the log."""
    lengths = Counter(event.user_id for event in events)
    return {
        user: _refer(lengths[user], distinct, rules)
        for user, distinct in reference.by_user(events, tie).items()
    }


def _refer(length: int, distinct: list[Event], rules: Rules) -> Outcome:
    verdicts = reference.judge(distinct, rules.clean, rules.event_types)
    names = ["user_id", "item_id", "timestamp", *sorted(rules.columns)]
    judged = Counter(
        (*(getattr(v.event, name) for name in names), v.stay_seconds, v.dropped) for v in verdicts
    )
    outcome = Outcome(length - len(distinct), judged)
    sessions = reference.sessions(reference.clicks(verdicts), rules.sessions, rules.columns)
    for number, (session, part) in enumerate(
        zip(sessions, reference.parts(sessions, rules.split), strict=True)
    ):
        for i, click in enumerate(session.clicks):
            outcome.clicks.append(
                (
                    len(outcome.clicks),
                    number,
                    session.start,
                    i,
                    click.timestamp,
                    click.item_id,
                    part[i],
                )
            )
    return outcome


def differing(
    spark: SparkSession, histories: list[History], rules: Rules
) -> list[tuple[History, Outcome, Outcome]]:
    """(history, what Spark makes of it, what the reference makes of it) where the two differ, the
    shortest first."""
    log = logs.with_columns(logs.users(histories), rules.columns)
    found, tie = run_rules(spark, log, rules)
    expected = refer(log, rules, tie)
    by_user: dict[str, History] = {}
    for event in log:
        by_user.setdefault(event.user_id, []).append(event)
    assert set(found) == set(by_user)
    return sorted(
        ((by_user[u], found[u], expected[u]) for u in by_user if found[u] != expected[u]),
        key=lambda case: len(case[0]),
    )


def shrunk(events: History, failing: Callable[[list[History]], History | None]) -> History:
    """Leaves out events, many at first, as long as what is left still fails. `failing` tries all
    candidates of a round at once."""
    size = len(events) // 2
    while size:
        smaller = [events[:i] + events[i + size :] for i in range(0, len(events), size)]
        found = failing([candidate for candidate in smaller if candidate])
        events, size = (found, min(size, len(found) // 2)) if found else (events, size // 2)
    return events


def report(case: tuple[History, Outcome, Outcome]) -> str:
    """The history and both results, each event and click on a line of its own."""
    events, found, expected = case
    told = [
        str({name: str(value) for name, value in vars(event).items() if value is not None})
        for event in events
    ]
    sides = [
        [f"{name}:", f"  duplicates {side.duplicates}", *_lines(side)]
        for name, side in (("Spark", found), ("reference", expected))
    ]
    return "\n".join(["the smallest history of which they differ:", *told, *sides[0], *sides[1]])


def _lines(outcome: Outcome) -> list[str]:
    judged = sorted(
        (str(row[2]), str(row[1]), f"stay {row[-2]}, dropped {row[-1]}")
        for row in outcome.judged.elements()
    )
    return [f"  {' '.join(row)}" for row in judged] + [
        f"  click {' '.join(map(str, row))}" for row in outcome.clicks
    ]


@pytest.mark.parametrize("name", RULES)
def test_spark_and_the_reference_agree_on_every_history(spark: SparkSession, name: str) -> None:
    rules = RULES[name]
    cases = differing(spark, [*logs.on_boundaries(), *logs.drawn(2000)[:400]], rules)
    if cases:
        smallest = shrunk(
            cases[0][0],
            lambda candidates: next(
                (case[0] for case in differing(spark, candidates, rules)), None
            ),
        )
        pytest.fail(report(differing(spark, [smallest], rules)[0]))


def test_neither_order_nor_partitions_of_the_input_change_what_becomes_of_a_click(
    spark: SparkSession,
) -> None:
    rules = RULES["every column, given stays"]
    log = logs.with_columns(
        logs.users([*logs.on_boundaries(), *logs.drawn(2000)[:400]]), rules.columns
    )
    found = run_rules(spark, log, rules)[0]
    again = random.Random(1).sample(log, len(log))
    with shuffle_partitions(spark, 5):
        assert run_rules(spark, again, rules, partitions=7)[0] == found


@contextmanager
def shuffle_partitions(spark: SparkSession, number: int) -> Iterator[None]:
    """Spark with another number of partitions."""
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", str(number))
    try:
        yield
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", str(before))


WEIGHTS = [
    (1, 1),
    (3, 1),
    (1, 1, 1),
    (50, 1),
    (7, 5, 3, 2),
    (1, 2, 3, 4, 5, 6),
    (97, 2, 1),
    (1000,),
]
OCCURRENCES = 2000
# Sixteen tests at a level of 1e-6 each: one true generator in 60,000 would be refused.
LEVEL = 1e-6


def test_values_are_drawn_by_weight_the_same_for_the_same_seed_and_apart_for_each_view(
    spark: SparkSession,
) -> None:
    items = {
        f"item {i}": {f"value {j}": weight for j, weight in enumerate(weights)}
        for i, weights in enumerate(WEIGHTS)
    }
    drawn = {seed: draw_values(spark, items, seed) for seed in (1, 2)}
    for item, weights in items.items():
        for view in ("tag", "genre"):
            counts = Counter(row[view] for row in drawn[1][item])
            assert set(counts) <= set(weights)
            if len(weights) == 1:
                continue
            expected = [OCCURRENCES * weight / sum(weights.values()) for weight in weights.values()]
            assert chisquare([counts[value] for value in weights], expected).pvalue > LEVEL, (
                item,
                view,
                counts,
            )
        assert {row["first"] for row in drawn[1][item]} == {heaviest_first(weights)[0][0]}
    even = drawn[1]["item 0"]
    # Two fair coins thrown 2000 times agree 1000 times, give or take 22.
    assert abs(sum(row["tag"] == row["genre"] for row in even) - OCCURRENCES / 2) < 5 * 22
    assert (
        abs(
            sum(
                one["tag"] == other["tag"]
                for one, other in zip(even, drawn[2]["item 0"], strict=True)
            )
            - OCCURRENCES / 2
        )
        < 5 * 22
    )
    assert drawn[1] == draw_values(spark, items, seed=1, partitions=5)


def heaviest_first(weights: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))


def draw_values(
    spark: SparkSession, items: dict[str, dict[str, int]], seed: int, partitions: int = 2
) -> dict[str, list[dict[str, str]]]:
    """The values that the occurrences of each item take in two views that draw and one that does
    not, in the order of occurrences."""
    table = [(item, heaviest_first(weights)) for item, weights in items.items()]
    values = spark.createDataFrame(
        table, "item_id string, values array<struct<value string, weight long>>"
    )
    number = F.col("id")
    clicks = spark.range(0, OCCURRENCES, 1, partitions).select(
        (number / 10).cast("int").cast("string").alias("user_id"),
        (number % 10).cast("int").alias("session_position"),
        *(F.lit(datetime(2024, 3, 1)).alias("session_start"), F.lit(0).alias("session_piece")),
    )
    clicks = clicks.crossJoin(values.select("item_id")).repartition(partitions)
    settings = {
        name: View(attribute="x", several="first" if name == "first" else "draw")
        for name in ("tag", "genre", "first")
    }
    for name, view in settings.items():
        clicks = views.with_node(clicks, values, name, view, seed)
    rows = clicks.collect()
    found: dict[str, list[dict[str, str]]] = {item: [] for item in items}
    for row in sorted(rows, key=lambda row: (int(row["user_id"]), row["session_position"])):
        found[row["item_id"]].append({name: row[f"node_{name}"] for name in settings})
    return found


# The reference itself: what must hold of it for every history.

Property = Callable[[History, Rules], None]


def hold(holds: Property) -> None:
    """Tries thousands of histories, each under one of the sets of rules; fails with the smallest
    one found of which it does not hold."""
    for i, events in enumerate([*logs.on_boundaries(), *logs.drawn(2000)]):
        rules = list(RULES.values())[i % len(RULES)]
        if breaks(holds, events, rules):
            holds(shrunk(events, partial(first_breaking, holds, rules)), rules)


def breaks(holds: Property, events: History, rules: Rules) -> bool:
    try:
        holds(events, rules)
    except AssertionError:
        return True
    return False


def first_breaking(holds: Property, rules: Rules, candidates: list[History]) -> History | None:
    return next((events for events in candidates if breaks(holds, events, rules)), None)


def referred(events: History, rules: Rules) -> tuple[list[reference.Verdict], list[Session]]:
    """What the reference makes of one user's log."""
    (distinct,) = reference.by_user(logs.with_columns(events, rules.columns), by_checksum).values()
    verdicts = reference.judge(distinct, rules.clean, rules.event_types)
    return verdicts, reference.sessions(reference.clicks(verdicts), rules.sessions, rules.columns)


def by_checksum(event: Event) -> int:
    return zlib.crc32(f"{event.timestamp} {event.item_id}".encode())


def test_no_click_is_lost_or_doubled_and_all_stay_in_order() -> None:
    def holds(events: History, rules: Rules) -> None:
        verdicts, sessions = referred(events, rules)
        judged = [verdict.event for verdict in verdicts]
        assert set(judged) == set(logs.with_columns(events, rules.columns))
        assert len(set(judged)) == len(judged)
        assert judged == sorted(judged, key=lambda event: event.timestamp)
        assert [click for session in sessions for click in session.clicks] == reference.clicks(
            verdicts
        )
        assert all(session.clicks for session in sessions)

    hold(holds)


def test_a_click_is_dropped_for_the_first_reason_that_holds() -> None:
    def holds(events: History, rules: Rules) -> None:
        def counts(event: Event) -> bool:
            return not rules.event_types or event.event_type in rules.event_types

        log = logs.with_columns(events, rules.columns)
        for verdict in referred(events, rules)[0]:
            event, stay, minimum, most = (
                verdict.event,
                verdict.stay_seconds,
                rules.clean.minimum_value,
                rules.clean.maximum_clicks_per_day,
            )
            of_day = [other.timestamp.date() for other in set(log) if counts(other)].count(
                event.timestamp.date()
            )
            reasons = {
                "event type": not counts(event),
                "too many clicks a day": most is not None and of_day > most,
                "value below minimum": minimum is not None and event.value in (2.5, 2.999),
                "stay below minimum": stay is not None and stay < rules.clean.minimum_stay_seconds,
            }
            assert verdict.dropped == next(
                (reason for reason, known in reasons.items() if known), None
            )

    hold(holds)


def test_a_derived_stay_ends_at_another_item_or_at_the_close() -> None:
    def holds(events: History, rules: Rules) -> None:
        verdicts = referred(events, replace(rules, clean=Clean(stay="derived")))[0]
        for i, verdict in enumerate(verdicts):
            event, stay = verdict.event, verdict.stay_seconds
            others = [
                later.event.timestamp
                for later in verdicts[i + 1 :]
                if later.event.item_id != event.item_id
            ]
            close = (
                event.app_close
                if event.app_close is not None and event.app_close >= event.timestamp
                else None
            )
            if stay is None:
                assert event.timestamp in (close, *others[:1]) or not (others or close)
            else:
                end = event.timestamp + timedelta(seconds=stay)
                assert event.timestamp < end
                assert end == min(others if close is None else [close, *others])

    hold(holds)


def test_sessions_end_where_there_is_a_reason_and_only_there() -> None:
    def holds(events: History, rules: Rules) -> None:
        verdicts, sessions = referred(events, rules)
        clicks, idle = (
            reference.clicks(verdicts),
            timedelta(seconds=rules.sessions.idle_gap_seconds),
        )
        whole = reference.whole_sessions(clicks, rules.sessions, rules.columns)
        firsts = {session.clicks[0] for session in whole}
        for before, after in pairwise(clicks):
            idles = after.timestamp - before.timestamp >= idle
            assert (after in firsts) == (idles or are_apart(before, after, clicks, rules))
        assert sessions == whole or rules.sessions.maximum_length is not None

    hold(holds)


def are_apart(before: Event, after: Event, clicks: list[Event], rules: Rules) -> bool:
    """Whether an app session opens between two clicks when all that opened before it have been
    closed for as long as the merge gap."""
    if not rules.columns & set(reference.APP_NAMES):
        return False
    spans = {
        reference.span([click for click in clicks if reference.app_of(click) == app])
        for app in map(reference.app_of, clicks)
    }
    merge = timedelta(seconds=rules.sessions.merge_gap_seconds)
    opens = {opened for opened, _ in spans if before.timestamp < opened <= after.timestamp}
    return any(
        all(opened >= moment or closed + merge <= moment for opened, closed in spans)
        for moment in opens
    )


def test_midnight_is_no_boundary() -> None:
    def holds(events: History, rules: Rules) -> None:
        verdicts, sessions = referred(events, rules)
        clicks = [
            moved(click, timedelta(hours=7, microseconds=1)) for click in reference.clicks(verdicts)
        ]
        lengths = [
            len(session.clicks)
            for session in reference.sessions(clicks, rules.sessions, rules.columns)
        ]
        assert lengths == [len(session.clicks) for session in sessions]

    hold(holds)


def moved(event: Event, by: timedelta) -> Event:
    """The same event at another time."""
    opened, closed = (moment and moment + by for moment in (event.app_open, event.app_close))
    return replace(event, timestamp=event.timestamp + by, app_open=opened, app_close=closed)


def test_nothing_that_is_tested_comes_before_what_is_trained_on() -> None:
    def holds(events: History, rules: Rules) -> None:
        sessions = referred(events, rules)[1]
        parts = reference.parts(sessions, rules.split)
        flat = [part for found in parts for part in found]
        assert [len(found) for found in parts] == [len(session.clicks) for session in sessions]
        assert "test" not in flat or "train" not in flat[flat.index("test") :]
        if rules.split.kind == "time":
            # What begins in the test part belongs to it as a whole; all that is clicked before the
            # cut is training.
            assert all(
                (found[0] == "test") == (CUT <= s.start < end_of_test(rules.split))
                for s, found in zip(sessions, parts, strict=True)
            )
            assert all(set(found) == {"test"} for found in parts if "test" in found)
            clicks = [click for session in sessions for click in session.clicks]
            assert [part == "train" for part in flat] == [click.timestamp < CUT for click in clicks]

    hold(holds)


def end_of_test(split: Split) -> datetime:
    return datetime.max if split.hours is None else END


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 1000), st.integers(2, 60))
def test_no_piece_of_a_halved_session_is_too_long_or_shorter_than_half(
    length: int, longest: int
) -> None:
    clicks = [Event("u", str(i), logs.BEGIN) for i in range(length)]
    pieces = reference.halved(Session(clicks), longest)
    lengths = [len(piece.clicks) for piece in pieces]
    assert [click for piece in pieces for click in piece.clicks] == clicks
    assert max(lengths) <= longest
    assert len(lengths) == 1 or min(lengths) >= (longest + 1) // 2
    assert len(lengths) != 2 or lengths == [length - length // 2, length // 2]


def test_a_failing_history_is_cut_down_to_what_fails() -> None:
    events = logs.history(
        logs.BEGIN,
        [Step(0, clicks=9), Step(3600, "b"), Step(5, "c"), Step(60, "d", clicks=5), Step(9, "e")],
    )
    failing = {events[9], events[13]}
    assert shrunk(
        events, lambda candidates: next((c for c in candidates if failing <= set(c)), None)
    ) == [events[9], events[13]]
    assert shrunk(events, lambda _: None) == events
