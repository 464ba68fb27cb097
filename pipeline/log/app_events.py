"""Logs that tell of the app's opening and closing by rows of their own: those rows -> app_open and
app_close of the clicks between."""

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Source


def is_app_event(event_type: Column, source: Source) -> Column:
    """Whether a row says that the app was opened or closed; never null."""
    return F.coalesce(event_type.isin(*source.open_types, *source.close_types), F.lit(False))


def with_app_times(events: DataFrame, source: Source) -> DataFrame:
    """The events that are not of the app, with `app_open` and `app_close`; unchanged where the
    source tells of no app events.

    app_open: the user's latest open at or before the event, unless the app was closed since;
    app_close: the next close at or after it, unless the app is opened before. Both within the
    event's app session, where the log has such ids. At one moment an open comes before clicks and a
    close after them.
    """
    if not (source.open_types or source.close_types):
        return events
    event_type = F.col("event_type")
    opens = event_type.isin(*source.open_types)
    closes = event_type.isin(*source.close_types)
    rank_at_one_time = F.when(opens, 0).when(closes, 2).otherwise(1)
    has_ids = "app_session_id" in events.columns
    session = Window.partitionBy("user_id", *(["app_session_id"] if has_ids else []))
    forwards = session.orderBy(F.col("timestamp"), rank_at_one_time)
    backwards = session.orderBy(F.desc("timestamp"), rank_at_one_time.desc())
    app_open = _nearest(forwards, source, opens)
    app_close = _nearest(backwards, source, closes)
    timed = events.withColumns({"app_open": app_open, "app_close": app_close})
    return timed.where(~is_app_event(event_type, source))


def _nearest(order: WindowSpec, source: Source, is_of_kind: Column) -> Column:
    """The time of the nearest app event in an order, where it is of the kind."""
    of_kind = F.coalesce(is_of_kind, F.lit(False))
    event = F.struct("timestamp", of_kind.alias("of_kind"))
    app_event = F.when(is_app_event(F.col("event_type"), source), event)
    so_far = order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    nearest = F.last(app_event, ignorenulls=True).over(so_far)
    return F.when(nearest["of_kind"], nearest["timestamp"])
