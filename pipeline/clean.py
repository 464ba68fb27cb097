"""The click filter (paper section 3.1, "Data Clean"): exact duplicates, event types, ratings, and stays under two seconds."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Clean

DROPPED = "dropped"
REASONS = ("duplicate", "event type", "value below minimum", "stay below minimum")
"""Why an event is no click, in the order in which they are asked."""
SECOND = 1_000_000
"""Microseconds."""


def click_order(seed: int) -> list[Column]:
    """Order of one user's clicks: by time, equal times by a hash of (user, time, item, seed), never by position in the input or by id.

    The item stands last for the case that two hashes are equal.
    """
    return [F.col("timestamp"), F.xxhash64("user_id", "timestamp", "item_id", F.lit(seed)), F.col("item_id")]


def judge(events: DataFrame, clean: Clean, event_types: tuple[str, ...], seed: int) -> DataFrame:
    """Events with their stay in seconds (null: unknown) and `dropped`: the reason why they are no clicks, else null."""
    columns = list(events.columns)
    by_user = Window.partitionBy("user_id").orderBy(*click_order(seed), *(name for name in columns if name not in ("user_id", "item_id")))
    everything = F.struct(*columns)
    marked = events.withColumn("duplicate", everything.eqNullSafe(F.lag(everything).over(by_user)))
    stays = with_stay(marked, clean, seed)
    tests = {
        "duplicate": F.col("duplicate"),
        "event type": ~F.coalesce(F.col("event_type").isin(*event_types), F.lit(False)) if event_types else F.lit(False),
        "value below minimum": F.lit(False) if clean.minimum_value is None else F.col("value") < clean.minimum_value,
        "stay below minimum": F.lit(False) if clean.stay == "absent" else F.col("stay_seconds") < clean.minimum_stay_seconds,
    }
    # An unknown value or stay fails no test: coalesce.
    reason = F.coalesce(*(F.when(F.coalesce(test, F.lit(False)), name) for name, test in tests.items()))
    return stays.withColumn(DROPPED, reason).drop("duplicate")


def with_stay(events: DataFrame, clean: Clean, seed: int) -> DataFrame:
    """Sets `stay_seconds`: given by the log, derived, or unknown."""
    if clean.stay == "given":
        return events
    if clean.stay == "absent":
        return events.withColumn("stay_seconds", F.lit(None).cast("double"))
    return derive_stay(events, seed)


def derive_stay(events: DataFrame, seed: int) -> DataFrame:
    """stay_seconds = time to the user's next event on a different item, or to the app's close where that comes first.

    Events of every type count, before they are selected by type. Equal timestamps and a user's last event give an unknown stay.
    """
    by_time = Window.partitionBy("user_id").orderBy(*click_order(seed))
    # Events on one item in a row form a run; the next event on a different item is the start of the next run.
    starts_run = F.coalesce(F.col("item_id") != F.lag("item_id").over(by_time), F.lit(False)).cast("int")
    so_far = by_time.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    runs = events.withColumn("starts_run", starts_run).withColumn("run", F.sum("starts_run").over(so_far))
    until = F.min("timestamp").over(Window.partitionBy("user_id").orderBy("run").rangeBetween(1, 1))
    if "app_close" in events.columns:
        until = F.least(until, F.when(F.col("app_close") >= F.col("timestamp"), F.col("app_close")))
    stay = (F.unix_micros(until) - F.unix_micros("timestamp")) / SECOND
    return runs.withColumn("stay_seconds", F.when(stay > 0, stay)).drop("starts_run", "run")


def clicks(judged: DataFrame) -> DataFrame:
    """The events that are clicks, with the columns that later steps read."""
    unused = {DROPPED, "event_type", "value"}
    first = ["user_id", "item_id", "timestamp", "stay_seconds", "date"]
    others = [name for name in judged.columns if name not in {*first, *unused}]
    return judged.where(F.col(DROPPED).isNull()).select(*first, *others)
