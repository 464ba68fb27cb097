"""Session split and merge (paper section 3.1 and appendix A.1).

1. Clicks of one app session lie between its open and close. App sessions of a user that overlap, or
   of which the next opens less than 30 minutes after all before it have closed, are merged; chains
   merge.
2. A gap of an hour or more between consecutive clicks splits, whatever was merged: a merge never
   undoes an idle split.
3. Sessions that are too long are halved until none is (MovieLens).

A log without app sessions is split by idle gaps alone.
"""

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.clean import ORDER, SECOND, TIE, with_tie
from pipeline.config import Sessions

APP_COLUMNS = ("app_session_id", "app_open", "app_close")
SESSION = ("user_id", "session_start", "session_piece")
"""What tells one session from another: its user, its first click's time, and its place among the
pieces of a halved session. In this order they are also a user's sessions in time."""


def with_sessions(clicks: DataFrame, sessions: Sessions, seed: int) -> DataFrame:
    """Adds to each click the columns of `SESSION` and `session_position`, its place in the session
    from 0; drops the app's columns.

    >>> clicks = clicks_at("10:00 a", "10:59 b", "11:59 c", "12:00 d")
    >>> shown(with_sessions(clicks, Sessions(idle_gap_seconds=3600), seed=1),
    ...       "timestamp", "item_id", "session_start", "session_position")
    timestamp item_id session_start session_position
    10:00:00  a       10:00:00      0
    10:59:00  b       10:00:00      1
    11:59:00  c       11:59:00      0
    12:00:00  d       11:59:00      1
    """
    tied = clicks if TIE in clicks.columns else with_tie(clicks, seed)
    by_time = Window.partitionBy("user_id").orderBy(*ORDER)
    grouped = merge_app_sessions(with_app(tied), sessions.merge_gap_seconds)
    before = F.lag("timestamp").over(by_time)
    gap = F.unix_micros("timestamp") - F.unix_micros(before)
    is_idle = gap >= micros(sessions.idle_gap_seconds)
    other_app = F.col("app_group") != F.lag("app_group").over(by_time)
    # A user's first click has none before it: null, which starts a session too.
    starts = F.coalesce(is_idle | other_app, F.lit(True))
    position = F.row_number().over(by_time) - 1
    marked = grouped.withColumns({"starts": starts, "position": position})
    # Halving sorts the rows otherwise; clicks that are equal in ORDER must then come in the order
    # in which they were numbered.
    by_position = by_time
    if sessions.maximum_length is not None:
        by_position = Window.partitionBy("user_id").orderBy("position")
    halved = halve(marked, sessions.maximum_length, by_time)
    begun = halved.withColumn("begin", _at_start(by_position))
    begin = F.col("begin")
    keyed = begun.withColumns(
        {"session_start": begin["timestamp"], "session_piece": begin["piece"]}
    )
    session_position = F.col("position") - begin["position"]
    placed = keyed.withColumn("session_position", session_position)
    return placed.drop("app_group", "starts", "position", "piece", "begin", TIE, *APP_COLUMNS)


def _at_start(in_order: WindowSpec) -> Column:
    """timestamp, position and piece of the click that started the session."""
    so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    first_click = F.when(F.col("starts"), F.struct("timestamp", "position", "piece"))
    return F.last(first_click, ignorenulls=True).over(so_far)


def session_id() -> Column:
    """The session's id: a hash of the columns of `SESSION`."""
    return F.md5(F.concat_ws("\0", "user_id", F.unix_micros("session_start"), "session_piece"))


def micros(seconds: float) -> int:
    """Whole microseconds, Spark's unit of time."""
    return round(seconds * SECOND)


def with_app(clicks: DataFrame) -> DataFrame:
    """Adds `app`: which app session a click belongs to, null where the log has none.

    It is known by its id, else by the time it was opened. A click outside every app session stands
    alone.
    """
    keys = [name for name in APP_COLUMNS[:2] if name in clicks.columns]
    if not keys:
        return clicks.withColumn("app", F.lit(None).cast("string"))
    # The column's name stands before its value: an id may be written as a time.
    named = [F.concat(F.lit(f"{key} "), F.col(key).cast("string")) for key in keys]
    alone = F.concat(F.lit("click "), F.unix_micros("timestamp").cast("string"))
    return clicks.withColumn("app", F.coalesce(*named, alone))


def merge_app_sessions(clicks: DataFrame, merge_gap_seconds: float) -> DataFrame:
    """Replaces `app` by `app_group`: the number of the chain of merged app sessions.

    open = the earliest of app_open and the first click, close = the latest of app_close and the
    last click. App sessions less than the merge gap apart are one chain:

    >>> clicks = clicks_at("10:00 a p", "10:29 b q", "10:59 c r", "11:00 d r")
    >>> merged = merge_app_sessions(with_app(clicks), merge_gap_seconds=1800)
    >>> shown(merged, "timestamp", "app_session_id", "app_group")
    timestamp app_session_id app_group
    10:00:00  p              0
    10:29:00  q              0
    10:59:00  r              1
    11:00:00  r              1
    """
    if not set(APP_COLUMNS) & set(clicks.columns):
        return clicks.withColumn("app_group", F.lit(0)).drop("app")
    session = Window.partitionBy("user_id", "app")
    opened, closed = F.min("timestamp").over(session), F.max("timestamp").over(session)
    if "app_open" in clicks.columns:
        opened = F.least(opened, F.min("app_open").over(session))
    if "app_close" in clicks.columns:
        closed = F.greatest(closed, F.max("app_close").over(session))
    by_open = Window.partitionBy("user_id").orderBy("opened", "app")
    before = by_open.rowsBetween(Window.unboundedPreceding, -1)
    so_far = by_open.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    # Of all before, not of the one before: a longer app session may enclose it.
    closed_before = F.max("closed").over(before)
    gap = F.unix_micros("opened") - F.unix_micros(closed_before)
    apart = F.coalesce(gap >= micros(merge_gap_seconds), F.lit(False))
    timed = clicks.withColumns({"opened": opened, "closed": closed})
    marked = timed.withColumn("apart", apart.cast("int"))
    grouped = marked.withColumn("app_group", F.sum("apart").over(so_far))
    return grouped.drop("app", "opened", "closed", "apart")


def halve(clicks: DataFrame, longest: int | None, by_time: WindowSpec) -> DataFrame:
    """Adds `piece`, the place in its session where the click's piece begins; its first click
    `starts` too.

    Sessions over `longest` are cut into two halves, the first one longer by one click where they
    differ, and again while over it. Reads `starts` and `position` in the user's history.

    >>> clicks = clicks_every_minute(51)
    >>> halved = with_sessions(clicks, Sessions(maximum_length=50), seed=1)
    >>> shown(halved.groupBy("session_piece").count())
    session_piece count
    0             26
    26            25
    """
    if longest is None:
        return clicks.withColumn("piece", F.lit(0))
    so_far = by_time.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    start = F.when(F.col("starts"), F.col("position"))
    first = F.last(start, ignorenulls=True).over(so_far)
    number = F.col("position") - F.col("first")
    length = F.count("*").over(Window.partitionBy("user_id", "first"))
    begun = clicks.withColumn("first", first)
    sized = begun.withColumns({"number": number, "length": length})
    cut = sized.withColumn("piece", _first_of_half("number", "length", longest))
    starts = F.col("number") == F.col("piece")
    return cut.withColumn("starts", starts).drop("first", "number", "length")


def _first_of_half(number: str, length: str, longest: int) -> Column:
    """Halves (first, length) around `number` until they are short enough: as often as the length
    has binary digits, at most."""

    def piece(first: Column, clicks: Column) -> Column:
        return F.struct(first.alias("first"), clicks.alias("length"))

    def cut(half: Column, _: Column) -> Column:
        front = F.ceil(half["length"] / 2).cast("int")
        middle = half["first"] + front
        first_half = piece(half["first"], front)
        second_half = piece(middle, half["length"] - front)
        own_half = F.when(F.col(number) < middle, first_half).otherwise(second_half)
        return F.when(half["length"] > longest, own_half).otherwise(half)

    whole = piece(F.lit(0), F.col(length).cast("int"))
    binary_digits = F.ceil(F.log2(F.col(length))).cast("int")
    times = F.sequence(F.lit(0), binary_digits)
    return F.aggregate(times, whole, cut, lambda half: half["first"])
