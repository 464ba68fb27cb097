"""The nodes of each view: which value of an attribute an item has, and which one an occurrence of the item takes."""

from collections.abc import Collection

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import ArrayType

from pipeline.columns import as_text, type_of
from pipeline.config import ITEM_VIEW, Source, View
from pipeline.sessions import session_id
from pipeline.source import expression, identifier, read


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
        told = expression(rows, table.item_id, f"{option}.item_id", table)
        item = identifier(told, type_of(rows, told), source).alias("item_id")
        wanted = dict(table.attributes) | ({"": table.title} if table.title else {})
        for attribute, text in wanted.items():
            name = f"{option}.attributes.{attribute}" if attribute else f"{option}.title"
            values = _each(rows, expression(rows, text, name, table), source.whole_numbers)
            parts.append(rows.select(item, F.lit(attribute or None).cast("string").alias("attribute"), values.alias("value")))
    if not parts:
        return None
    together = parts[0]
    for part in parts[1:]:
        together = together.unionByName(part)
    return (
        together.where(F.col("item_id").isNotNull() & F.col("value").isNotNull())
        .groupBy("item_id", "attribute", "value")
        .agg(F.count("*").alias("weight"))
    )


def _each(rows: DataFrame, column: Column, whole_numbers: bool) -> Column:
    """A row a value, as text, of a column that may be an array."""
    type_ = type_of(rows, column)
    if not isinstance(type_, ArrayType):
        return as_text(column, type_, whole_numbers)
    return F.explode(F.transform(column, lambda value: as_text(value, type_.elementType, whole_numbers)))


def titles(table: DataFrame | None) -> DataFrame | None:
    """item_id, title; of several titles the one that most rows say."""
    if table is None:
        return None
    said = table.where(F.col("attribute").isNull())
    return said.groupBy("item_id").agg(F.max_by("value", F.struct("weight", "value")).alias("title"))


def seen_items(clicks: DataFrame, attributes: Collection[str]) -> DataFrame:
    """item_id, each attribute that stands on events, clicks, first_date, last: one row for each item and values it was clicked with; clicks
    counts them, last is the time of the latest. A small table beside the clicks, from which counts and values of items follow."""
    seen = clicks.groupBy("item_id", *attributes)
    return seen.agg(F.count("*").alias("clicks"), F.min("date").alias("first_date"), F.max("timestamp").alias("last"))


def item_values(seen: DataFrame, table: DataFrame | None, view: View, on_events: bool) -> DataFrame:
    """item_id, values: array<struct<value, weight>>, the heaviest first, of the items that have a value in a view.

    With `on_events` the attribute stands on the log's events: its value is the latest one of `seen_items` (weight 1). Values of item tables
    weigh by the rows that say so.
    """
    attribute, parts = str(view.attribute), []
    if on_events:
        known = seen.where(_is_known(F.col(attribute), view))
        latest = F.max_by(attribute, F.struct("last", attribute)).alias("value")
        parts.append(known.groupBy("item_id").agg(latest).select("item_id", "value", F.lit(1).cast("long").alias("weight")))
    if table is not None:
        said = table.where((F.col("attribute") == attribute) & _is_known(F.col("value"), view))
        parts.append(said.select("item_id", "value", "weight"))
    together = parts[0] if len(parts) == 1 else parts[0].unionByName(parts[1])
    summed = together.groupBy("item_id", "value").agg(F.sum("weight").alias("weight"))
    heaviest = F.sort_array(F.collect_list(F.struct((-F.col("weight")).alias("minus"), "value")))
    values = F.transform(heaviest, lambda pair: F.struct(pair["value"].alias("value"), (-pair["minus"]).alias("weight")))
    return summed.groupBy("item_id").agg(values.alias("values"))


def has_several(values: DataFrame) -> bool:
    """Whether some item has more than one value."""
    return not values.where(F.size("values") > 1).isEmpty()


def changed_items(seen: DataFrame, view: View) -> int:
    """How many items were clicked with more than one known value of an attribute that stands on events."""
    known = seen.where(_is_known(F.col(str(view.attribute)), view))
    return known.groupBy("item_id").agg(F.countDistinct(str(view.attribute)).alias("values")).where(F.col("values") > 1).count()


def _is_known(value: Column, view: View) -> Column:
    return value.isNotNull() & ~value.isin(*view.null_values)


def with_node(clicks: DataFrame, values: DataFrame, name: str, view: View, seed: int) -> DataFrame:
    """Adds the raw id of each click's node in a value view, null where its item has none."""
    joined = clicks.join(values, "item_id", "left")
    return joined.withColumn(node(name), taken(F.col("values"), "value", name, view, seed)).drop("values")


def taken(values: Column, field: str, name: str, view: View, seed: int) -> Column:
    """A field of the value that an occurrence takes: the heaviest, or one drawn by weight from a hash of (session, position, seed)."""
    heaviest = F.get(values, F.lit(0))[field]
    if view.several == "first":
        return heaviest
    total = F.aggregate(values, F.lit(0).cast("long"), lambda sum_, pair: sum_ + pair["weight"])
    drawn = F.pmod(F.xxhash64(session_id(), "session_position", F.lit(name), F.lit(seed)), total)
    # Runs through the values with what is left of the draw; the value at which it falls below zero is taken.
    begin = F.struct(drawn.alias("left"), F.lit(None).cast("int").alias("at"), F.lit(0).alias("next"))

    def step(state: Column, pair: Column) -> Column:
        left = state["left"] - pair["weight"]
        found = F.when((state["left"] >= 0) & (left < 0), state["next"]).otherwise(state["at"])
        return F.struct(left.alias("left"), found.alias("at"), (state["next"] + 1).alias("next"))

    at = F.aggregate(values, begin, step, lambda state: state["at"])
    return F.when(F.size(values) == 1, heaviest).otherwise(F.get(values, at)[field])
