"""The nodes of each view: which value of an attribute an item has, and which one an occurrence of the item takes."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import ArrayType

from pipeline.config import ITEM_VIEW, Source, View
from pipeline.source import expression, read
from pipeline.split import TRAIN


def node(view: str) -> str:
    """Name of the column with the raw id of an occurrence's node in a view."""
    return "item_id" if view == ITEM_VIEW else f"node_{view}"


def item_table(spark: SparkSession, source: Source) -> DataFrame | None:
    """Values that the source's item tables give: item_id, attribute, value, weight = rows that say so; titles as the attribute `null`.

    None where the source has no such table.
    """
    parts = []
    for number, table in enumerate(source.items):
        rows, option = read(spark, table), f"source.items[{number}]"
        item = expression(rows, table.item_id, f"{option}.item_id", table).cast("string").alias("item_id")
        wanted = dict(table.attributes) | ({"": table.title} if table.title else {})
        for attribute, text in wanted.items():
            name = f"{option}.attributes.{attribute}" if attribute else f"{option}.title"
            values = _each(rows, expression(rows, text, name, table))
            parts.append(rows.select(item, F.lit(attribute or None).cast("string").alias("attribute"), values.alias("value")))
    if not parts:
        return None
    together = parts[0]
    for part in parts[1:]:
        together = together.unionByName(part)
    return together.where(F.col("value").isNotNull()).groupBy("item_id", "attribute", "value").agg(F.count("*").alias("weight"))


def _each(rows: DataFrame, column: Column) -> Column:
    """A row a value, of a column that may be an array."""
    several = isinstance(rows.select(column).schema[0].dataType, ArrayType)
    return F.explode(column.cast("array<string>")) if several else column.cast("string")


def titles(table: DataFrame | None) -> DataFrame | None:
    """item_id, title; of several titles the one that most rows say."""
    if table is None:
        return None
    said = table.where(F.col("attribute").isNull())
    return said.groupBy("item_id").agg(F.max_by("value", F.struct("weight", "value")).alias("title"))


def item_values(clicks: DataFrame, table: DataFrame | None, view: View, on_events: bool) -> DataFrame:
    """item_id, values: array<struct<value, weight>>, the heaviest first, of the items that have a value in a view.

    With `on_events` the attribute stands on the log's events: its value is the latest one of the training part (weight 1). Values of item
    tables weigh by the rows that say so.
    """
    attribute, parts = str(view.attribute), []
    if on_events:
        known = clicks.where((F.col("part") == TRAIN) & _is_known(F.col(attribute), view))
        latest = F.max_by(attribute, F.struct("timestamp", attribute)).alias("value")
        parts.append(known.groupBy("item_id").agg(latest).select("item_id", "value", F.lit(1).cast("long").alias("weight")))
    if table is not None:
        said = table.where((F.col("attribute") == attribute) & _is_known(F.col("value"), view))
        parts.append(said.select("item_id", "value", "weight"))
    together = parts[0] if len(parts) == 1 else parts[0].unionByName(parts[1])
    summed = together.groupBy("item_id", "value").agg(F.sum("weight").alias("weight"))
    heaviest = F.sort_array(F.collect_list(F.struct((-F.col("weight")).alias("minus"), "value")))
    values = F.transform(heaviest, lambda pair: F.struct(pair["value"].alias("value"), (-pair["minus"]).alias("weight")))
    return summed.groupBy("item_id").agg(values.alias("values"))


def _is_known(value: Column, view: View) -> Column:
    return value.isNotNull() & ~value.isin(*view.null_values)


def with_nodes(clicks: DataFrame, values: Mapping[str, DataFrame], views: Mapping[str, View], seed: int) -> DataFrame:
    """Adds for each value view the raw id of the click's node, null where its item has none."""
    for name, frame in values.items():
        column = f"values_{name}"
        joined = clicks.join(frame.withColumnRenamed("values", column), "item_id", "left")
        clicks = joined.withColumn(node(name), _taken(F.col(column), name, views[name], seed)).drop(column)
    return clicks


def _taken(values: Column, name: str, view: View, seed: int) -> Column:
    """The value that an occurrence takes: the heaviest, or one drawn by weight from a hash of (session, position, seed)."""
    heaviest = F.get(values, F.lit(0))["value"]
    if view.several == "first":
        return heaviest
    total = F.aggregate(values, F.lit(0).cast("long"), lambda sum_, pair: sum_ + pair["weight"])
    drawn = F.pmod(F.xxhash64("session_id", "session_position", F.lit(name), F.lit(seed)), total)
    # Runs through the values with what is left of the draw; the value at which it falls below zero is taken.
    begin = F.struct(drawn.alias("left"), F.lit(None).cast("string").alias("taken"))

    def step(state: Column, pair: Column) -> Column:
        left = state["left"] - pair["weight"]
        return F.struct(
            left.alias("left"), F.when((state["left"] >= 0) & (left < 0), pair["value"]).otherwise(state["taken"]).alias("taken")
        )

    return F.when(F.size(values) == 1, heaviest).otherwise(F.aggregate(values, begin, step, lambda state: state["taken"]))
