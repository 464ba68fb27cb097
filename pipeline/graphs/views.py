"""The nodes of each view: which value of an attribute an item has, and which one an occurrence of
the item takes."""

from collections.abc import Collection

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import session_id
from pipeline.config import ITEM_VIEW, View


def node(view: str) -> str:
    """Name of the column with the raw id of an occurrence's node in a view."""
    return "item_id" if view == ITEM_VIEW else f"node_{view}"


def items_of_clicks(clicks: DataFrame, attributes: Collection[str]) -> DataFrame:
    """item_id, each attribute that stands on events, clicks, first_date, last: one row for each
    item and values it was clicked with; clicks counts them, last is the time of the latest.

    A small table beside the clicks, from which counts and values of items follow.
    """
    grouped = clicks.groupBy("item_id", *attributes)
    return grouped.agg(
        F.count("*").alias("clicks"),
        F.min("date").alias("first_date"),
        F.max("timestamp").alias("last"),
    )


def items_of_days(clicks: DataFrame, attributes: Collection[str]) -> DataFrame:
    """The same for each date: date, item_id, each attribute, clicks, last."""
    grouped = clicks.groupBy("date", "item_id", *attributes)
    return grouped.agg(F.count("*").alias("clicks"), F.max("timestamp").alias("last"))


def over_days(items_of_days: DataFrame) -> DataFrame:
    """`items_of_clicks` of all dates together."""
    own_columns = ("date", "item_id", "clicks", "last")
    attributes = [name for name in items_of_days.columns if name not in own_columns]
    grouped = items_of_days.groupBy("item_id", *attributes)
    return grouped.agg(
        F.sum("clicks").alias("clicks"),
        F.min("date").alias("first_date"),
        F.max("last").alias("last"),
    )


def item_values(
    clicked_items: DataFrame, table: DataFrame | None, view: View, on_events: bool
) -> DataFrame:
    """item_id, values: array<struct<value, weight>>, the heaviest first, of the items that have a
    value in a view.

    With `on_events` the attribute stands on the log's events: its value is the latest one of
    `items_of_clicks` (weight 1). Values of item tables weigh by the rows that say so.
    """
    attribute, weighted = str(view.attribute), []
    if on_events:
        of_events = clicked_items.where(_is_known(F.col(attribute), view))
        # Of two values clicked at one moment, the later in the alphabet.
        latest = F.max_by(attribute, F.struct("last", attribute))
        latest_values = of_events.groupBy("item_id").agg(latest.alias("value"))
        one = F.lit(1).cast("long")
        weighted.append(latest_values.select("item_id", "value", one.alias("weight")))
    if table is not None:
        is_known = _is_known(F.col("value"), view)
        of_tables = table.where((F.col("attribute") == attribute) & is_known)
        weighted.append(of_tables.select("item_id", "value", "weight"))
    together = weighted[0] if len(weighted) == 1 else weighted[0].unionByName(weighted[1])
    summed = together.groupBy("item_id", "value").agg(F.sum("weight").alias("weight"))

    def with_weight(pair: Column) -> Column:
        return F.struct(pair["value"].alias("value"), (-pair["minus"]).alias("weight"))

    values = F.transform(heaviest_first(), with_weight)
    return summed.groupBy("item_id").agg(values.alias("values"))


def heaviest_first() -> Column:
    """Aggregate of rows with `value` and `weight`: array<struct<minus, value>>, where minus is the
    negative weight; equals by value."""
    minus = -F.col("weight")
    pairs = F.collect_list(F.struct(minus.alias("minus"), "value"))
    return F.sort_array(pairs)


def has_several(values: DataFrame) -> bool:
    """Whether some item has more than one value."""
    return not values.where(F.size("values") > 1).isEmpty()


def changed_items(clicked_items: DataFrame, view: View) -> int:
    """How many items were clicked with more than one known value of an attribute that stands on
    events."""
    attribute = str(view.attribute)
    with_value = clicked_items.where(_is_known(F.col(attribute), view))
    values = F.countDistinct(attribute)
    by_item = with_value.groupBy("item_id").agg(values.alias("values"))
    return by_item.where(F.col("values") > 1).count()


def _is_known(value: Column, view: View) -> Column:
    return value.isNotNull() & ~value.isin(*view.null_values)


def with_node(clicks: DataFrame, values: DataFrame, name: str, view: View, seed: int) -> DataFrame:
    """Adds the raw id of each click's node in a value view, null where its item has none."""
    joined = clicks.join(values, "item_id", "left")
    taken_value = taken(F.col("values"), "value", name, view, seed)
    return joined.withColumn(node(name), taken_value).drop("values")


def taken(values: Column, field: str, name: str, view: View, seed: int) -> Column:
    """A field of the value that an occurrence takes: the heaviest, or one drawn by weight from a
    hash of (session, position, seed)."""
    heaviest = F.get(values, F.lit(0))[field]
    if view.several == "first":
        return heaviest
    zero, none = F.lit(0), F.lit(None).cast("int")
    total = F.aggregate(values, zero.cast("long"), lambda sum_, pair: sum_ + pair["weight"])
    hashed = F.xxhash64(session_id(), "session_position", F.lit(name), F.lit(seed))
    drawn = F.pmod(hashed, total)
    # Runs through the values with what is left of the draw; the value at which it falls below zero
    # is taken.
    begin = F.struct(drawn.alias("left"), none.alias("at"), zero.alias("next"))

    def step(state: Column, pair: Column) -> Column:
        left = state["left"] - pair["weight"]
        falls_below = (state["left"] >= 0) & (left < 0)
        at = F.when(falls_below, state["next"]).otherwise(state["at"])
        return F.struct(left.alias("left"), at.alias("at"), (state["next"] + 1).alias("next"))

    at = F.aggregate(values, begin, step, lambda state: state["at"])
    drawn_value = F.get(values, at)[field]
    return F.when(F.size(values) == 1, heaviest).otherwise(drawn_value)
