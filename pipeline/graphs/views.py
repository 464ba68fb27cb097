"""The nodes of each view: which value of an attribute an item has, and which one an occurrence of
the item takes."""

from collections.abc import Collection, Iterator, Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import ArrayType

from pipeline.clicks.sessions import session_id
from pipeline.config import ITEM_VIEW, ItemTable, Source, View
from pipeline.log.columns import as_text, type_of
from pipeline.log.events import expression, identifier
from pipeline.log.readers import MALFORMED, SOURCE_FILE, read

ITEM_REASONS = ("malformed row", "no item_id")
"""Why a row of an item table says nothing of any item, in the order in which it is asked."""
_EXAMPLE = ": example"
"""What follows the reason in the name of the example that is observed of it."""


def node(view: str) -> str:
    """Name of the column with the raw id of an occurrence's node in a view."""
    return "item_id" if view == ITEM_VIEW else f"node_{view}"


def item_observations(source: Source) -> dict[str, Observation]:
    """Option of each item table that says something of its items -> what counts its rows; for
    `item_table` and `item_rows`."""
    return {option: Observation(option) for option in _telling(source)}


def item_table(
    spark: SparkSession, source: Source, seen: Mapping[str, Observation] | None = None
) -> DataFrame | None:
    """Values that the source's item tables give: item_id, attribute, value, weight = rows that say
    so; titles as the attribute `null`.

    None where the source has no such table. `seen`: `item_observations` of the source, which count
    when the frame is first computed. Malformed rows and rows without an item are left out.
    """
    parts = [
        _values_said(spark, source, option, (seen or {}).get(option)) for option in _telling(source)
    ]
    if not parts:
        return None
    return (
        reduce(DataFrame.unionByName, parts)
        .groupBy("item_id", "attribute", "value")
        .agg(F.count("*").alias("weight"))
    )


def item_rows(seen: Mapping[str, Observation]) -> dict[str, dict[str, int]]:
    """Option of each item table -> its rows, and those of them that say nothing of any item, by
    reason.

    Waits until the frame of `item_table` that was given these observations has been computed.
    """
    return {
        option: {name: int(found.get[name]) for name in ("rows", *ITEM_REASONS)}
        for option, found in seen.items()
    }


def item_examples(seen: Mapping[str, Observation]) -> dict[str, dict[str, tuple[str, str]]]:
    """Option of each item table -> by reason, one of the rows that say nothing of any item, and its
    file: a malformed row as it stands there, of another one the values that it would give an item,
    as JSON. Waits as `item_rows` does."""
    examples = {
        option: {reason: found.get[reason + _EXAMPLE] for reason in ITEM_REASONS}
        for option, found in seen.items()
    }
    return {
        option: {reason: tuple(row) for reason, row in found.items() if row}
        for option, found in examples.items()
    }


def item_coverage(table: DataFrame, seen: DataFrame) -> dict[str, int]:
    """Of the item tables' values and of `seen_items`: how many items the tables tell of, how many
    of these were never clicked, and how many clicked items no table tells of."""
    told, clicked = (
        frame.select("item_id", F.lit(True).alias(name)).distinct()
        for frame, name in ((table, "told"), (seen, "clicked"))
    )
    row = (
        told.join(clicked, "item_id", "full")
        .agg(F.count("told"), F.count("clicked"), F.count("*"))
        .first()
    )
    assert row is not None  # an aggregate has a row
    return {
        "in item tables": row[0],
        "never clicked": row[2] - row[1],
        "clicked, in no item table": row[2] - row[0],
    }


def _telling(source: Source) -> dict[str, ItemTable]:
    """Option -> item table, of those that give attributes or titles."""
    return {
        f"source.items[{number}]": table
        for number, table in enumerate(source.items)
        if table.attributes or table.title
    }


def _values_said(
    spark: SparkSession, source: Source, option: str, seen: Observation | None
) -> DataFrame:
    """item_id, attribute, value: all that an item table says, a row for each value in each of its
    rows."""
    table = _telling(source)[option]
    rows = read(spark, table)
    told = expression(rows, table.item_id, f"{option}.item_id", table)
    item = identifier(told, type_of(rows, told), source)
    wanted: list[tuple[str, str | None, str]] = [
        (f"{option}.attributes.{name}", name, text) for name, text in table.attributes.items()
    ]
    wanted += [(f"{option}.title", None, table.title)] if table.title else []
    values = [
        _each(rows, name, expression(rows, text, of, table), source.whole_numbers)
        for of, name, text in wanted
    ]
    # Where a row is malformed its fields may be anything, on which an expression may fail.
    whole = F.col(MALFORMED).isNull()
    said = rows.select(
        SOURCE_FILE,
        MALFORMED,
        F.when(whole, item).alias("item_id"),
        F.when(whole, F.concat(*values)).alias("said"),
    )
    counted = said if seen is None else said.observe(seen, *_row_counts())
    each = counted.where(F.col("item_id").isNotNull()).select(
        "item_id", F.explode("said").alias("pair")
    )
    return each.select("item_id", "pair.attribute", "pair.value").where(F.col("value").isNotNull())


def _row_counts() -> Iterator[Column]:
    """What `item_rows` and `item_examples` tell of an item table."""
    malformed, no_item = F.col(MALFORMED).isNotNull(), F.col("item_id").isNull()
    yield F.count("*").alias("rows")
    for reason, holds in zip(ITEM_REASONS, (malformed, ~malformed & no_item), strict=True):
        # Not the whole row: columns that nobody asked for would have to be read.
        example = F.struct(F.coalesce(MALFORMED, F.to_json("said")), SOURCE_FILE)
        yield F.count(F.when(holds, True)).alias(reason)
        yield F.min(F.when(holds, example)).alias(reason + _EXAMPLE)


def _each(rows: DataFrame, attribute: str | None, column: Column, whole_numbers: bool) -> Column:
    """array<struct<attribute, value>>: the values, as text, of a column that may be an array."""
    name, type_ = F.lit(attribute).cast("string").alias("attribute"), type_of(rows, column)
    if not isinstance(type_, ArrayType):
        return F.array(F.struct(name, as_text(column, type_, whole_numbers).alias("value")))
    known = F.coalesce(column, F.array().cast(type_))
    return F.transform(
        known,
        lambda value: F.struct(
            name, as_text(value, type_.elementType, whole_numbers).alias("value")
        ),
    )


def titles(table: DataFrame | None) -> DataFrame | None:
    """item_id, title; of several titles the one that most rows say."""
    if table is None:
        return None
    said = table.where(F.col("attribute").isNull())
    return said.groupBy("item_id").agg(
        F.max_by("value", F.struct("weight", "value")).alias("title")
    )


def seen_items(clicks: DataFrame, attributes: Collection[str]) -> DataFrame:
    """item_id, each attribute that stands on events, clicks, first_date, last: one row for each
    item and values it was clicked with; clicks counts them, last is the time of the latest. A small
    table beside the clicks, from which counts and values of items follow."""
    seen = clicks.groupBy("item_id", *attributes)
    return seen.agg(
        F.count("*").alias("clicks"),
        F.min("date").alias("first_date"),
        F.max("timestamp").alias("last"),
    )


def items_of_days(clicks: DataFrame, attributes: Collection[str]) -> DataFrame:
    """The same for each date: date, item_id, each attribute, clicks, last."""
    return clicks.groupBy("date", "item_id", *attributes).agg(
        F.count("*").alias("clicks"), F.max("timestamp").alias("last")
    )


def over_days(items_of_days: DataFrame) -> DataFrame:
    """`seen_items` of all dates together."""
    attributes = [
        name for name in items_of_days.columns if name not in ("date", "item_id", "clicks", "last")
    ]
    together = items_of_days.groupBy("item_id", *attributes)
    return together.agg(
        F.sum("clicks").alias("clicks"),
        F.min("date").alias("first_date"),
        F.max("last").alias("last"),
    )


def item_values(seen: DataFrame, table: DataFrame | None, view: View, on_events: bool) -> DataFrame:
    """item_id, values: array<struct<value, weight>>, the heaviest first, of the items that have a
    value in a view.

    With `on_events` the attribute stands on the log's events: its value is the latest one of
    `seen_items` (weight 1). Values of item tables weigh by the rows that say so.
    """
    attribute, parts = str(view.attribute), []
    if on_events:
        known = seen.where(_is_known(F.col(attribute), view))
        latest = F.max_by(attribute, F.struct("last", attribute)).alias("value")
        parts.append(
            known.groupBy("item_id")
            .agg(latest)
            .select("item_id", "value", F.lit(1).cast("long").alias("weight"))
        )
    if table is not None:
        said = table.where((F.col("attribute") == attribute) & _is_known(F.col("value"), view))
        parts.append(said.select("item_id", "value", "weight"))
    together = parts[0] if len(parts) == 1 else parts[0].unionByName(parts[1])
    summed = together.groupBy("item_id", "value").agg(F.sum("weight").alias("weight"))
    values = F.transform(
        heaviest_first(),
        lambda pair: F.struct(pair["value"].alias("value"), (-pair["minus"]).alias("weight")),
    )
    return summed.groupBy("item_id").agg(values.alias("values"))


def heaviest_first() -> Column:
    """Aggregate of rows with `value` and `weight`: array<struct<minus, value>>, where minus is the
    negative weight; equals by value."""
    return F.sort_array(F.collect_list(F.struct((-F.col("weight")).alias("minus"), "value")))


def has_several(values: DataFrame) -> bool:
    """Whether some item has more than one value."""
    return not values.where(F.size("values") > 1).isEmpty()


def changed_items(seen: DataFrame, view: View) -> int:
    """How many items were clicked with more than one known value of an attribute that stands on
    events."""
    known = seen.where(_is_known(F.col(str(view.attribute)), view))
    return (
        known.groupBy("item_id")
        .agg(F.countDistinct(str(view.attribute)).alias("values"))
        .where(F.col("values") > 1)
        .count()
    )


def _is_known(value: Column, view: View) -> Column:
    return value.isNotNull() & ~value.isin(*view.null_values)


def with_node(clicks: DataFrame, values: DataFrame, name: str, view: View, seed: int) -> DataFrame:
    """Adds the raw id of each click's node in a value view, null where its item has none."""
    joined = clicks.join(values, "item_id", "left")
    return joined.withColumn(node(name), taken(F.col("values"), "value", name, view, seed)).drop(
        "values"
    )


def taken(values: Column, field: str, name: str, view: View, seed: int) -> Column:
    """A field of the value that an occurrence takes: the heaviest, or one drawn by weight from a
    hash of (session, position, seed)."""
    heaviest = F.get(values, F.lit(0))[field]
    if view.several == "first":
        return heaviest
    total = F.aggregate(values, F.lit(0).cast("long"), lambda sum_, pair: sum_ + pair["weight"])
    drawn = F.pmod(F.xxhash64(session_id(), "session_position", F.lit(name), F.lit(seed)), total)
    # Runs through the values with what is left of the draw; the value at which it falls below zero
    # is taken.
    begin = F.struct(
        drawn.alias("left"), F.lit(None).cast("int").alias("at"), F.lit(0).alias("next")
    )

    def step(state: Column, pair: Column) -> Column:
        left = state["left"] - pair["weight"]
        found = F.when((state["left"] >= 0) & (left < 0), state["next"]).otherwise(state["at"])
        return F.struct(left.alias("left"), found.alias("at"), (state["next"] + 1).alias("next"))

    at = F.aggregate(values, begin, step, lambda state: state["at"])
    return F.when(F.size(values) == 1, heaviest).otherwise(F.get(values, at)[field])
