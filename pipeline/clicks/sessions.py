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
    from 0; drops the app's columns."""
    tied = clicks if TIE in clicks.columns else with_tie(clicks, seed)
    by_time = Window.partitionBy("user_id").orderBy(*ORDER)
    grouped = merge_app_sessions(with_app(tied), sessions.merge_gap_seconds)
    gap = F.unix_micros("timestamp") - F.unix_micros(F.lag("timestamp").over(by_time))
    starts = (gap >= micros(sessions.idle_gap_seconds)) | (
        F.col("app_group") != F.lag("app_group").over(by_time)
    )
    marked = grouped.withColumns(
        {"starts": F.coalesce(starts, F.lit(True)), "position": F.row_number().over(by_time) - 1}
    )
    # Halving sorts the rows otherwise; clicks that are equal in ORDER must then come in the order
    # in which they were numbered.
    by_position = (
        by_time
        if sessions.maximum_length is None
        else Window.partitionBy("user_id").orderBy("position")
    )
    return (
        halve(marked, sessions.maximum_length, by_time)
        .withColumn("begin", _at_start(by_position))
        .withColumns(
            {"session_start": F.col("begin")["timestamp"], "session_piece": F.col("begin")["piece"]}
        )
        .withColumn("session_position", F.col("position") - F.col("begin")["position"])
        .drop("app_group", "starts", "position", "piece", "begin", TIE, *APP_COLUMNS)
    )


def _at_start(in_order: WindowSpec) -> Column:
    """timestamp, position and piece of the click that started the session."""
    so_far = in_order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    return F.last(
        F.when(F.col("starts"), F.struct("timestamp", "position", "piece")), ignorenulls=True
    ).over(so_far)


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
    known = [name for name in APP_COLUMNS[:2] if name in clicks.columns]
    if not known:
        return clicks.withColumn("app", F.lit(None).cast("string"))
    alone = F.concat(F.lit("click "), F.unix_micros("timestamp").cast("string"))
    return clicks.withColumn(
        "app",
        F.coalesce(
            *(F.concat(F.lit(f"{name} "), F.col(name).cast("string")) for name in known), alone
        ),
    )


def merge_app_sessions(clicks: DataFrame, merge_gap_seconds: float) -> DataFrame:
    """Replaces `app` by `app_group`: the number of the chain of merged app sessions.

    open = the earliest of app_open and the first click, close = the latest of app_close and the
    last click.
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
    apart = F.unix_micros("opened") - F.unix_micros(F.max("closed").over(before)) >= micros(
        merge_gap_seconds
    )
    return (
        clicks.withColumns({"opened": opened, "closed": closed})
        .withColumn("apart", F.coalesce(apart, F.lit(False)).cast("int"))
        .withColumn(
            "app_group",
            F.sum("apart").over(by_open.rowsBetween(Window.unboundedPreceding, Window.currentRow)),
        )
        .drop("app", "opened", "closed", "apart")
    )


def halve(clicks: DataFrame, longest: int | None, by_time: WindowSpec) -> DataFrame:
    """Adds `piece`, the place in its session where the click's piece begins, after sessions over
    `longest` were cut into two halves, the first one longer by one click where they differ (51 ->
    26 + 25), again while over it. The first click of a piece `starts` too.

    Reads `starts` and `position` in the user's history.
    """
    if longest is None:
        return clicks.withColumn("piece", F.lit(0))
    so_far = by_time.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    first = F.last(F.when(F.col("starts"), F.col("position")), ignorenulls=True).over(so_far)
    sized = clicks.withColumn("first", first).withColumns(
        {
            "number": F.col("position") - F.col("first"),
            "length": F.count("*").over(Window.partitionBy("user_id", "first")),
        }
    )
    cut = sized.withColumn("piece", _first_of_half("number", "length", longest))
    return cut.withColumn("starts", F.col("number") == F.col("piece")).drop(
        "first", "number", "length"
    )


def _first_of_half(number: str, length: str, longest: int) -> Column:
    """Halves (first, length) around `number` until they are short enough: as often as the length
    has binary digits, at most."""
    begin = F.struct(F.lit(0).alias("first"), F.col(length).cast("int").alias("length"))

    def cut(half: Column, _: Column) -> Column:
        front = F.ceil(half["length"] / 2).cast("int")
        middle = half["first"] + front
        halves = F.when(
            F.col(number) < middle, F.struct(half["first"].alias("first"), front.alias("length"))
        ).otherwise(F.struct(middle.alias("first"), (half["length"] - front).alias("length")))
        return F.when(half["length"] > longest, halves).otherwise(half)

    times = F.sequence(F.lit(0), F.ceil(F.log2(F.col(length))).cast("int"))
    return F.aggregate(times, begin, cut, lambda half: half["first"])
