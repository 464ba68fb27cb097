"""Vocabulary: one durable, append-only map per view from raw id to row number.

A row never changes its meaning and is never reused. Which nodes are *in use* is decided anew by
each run: those have a count above 0. Nodes that an earlier run knew and that are not clicked often
enough now keep their row with count 0; sequences, edges and links pass them over.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import accumulate

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import ITEM_VIEW, View
from pipeline.contracts.statistics import TRAIN
from pipeline.graphs.views import node, taken

MINIMUM_COUNT, TOP = "below minimum_count", "beyond top"
"""What leaves nodes out of a vocabulary."""
Keep = Callable[[DataFrame], DataFrame]
"""Computes a frame once and gives what reads the result."""
_TASK_BITS = 33
"""Of the numbers that `monotonically_increasing_id` gives."""


def row(view: str) -> str:
    """Name of the column with the row number of an occurrence's node in a view; null outside the
    vocabulary."""
    return f"row_{view}"


def count_items(clicked_items: DataFrame) -> DataFrame:
    """id, count (clicks), first_date of the items of `views.items_of_clicks`."""
    return _counted(clicked_items.withColumnRenamed("item_id", "id"))


def count_values(clicked_items: DataFrame, values: DataFrame) -> DataFrame:
    """The same of the nodes of a value view in which every item has one value, or takes the first
    of several."""
    first = values.select("item_id", F.col("values")[0]["value"].alias("id"))
    return _counted(clicked_items.join(first, "item_id", "inner"))


def count_drawn(occurrences: DataFrame, name: str) -> DataFrame:
    """The same of the nodes that clicks took, where items have several values."""
    drawn = F.col(node(name))
    by_node = occurrences.where(drawn.isNotNull()).groupBy(drawn.alias("id"))
    clicks = by_node.agg(F.count("*").alias("clicks"), F.min("date").alias("first_date"))
    return _counted(clicks)


def _counted(rows: DataFrame) -> DataFrame:
    count = F.sum("clicks").alias("count")
    first_date = F.min("first_date").alias("first_date")
    return rows.groupBy("id").agg(count, first_date)


def often_enough(counted: DataFrame, minimum_count: int) -> DataFrame:
    """The nodes that are clicked at least so many times."""
    return counted.where(F.col("count") >= minimum_count)


def limits(
    counted: DataFrame, minimum_count: int, kept: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Limit -> the `nodes` it leaves out and the `clicks` on them; `kept`: those that neither
    does."""
    is_enough, count = F.col("count") >= minimum_count, F.col("count")
    row = counted.agg(
        F.count("*").alias("nodes"),
        F.coalesce(F.sum(count), F.lit(0)).alias("clicks"),
        F.count(F.when(is_enough, True)).alias("enough_nodes"),
        F.coalesce(F.sum(F.when(is_enough, count)), F.lit(0)).alias("enough_clicks"),
    ).first()
    assert row is not None  # an aggregate has a row
    nodes, clicks = row["enough_nodes"], row["enough_clicks"]
    return {
        MINIMUM_COUNT: {"nodes": row["nodes"] - nodes, "clicks": row["clicks"] - clicks},
        TOP: {"nodes": nodes - kept["nodes"], "clicks": clicks - kept["clicks"]},
    }


def rank(counted: DataFrame, top: int | None, keep: Keep) -> DataFrame:
    """id, row, count, first_date: rows number the nodes from the most to the least frequent, equals
    by id; at most `top` of them.

    Each task sorts and numbers a range of them, shifted by how many come in the ranges before: no
    task sees all, nor all of one count, which of the rarest may be half. `keep` holds on to the
    numbers, which are read twice.

    >>> counted = rows("id string, count long, first_date date",
    ...                ("b", 2, None), ("c", 1, None), ("d", 5, None), ("a", 2, None))
    >>> shown(rank(counted, top=3, keep=cached), "row", "id", "count")
    row id count
    0   d  5
    1   a  2
    2   b  2
    """
    most_frequent_first = counted.orderBy(F.desc("count"), "id")
    # The task's number above these bits, that of the row within it below.
    numbered = keep(most_frequent_first.withColumn("number", F.monotonically_increasing_id()))
    of_tasks = numbered.withColumn("task", F.shiftright("number", _TASK_BITS))
    sizes = of_tasks.groupBy("task").agg(F.count("*").alias("nodes")).orderBy("task").collect()
    ends = accumulate(size["nodes"] for size in sizes)
    offsets = [(size["task"], end - size["nodes"]) for size, end in zip(sizes, ends, strict=True)]
    shift = counted.sparkSession.createDataFrame(offsets, "task long, offset long")
    shifted = of_tasks.join(F.broadcast(shift), "task", "inner")
    within_task = F.col("number").bitwiseAND((1 << _TASK_BITS) - 1)
    ranked = shifted.withColumn("row", (F.col("offset") + within_task).cast("int"))
    kept = ranked if top is None else ranked.where(F.col("row") < top)
    return kept.select("id", "row", "count", "first_date")


def append(older: DataFrame, ranked: DataFrame, keep: Keep) -> DataFrame:
    """id, row, count, first_date: the rows of an older vocabulary with the counts of `ranked`, 0
    where it lacks them, and then the nodes that are new, in the order of `rank`.

    >>> older = rows("id string, row int, first_date date", ("d", 0, None), ("a", 1, None))
    >>> ranked = rows("id string, count long, first_date date",
    ...               ("a", 4, None), ("e", 3, None), ("f", 2, None))
    >>> shown(append(older, ranked, keep=cached), "row", "id", "count")
    row id count
    0   d  0
    1   a  4
    2   e  3
    3   f  2
    """
    rows = older.select("id", "row", "first_date")
    counts = ranked.select("id", "count", F.col("first_date").alias("first"))
    kept = rows.join(counts, "id", "left").select(
        "id",
        "row",
        F.coalesce("count", F.lit(0)).alias("count"),
        # Late rows may be of an earlier day.
        F.least("first_date", "first").alias("first_date"),
    )
    last_row = older.agg(F.coalesce(F.max("row"), F.lit(-1))).collect()[0][0]
    new = rank(ranked.join(rows, "id", "left_anti"), None, keep)
    after_last = F.col("row") + F.lit(last_row + 1)
    return kept.unionByName(new.withColumn("row", after_last.cast("int")))


def nodes_in_use(vocabulary: DataFrame) -> DataFrame:
    """The nodes that are clicked often enough now."""
    return vocabulary.where(F.col("count") > 0)


def rows_of_items(
    clicked_items: DataFrame,
    values: Mapping[str, DataFrame],
    several: Collection[str],
    vocabularies: Mapping[str, DataFrame],
) -> DataFrame:
    """item_id and, for each view, the row of the item's node: `row_<view>`, null outside the
    vocabulary and for nodes not in use; for views in `several`, whose items may have more than one
    value, `values_<view>`: array<struct<row, weight>>, the heaviest first."""
    item_nodes = _rows_by(vocabularies[ITEM_VIEW], "item_id", ITEM_VIEW)
    with_rows = clicked_items.select("item_id").distinct().join(item_nodes, "item_id", "left")
    for name, values_of_view in values.items():
        nodes = _rows_by(vocabularies[name], "value", name)
        if name in several:
            rows = _rows_of_values(values_of_view, nodes, name)
        else:
            rows = _row_of_value(values_of_view, nodes)
        with_rows = with_rows.join(rows, "item_id", "left")
    return with_rows


def _rows_by(vocabulary: DataFrame, id_column: str, view: str) -> DataFrame:
    """The id, under this name, and `row_<view>` of the nodes in use."""
    id_, number = F.col("id").alias(id_column), F.col("row").alias(row(view))
    return nodes_in_use(vocabulary).select(id_, number)


def _row_of_value(values: DataFrame, nodes: DataFrame) -> DataFrame:
    first = values.select("item_id", F.col("values")[0]["value"].alias("value"))
    return first.join(nodes, "value", "inner").drop("value")


def _rows_of_values(values: DataFrame, nodes: DataFrame, name: str) -> DataFrame:
    pairs = values.select("item_id", F.posexplode("values").alias("position", "pair"))
    each = pairs.select("item_id", "position", "pair.value", "pair.weight")
    with_rows = each.join(nodes, "value", "left")
    # The position stands first, so that sorting gives the values their order back.
    weighted = F.struct("position", F.col(row(name)).alias("row"), "weight")
    in_order = F.sort_array(F.collect_list(weighted))
    return with_rows.groupBy("item_id").agg(in_order.alias(f"values_{name}"))


def with_rows(
    clicks: DataFrame, items: DataFrame, views: Mapping[str, View], seed: int
) -> DataFrame:
    """Adds `row_<view>` for each view: the row of the node of each click of the training part, null
    outside the vocabulary and in the other parts."""
    joined = clicks.join(items, "item_id", "left")
    for name in views:
        values = f"values_{name}"
        if values in items.columns:
            drawn = taken(F.col(values), "row", name, views[name], seed)
            joined = joined.withColumn(row(name), drawn).drop(values)
    is_train = F.col("part") == TRAIN
    return joined.withColumns({row(name): F.when(is_train, F.col(row(name))) for name in views})
