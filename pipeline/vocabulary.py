"""Vocabulary: one durable, append-only map per view from raw id to row number.

A row never changes its meaning and is never reused. Which nodes are *in use* is decided anew by each run: those have a count above 0. Nodes
that an earlier run knew and that are not clicked often enough now keep their row with count 0; sequences, edges and links pass them over.
"""

from collections.abc import Iterable
from itertools import accumulate

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import View
from pipeline.split import TRAIN
from pipeline.views import node


def row(view: str) -> str:
    """Name of the column with the row number of an occurrence's node in a view; null outside the vocabulary."""
    return f"row_{view}"


def previous(view: str) -> str:
    """Name of the column with the row and the session's start of the user's latest click before in a view's vocabulary."""
    return f"previous_{view}"


def count_nodes(occurrences: DataFrame, name: str, view: View) -> DataFrame:
    """id, count (clicks), first_date of the nodes of a view that are clicked at least `minimum_count` times in the training part."""
    seen = occurrences.where((F.col("part") == TRAIN) & F.col(node(name)).isNotNull())
    counted = seen.groupBy(F.col(node(name)).alias("id")).agg(F.count("*").alias("count"), F.min("date").alias("first_date"))
    return counted.where(F.col("count") >= view.minimum_count)


def rank(counted: DataFrame, top: int | None) -> DataFrame:
    """id, row, count, first_date: rows number the nodes from the most to the least frequent, equals by id; at most `top` of them.

    Nodes of equal count are numbered among themselves and shifted by how many come before them, so that no task sorts all of them.
    """
    sizes = counted.groupBy("count").agg(F.count("*").alias("nodes")).orderBy(F.desc("count")).collect()
    before = accumulate((size["nodes"] for size in sizes[:-1]), initial=0)
    offsets = [(size["count"], offset) for size, offset in zip(sizes, before, strict=True)] if sizes else []
    shift = counted.sparkSession.createDataFrame(offsets, "count long, offset long")
    among = F.row_number().over(Window.partitionBy("count").orderBy("id")) - 1
    ranked = counted.join(F.broadcast(shift), "count", "inner").withColumn("row", (F.col("offset") + among).cast("int"))
    kept = ranked if top is None else ranked.where(F.col("row") < top)
    return kept.select("id", "row", "count", "first_date")


def append(known: DataFrame, ranked: DataFrame) -> DataFrame:
    """id, row, count, first_date: the rows of an older vocabulary with the counts of `ranked`, 0 where it lacks them, and then the nodes
    that are new, in the order of `rank`."""
    old = known.select("id", "row", "first_date")
    counts = old.join(ranked.select("id", "count"), "id", "left")
    kept = counts.select("id", "row", F.coalesce("count", F.lit(0)).alias("count"), "first_date")
    begin = F.lit(known.agg(F.coalesce(F.max("row"), F.lit(-1))).collect()[0][0] + 1)
    new = rank(ranked.join(old, "id", "left_anti"), None).withColumn("row", (F.col("row") + begin).cast("int"))
    return kept.unionByName(new)


def in_use(vocabulary: DataFrame) -> DataFrame:
    """The nodes that are clicked often enough now."""
    return vocabulary.where(F.col("count") > 0)


def with_rows(occurrences: DataFrame, vocabularies: dict[str, DataFrame]) -> DataFrame:
    """Adds for each view the row number of the click's node, null where it is not in the vocabulary or not in use."""
    for name, frame in vocabularies.items():
        rows = in_use(frame).select(F.col("id").alias(node(name)), F.col("row").alias(row(name)))
        occurrences = occurrences.join(rows, node(name), "left")
    return occurrences


def with_previous(occurrences: DataFrame, view_names: Iterable[str]) -> DataFrame:
    """Adds for each view `previous_<view>`: row, and `first` = start position of the session, of the user's latest click before that is
    in the view's vocabulary."""
    for name in view_names:
        inside = f"CASE WHEN {row(name)} IS NOT NULL THEN struct({row(name)} AS row, position - session_position AS first) END"
        lag = F.expr(f"lag({inside}) IGNORE NULLS OVER (PARTITION BY user_id ORDER BY position)")
        occurrences = occurrences.withColumn(previous(name), lag)
    return occurrences
