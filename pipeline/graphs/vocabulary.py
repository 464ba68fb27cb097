"""Vocabulary: one durable, append-only map per view from raw id to row number.

A row never changes its meaning and is never reused. Which nodes are *in use* is decided anew by
each run: those have a count above 0. Nodes that an earlier run knew and that are not clicked often
enough now keep their row with count 0; sequences, edges and links pass them over.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import accumulate

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.split import TRAIN
from pipeline.config import ITEM_VIEW, View
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


def count_items(seen: DataFrame) -> DataFrame:
    """id, count (clicks), first_date of the items of `views.seen_items`."""
    return _counted(seen.withColumnRenamed("item_id", "id"))


def count_values(seen: DataFrame, values: DataFrame) -> DataFrame:
    """The same of the nodes of a value view in which every item has one value, or takes the first
    of several."""
    first = values.select("item_id", F.col("values")[0]["value"].alias("id"))
    return _counted(seen.join(first, "item_id", "inner"))


def count_drawn(occurrences: DataFrame, name: str) -> DataFrame:
    """The same of the nodes that clicks took, where items have several values."""
    taken = occurrences.where(F.col(node(name)).isNotNull()).groupBy(F.col(node(name)).alias("id"))
    return _counted(taken.agg(F.count("*").alias("clicks"), F.min("date").alias("first_date")))


def _counted(rows: DataFrame) -> DataFrame:
    return rows.groupBy("id").agg(
        F.sum("clicks").alias("count"), F.min("first_date").alias("first_date")
    )


def often_enough(counted: DataFrame, minimum_count: int) -> DataFrame:
    """The nodes that are clicked at least so many times."""
    return counted.where(F.col("count") >= minimum_count)


def limits(
    counted: DataFrame, minimum_count: int, kept: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Limit -> the `nodes` it leaves out and the `clicks` on them; `kept`: those that neither
    does."""
    enough = F.col("count") >= minimum_count
    nodes, clicks = (
        F.count(F.when(enough, True)),
        F.coalesce(F.sum(F.when(enough, F.col("count"))), F.lit(0)),
    )
    row = counted.agg(F.count("*"), F.coalesce(F.sum("count"), F.lit(0)), nodes, clicks).first()
    assert row is not None  # an aggregate has a row
    return {
        MINIMUM_COUNT: {"nodes": row[0] - row[2], "clicks": row[1] - row[3]},
        TOP: {"nodes": row[2] - kept["nodes"], "clicks": row[3] - kept["clicks"]},
    }


def rank(counted: DataFrame, top: int | None, keep: Keep) -> DataFrame:
    """id, row, count, first_date: rows number the nodes from the most to the least frequent, equals
    by id; at most `top` of them.

    Each task sorts and numbers a range of them, shifted by how many come in the ranges before: no
    task sees all, nor all of one count, which of the rarest may be half. `keep` holds on to the
    numbers, which are read twice.
    """
    sorted_ = counted.orderBy(F.desc("count"), "id")
    # The task's number above these bits, that of the row within it below.
    placed = keep(sorted_.withColumn("place", F.monotonically_increasing_id())).withColumn(
        "task", F.shiftright("place", _TASK_BITS)
    )
    sizes = placed.groupBy("task").agg(F.count("*").alias("nodes")).orderBy("task").collect()
    before = accumulate((size["nodes"] for size in sizes[:-1]), initial=0)
    offsets = (
        [(size["task"], offset) for size, offset in zip(sizes, before, strict=True)]
        if sizes
        else []
    )
    shift = counted.sparkSession.createDataFrame(offsets, "task long, offset long")
    within = F.col("place").bitwiseAND((1 << _TASK_BITS) - 1)
    ranked = placed.join(F.broadcast(shift), "task", "inner").withColumn(
        "row", (F.col("offset") + within).cast("int")
    )
    wanted = ranked if top is None else ranked.where(F.col("row") < top)
    return wanted.select("id", "row", "count", "first_date")


def append(known: DataFrame, ranked: DataFrame, keep: Keep) -> DataFrame:
    """id, row, count, first_date: the rows of an older vocabulary with the counts of `ranked`, 0
    where it lacks them, and then the nodes that are new, in the order of `rank`."""
    old = known.select("id", "row", "first_date")
    counts = old.join(
        ranked.select("id", "count", F.col("first_date").alias("first")), "id", "left"
    )
    # Late rows may be of an earlier day.
    kept = counts.select(
        "id",
        "row",
        F.coalesce("count", F.lit(0)).alias("count"),
        F.least("first_date", "first").alias("first_date"),
    )
    begin = F.lit(known.agg(F.coalesce(F.max("row"), F.lit(-1))).collect()[0][0] + 1)
    new = rank(ranked.join(old, "id", "left_anti"), None, keep).withColumn(
        "row", (F.col("row") + begin).cast("int")
    )
    return kept.unionByName(new)


def in_use(vocabulary: DataFrame) -> DataFrame:
    """The nodes that are clicked often enough now."""
    return vocabulary.where(F.col("count") > 0)


def rows_of_items(
    seen: DataFrame,
    values: Mapping[str, DataFrame],
    several: Collection[str],
    vocabularies: Mapping[str, DataFrame],
) -> DataFrame:
    """item_id and, for each view, the row of the item's node: `row_<view>`, null outside the
    vocabulary and for nodes not in use; for views in `several`, whose items may have more than one
    value, `values_<view>`: array<struct<row, weight>>, the heaviest first."""
    items = in_use(vocabularies[ITEM_VIEW]).select(
        F.col("id").alias("item_id"), F.col("row").alias(row(ITEM_VIEW))
    )
    found = seen.select("item_id").distinct().join(items, "item_id", "left")
    for name, frame in values.items():
        nodes = in_use(vocabularies[name]).select(
            F.col("id").alias("value"), F.col("row").alias(row(name))
        )
        placed = (
            _rows_of_values(frame, nodes, name) if name in several else _row_of_value(frame, nodes)
        )
        found = found.join(placed, "item_id", "left")
    return found


def _row_of_value(values: DataFrame, nodes: DataFrame) -> DataFrame:
    first = values.select("item_id", F.col("values")[0]["value"].alias("value"))
    return first.join(nodes, "value", "inner").drop("value")


def _rows_of_values(values: DataFrame, nodes: DataFrame, name: str) -> DataFrame:
    each = values.select("item_id", F.posexplode("values").alias("place", "pair")).select(
        "item_id", "place", "pair.value", "pair.weight"
    )
    placed = F.sort_array(
        F.collect_list(F.struct("place", F.col(row(name)).alias("row"), "weight"))
    )
    return each.join(nodes, "value", "left").groupBy("item_id").agg(placed.alias(f"values_{name}"))


def with_rows(
    clicks: DataFrame, items: DataFrame, views: Mapping[str, View], seed: int
) -> DataFrame:
    """Adds `row_<view>` for each view: the row of the node of each click of the training part, null
    outside the vocabulary and in the other parts."""
    joined = clicks.join(items, "item_id", "left")
    for name in (name for name in views if f"values_{name}" in items.columns):
        drawn = taken(F.col(f"values_{name}"), "row", name, views[name], seed)
        joined = joined.withColumn(row(name), drawn).drop(f"values_{name}")
    return joined.withColumns(
        {row(name): F.when(F.col("part") == TRAIN, F.col(row(name))) for name in views}
    )
