"""The click filter (paper section 3.1, "Data Clean"): exact duplicates, event types, ratings, and
stays under two seconds."""

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Clean

DROPPED = "dropped"
REASONS = (
    "duplicate",
    "event type",
    "too many clicks a day",
    "value below minimum",
    "stay below minimum",
)
"""Why an event is no click, in the order in which they are asked."""
SECOND = 1_000_000
"""Microseconds."""


TIE = "tie"
ORDER = ("timestamp", TIE, "item_id")
"""Order of one user's clicks: by time, equal times by a hash of (user, time, item, seed), never by
position in the input or by id. The item stands last for the case that two hashes are equal."""


def with_tie(frame: DataFrame, seed: int) -> DataFrame:
    """Adds `tie`, by which `ORDER` tells clicks of one time apart. All windows over a user's clicks
    name this one column, so that Spark sorts them once."""
    return frame.withColumn(TIE, F.xxhash64("user_id", "timestamp", "item_id", F.lit(seed)))


def judge_events(
    events: DataFrame, clean: Clean, event_types: tuple[str, ...], seed: int
) -> DataFrame:
    """The click filter (paper section 3.1): events with their stay in seconds (null: unknown) and
    `dropped`, the reason why they are no clicks, else null.

    >>> events = clicks_at("10:00:00 a", "10:00:01.999 b", "10:00:03.999 c", "10:00:05 c")
    >>> judged = judge_events(events, Clean(stay="derived"), (), seed=1)
    >>> shown(judged, "timestamp", "item_id", "stay_seconds", "dropped")
    timestamp    item_id stay_seconds dropped
    10:00:00     a       1.999        stay below minimum
    10:00:01.999 b       2.0          -
    10:00:03.999 c       -            -
    10:00:05     c       -            -
    """
    columns = [name for name in events.columns if name not in ("user_id", "date")]
    others = [name for name in columns if name not in ORDER]
    # The date follows from the time; named, it lets Spark count a user's days in the rows as they
    # are sorted.
    date = ["date"] if clean.maximum_clicks_per_day else []
    # It ends with all columns, so that rows equal in every one stand side by side.
    order = [*date, *ORDER, *others]
    by_time = Window.partitionBy("user_id").orderBy(*order)
    # The user is the same within the window, and the date follows from the time.
    row = F.struct(*columns)
    duplicate = row.eqNullSafe(F.lag(row).over(by_time))
    marks = {"duplicate": duplicate, **starts_run(clean, by_time)}
    marked = with_tie(events, seed).withColumns(marks)
    counted = with_crowded(marked, clean.maximum_clicks_per_day, event_types)
    stays = with_stay(counted, clean, ", ".join(f"`{name}`" for name in order))
    reason = _first_reason(clean, event_types)
    return stays.withColumn(DROPPED, reason).drop("duplicate", "crowded")


def _first_reason(clean: Clean, event_types: tuple[str, ...]) -> Column:
    """The first of REASONS that holds of an event; null where none does."""
    low_value = low_stay = F.lit(False)
    if clean.minimum_value is not None:
        low_value = F.col("value") < clean.minimum_value
    if clean.stay != "absent":
        low_stay = F.col("stay_seconds") < clean.minimum_stay_seconds
    other_type = ~_counts(event_types)
    tests = (F.col("duplicate"), other_type, F.col("crowded"), low_value, low_stay)
    # An unknown value or stay fails no test: coalesce.
    failed = (F.coalesce(test, F.lit(False)) for test in tests)
    return F.coalesce(*(F.when(fails, why) for fails, why in zip(failed, REASONS, strict=True)))


def _counts(event_types: tuple[str, ...]) -> Column:
    """Whether an event is of a type that counts as a click."""
    if not event_types:
        return F.lit(True)
    return F.coalesce(F.col("event_type").isin(*event_types), F.lit(False))


def with_crowded(events: DataFrame, most: int | None, event_types: tuple[str, ...]) -> DataFrame:
    """Adds `crowded`: whether the user has more than `most` events of the given types on the
    event's date, those marked as a `duplicate` left out; null where there is no limit."""
    if most is None:
        return events.withColumn("crowded", F.lit(None).cast("boolean"))
    user_day = Window.partitionBy("user_id", "date")
    is_counted = _counts(event_types) & ~F.col("duplicate")
    counted = F.count(F.when(is_counted, True)).over(user_day)
    return events.withColumn("crowded", counted > most)


def starts_run(clean: Clean, by_time: WindowSpec) -> dict[str, Column]:
    """`starts_run`, where stays are derived: whether the event's item differs from that of the
    user's event before (not at the first)."""
    if clean.stay != "derived":
        return {}
    differs = F.col("item_id") != F.lag("item_id").over(by_time)
    return {"starts_run": F.coalesce(differs, F.lit(False))}


def with_stay(events: DataFrame, clean: Clean, order: str) -> DataFrame:
    """Sets `stay_seconds`: given by the log, derived, or unknown. `order`: of a user's events, as
    SQL."""
    if clean.stay == "given":
        return events
    if clean.stay == "absent":
        return events.withColumn("stay_seconds", F.lit(None).cast("double"))
    return derive_stay(events, order)


def derive_stay(events: DataFrame, order: str) -> DataFrame:
    """stay_seconds = time to the user's next event on a different item, or to the app's close where
    that comes first.

    Events of every type count, before they are selected by type. Equal timestamps and a user's last
    event give an unknown stay.
    """
    # Events on one item in a row form a run; the next event on a different item is the next one
    # that starts a run.
    start = "CASE WHEN starts_run THEN timestamp END"
    later = f"PARTITION BY user_id ORDER BY {order}"
    until = F.expr(f"lead({start}) IGNORE NULLS OVER ({later})")
    if "app_close" in events.columns:
        close = F.col("app_close")
        close_after = F.when(close >= F.col("timestamp"), close)
        until = F.least(until, close_after)
    # In a step of its own: Spark computes a window function as often as an expression names it.
    with_until = events.withColumn("until", until)
    stay = (F.unix_micros("until") - F.unix_micros("timestamp")) / SECOND
    known_stay = F.when(stay > 0, stay)
    return with_until.withColumn("stay_seconds", known_stay).drop("starts_run", "until")


def clicks(judged: DataFrame) -> DataFrame:
    """The events that are clicks, with the columns that later steps read."""
    # TIE stays: sessions are split in the same order.
    unused = {DROPPED, "event_type", "value"}
    first = ["user_id", "item_id", "timestamp", "stay_seconds", "date"]
    others = [name for name in judged.columns if name not in {*first, *unused}]
    return judged.where(F.col(DROPPED).isNull()).select(*first, *others)
