"""Node sequences and their skip-gram pairs, in the two encodings of pipeline/contracts/shards.py.

A row's key and the seed decide where it lies: file = hash mod files, sorted by hash within. So the
i-th file of the same input is the same, whatever the number of cores and partitions.
"""

from collections.abc import Iterable, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION, session_id
from pipeline.clicks.split import TEST, TRAIN, UNUSED
from pipeline.config import ITEM_VIEW
from pipeline.graphs.vocabulary import row

HASH = "hash"
POSITION = "session_position"


def nodes(view: str) -> str:
    """Name of the column with the rows of a session's nodes in a view."""
    return f"nodes_{view}"


def before(view: str) -> str:
    """Name of the column with the row of the user's last node in a view before a session; null
    where there is none."""
    return f"before_{view}"


def sessions(occurrences: DataFrame, views: Iterable[str]) -> DataFrame:
    """One row a session: the columns of `SESSION`, end, `last_before` (time of the user's click
    before it; null: none), item_ids and times in click order; clicks of each part of the split; and
    for each view `nodes_<view>`: rows of the nodes of the training part in click order, without
    those outside the vocabulary and then without consecutive duplicates, and `before_<view>`.

    Reads the columns of `vocabulary.with_rows`. Sorted first, the groups are put together as they
    come, and so is every list: one for each column, because a list of structs costs half as much
    again. Lists leave out nulls.
    """
    names = list(views)
    ordered = occurrences.repartition("user_id").sortWithinPartitions(*SESSION, POSITION)
    parts = [
        F.count(F.when(F.col("part") == part, True)).cast("int").alias(part)
        for part in (TRAIN, TEST, UNUSED)
    ]
    lists = {"item_ids": "item_id", "times": "timestamp"} | {
        nodes(name): row(name) for name in names
    }
    collected = [F.collect_list(column).alias(name) for name, column in lists.items()]
    moves = ordered.withColumns({row(name): _without_repeats(row(name)) for name in names})
    grouped = moves.groupBy(*SESSION).agg(F.max("timestamp").alias("end"), *parts, *collected)
    earlier = {
        before(name): _last_before(
            f"CASE WHEN size({nodes(name)}) > 0 THEN element_at({nodes(name)}, -1) END"
        )
        for name in names
    }
    return grouped.withColumns(earlier | {"last_before": _last_before("end")})


def _without_repeats(value: str) -> Column:
    """The value of a click, null where it is that of the last click of the session before it that
    has one."""
    session = f"PARTITION BY {', '.join(SESSION)} ORDER BY {POSITION}"
    return F.when(
        ~F.col(value).eqNullSafe(F.expr(f"lag({value}) IGNORE NULLS OVER ({session})")),
        F.col(value),
    )


def _last_before(value: str) -> Column:
    """The latest known value (SQL) in the user's sessions before."""
    return F.expr(
        f"lag({value}) IGNORE NULLS OVER (PARTITION BY user_id ORDER BY session_start, "
        "session_piece)"
    )


def table(sessions: DataFrame) -> DataFrame:
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


def windows(sessions: DataFrame, view: str) -> DataFrame:
    """The columns of `SESSION`, nodes. Sequences of one node have no pairs and are left out."""
    return sessions.select(*SESSION, F.col(nodes(view)).alias("nodes")).where(F.size("nodes") > 1)


def pairs(windows: DataFrame, key: Sequence[str], window: int) -> DataFrame:
    """The key of a sequence, position, centre, contexts: each node of a sequence with the nodes at
    most `window` away, in their order."""
    centres = windows.select(*key, "nodes", F.posexplode("nodes").alias("position", "centre"))
    before = F.slice(
        "nodes",
        F.greatest(F.col("position") - window, F.lit(0)) + 1,
        F.least("position", F.lit(window)),
    )
    after = F.slice("nodes", F.col("position") + 2, window)
    return centres.select(*key, "position", "centre", F.concat(before, after).alias("contexts"))


def link_rows(links: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, centre, contexts: each item's row with the rows of all values linked to it, in
    ascending order."""
    item = items.select(F.col("id").alias("item_id"), F.col("row").alias("centre"))
    value = value_nodes.select(F.col("id").alias("value_id"), F.col("row").alias("context"))
    joined = links.join(item, "item_id", "inner").join(value, "value_id", "inner")
    return joined.groupBy("item_id", "centre").agg(
        F.sort_array(F.collect_list("context")).alias("contexts")
    )


def click_rows(occurrences: DataFrame, link_rows: DataFrame) -> DataFrame:
    """The columns of `SESSION`, session_position, centre, contexts: a row of `link_rows` for each
    training click on its item."""
    clicked = occurrences.where(
        (F.col("part") == TRAIN) & F.col(row(ITEM_VIEW)).isNotNull()
    ).select(*SESSION, POSITION, "item_id")
    return clicked.join(link_rows, "item_id", "inner").select(
        *SESSION, POSITION, "centre", "contexts"
    )


def shuffled(
    rows: DataFrame, key: Iterable[str], columns: list[str], files: int, seed: int
) -> DataFrame:
    """The columns of rows in pseudo-random order; the rows of partition i are those of file i."""
    hashed = rows.withColumn(HASH, F.xxhash64(*key, F.lit(seed)))
    placed = hashed.repartitionById(files, F.pmod(HASH, F.lit(files)).cast("int"))
    # The hash stands first: Spark then compares rows by one number.
    return placed.sortWithinPartitions(HASH, *key).select(*columns)
