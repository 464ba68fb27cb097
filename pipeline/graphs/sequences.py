"""Sessions as node sequences: the nodes that a session visits in each view, in click order."""

from collections.abc import Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION, session_id
from pipeline.contracts.statistics import TEST, TRAIN, UNUSED
from pipeline.graphs.vocabulary import row

POSITION = "session_position"


def nodes(view: str) -> str:
    """Name of the column with the rows of a session's nodes in a view."""
    return f"nodes_{view}"


def before(view: str) -> str:
    """Name of the column with the row of the user's last node in a view before a session; null
    where there is none."""
    return f"before_{view}"


def sessions(occurrences: DataFrame, views: Iterable[str]) -> DataFrame:
    """One row a session (paper section 3.1, "Node sequence sampling"):

    - the columns of `SESSION`, end, item_ids and times in click order;
    - `last_before`: time of the user's click before the session, null where there is none;
    - clicks of each part of the split: train, test, unused;
    - for each view `nodes_<view>`: rows of the nodes of the training part in click order, without
      those outside the vocabulary and then without consecutive duplicates; and `before_<view>`.

    Reads the columns of `vocabulary.with_rows`.

    >>> shown(sessions(visits("10:00 3", "10:01 3", "10:02 7", "12:00 3"), ["item"]),
    ...       "session_start", "nodes_item", "before_item")
    session_start nodes_item before_item
    10:00:00      [3, 7]     -
    12:00:00      [3]        7
    """
    names = list(views)
    # Sorted first, the groups are put together as they come, and so is every list.
    ordered = occurrences.repartition("user_id").sortWithinPartitions(*SESSION, POSITION)
    without_repeats = {row(name): _without_repeats(row(name)) for name in names}
    moves = ordered.withColumns(without_repeats)
    parts = [_clicks_of(part).alias(part) for part in (TRAIN, TEST, UNUSED)]
    columns = {"item_ids": "item_id", "times": "timestamp"}
    columns |= {nodes(name): row(name) for name in names}
    # A list for each column, because one of structs costs half as much again. Lists leave out
    # nulls.
    lists = [F.collect_list(column).alias(name) for name, column in columns.items()]
    grouped = moves.groupBy(*SESSION).agg(F.max("timestamp").alias("end"), *parts, *lists)
    earlier = {before(name): _last_before(_last_node(name)) for name in names}
    return grouped.withColumns(earlier | {"last_before": _last_before("end")})


def _clicks_of(part: str) -> Column:
    return F.count(F.when(F.col("part") == part, True)).cast("int")


def _last_node(view: str) -> str:
    """The last node of a session (SQL); null where it has none, which element_at would refuse."""
    return f"CASE WHEN size({nodes(view)}) > 0 THEN element_at({nodes(view)}, -1) END"


def _without_repeats(value: str) -> Column:
    """The value of a click, null where it is that of the last click of the session before it that
    has one."""
    session = f"PARTITION BY {', '.join(SESSION)} ORDER BY {POSITION}"
    previous = F.expr(f"lag({value}) IGNORE NULLS OVER ({session})")
    repeats = F.col(value).eqNullSafe(previous)
    return F.when(~repeats, F.col(value))


def _last_before(value: str) -> Column:
    """The latest known value (SQL) in the user's sessions before."""
    in_order = "PARTITION BY user_id ORDER BY session_start, session_piece"
    return F.expr(f"lag({value}) IGNORE NULLS OVER ({in_order})")


def session_table(sessions: DataFrame) -> DataFrame:
    """What the lake keeps of sessions: user_id, session_id, start, end, date (of the start),
    item_ids."""
    start = F.col("session_start")
    return sessions.select(
        "user_id",
        session_id().alias("session_id"),
        start.alias("start"),
        "end",
        F.to_date(start).alias("date"),
        "item_ids",
    )
