"""Item tables: what they say of each item, and how many of their rows say nothing."""

from collections.abc import Iterator, Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import ArrayType

from pipeline.config import ItemTable, Source
from pipeline.log.columns import as_text, identifier, type_of
from pipeline.log.readers import MALFORMED, SOURCE_FILE, read_rows, source_column

ITEM_REASONS = ("malformed row", "no item_id")
"""Why a row of an item table says nothing of any item, in the order in which it is asked."""
_EXAMPLE = ": example"
"""What follows the reason in the name of the example that is observed of it."""


def item_observations(source: Source) -> dict[str, Observation]:
    """Option of each item table that says something of its items -> what counts its rows; for
    `item_table` and `item_rows`."""
    return {option: Observation(option) for option in _used_tables(source)}


def item_table(
    spark: SparkSession, source: Source, observations: Mapping[str, Observation] | None = None
) -> DataFrame | None:
    """Values that the source's item tables give: item_id, attribute, value, weight = rows that say
    so; titles as the attribute `null`.

    None where the source has no such table. `observations`: `item_observations` of the source,
    which count when the frame is first computed. Malformed rows and rows without an item are left
    out.
    """
    observers = observations or {}
    values = [
        _values_of_table(spark, source, option, observers.get(option))
        for option in _used_tables(source)
    ]
    if not values:
        return None
    by_value = reduce(DataFrame.unionByName, values).groupBy("item_id", "attribute", "value")
    return by_value.agg(F.count("*").alias("weight"))


def item_rows(observations: Mapping[str, Observation]) -> dict[str, dict[str, int]]:
    """Option of each item table -> its rows, and those of them that say nothing of any item, by
    reason.

    Waits until the frame of `item_table` that was given these observations has been computed.
    """
    counted = ("rows", *ITEM_REASONS)
    return {
        option: {name: int(observation.get[name]) for name in counted}
        for option, observation in observations.items()
    }


def item_examples(
    observations: Mapping[str, Observation],
) -> dict[str, dict[str, tuple[str, str]]]:
    """Option of each item table -> by reason, one of the rows that say nothing of any item, and its
    file.

    A malformed row is shown as it stands there; of another one the values that it would give an
    item, as JSON. Waits as `item_rows` does.
    """
    examples: dict[str, dict[str, tuple[str, str]]] = {}
    for option, observation in observations.items():
        rows = {reason: observation.get[reason + _EXAMPLE] for reason in ITEM_REASONS}
        examples[option] = {reason: tuple(row) for reason, row in rows.items() if row}
    return examples


def item_coverage(table: DataFrame, clicked_items: DataFrame) -> dict[str, int]:
    """How many items the tables tell of, how many of these were never clicked, and how many clicked
    items no table tells of.

    Reads `item_table` and `views.items_of_clicks`.
    """
    in_tables = table.select("item_id", F.lit(True).alias("in_tables")).distinct()
    clicked = clicked_items.select("item_id", F.lit(True).alias("clicked")).distinct()
    either = in_tables.join(clicked, "item_id", "full")
    row = either.agg(
        F.count("in_tables").alias("in_tables"),
        F.count("clicked").alias("clicked"),
        F.count("*").alias("all"),
    ).first()
    assert row is not None  # an aggregate has a row
    return {
        "in item tables": row["in_tables"],
        "never clicked": row["all"] - row["clicked"],
        "clicked, in no item table": row["all"] - row["in_tables"],
    }


def titles(table: DataFrame | None) -> DataFrame | None:
    """item_id, title; of several titles the one that most rows say."""
    if table is None:
        return None
    # Between two that as many rows say, the later one in the alphabet.
    most_said = F.max_by("value", F.struct("weight", "value"))
    by_item = table.where(F.col("attribute").isNull()).groupBy("item_id")
    return by_item.agg(most_said.alias("title"))


def _used_tables(source: Source) -> dict[str, ItemTable]:
    """Option -> item table, of those that give attributes or titles."""
    return {
        f"source.items[{number}]": table
        for number, table in enumerate(source.items)
        if table.attributes or table.title
    }


def _values_of_table(
    spark: SparkSession, source: Source, option: str, observation: Observation | None
) -> DataFrame:
    """item_id, attribute, value: all that an item table says, a row for each value in each of its
    rows."""
    table = _used_tables(source)[option]
    rows = read_rows(spark, table)
    id_column = source_column(rows, table.item_id, f"{option}.item_id", table)
    item = identifier(id_column, type_of(rows, id_column), source)
    values = []
    for name, text in table.attributes.items():
        column = source_column(rows, text, f"{option}.attributes.{name}", table)
        values.append(_pairs(rows, name, column, source.whole_numbers))
    if table.title:
        column = source_column(rows, table.title, f"{option}.title", table)
        values.append(_pairs(rows, None, column, source.whole_numbers))
    # Where a row is malformed its fields may be anything, on which an expression may fail.
    whole = F.col(MALFORMED).isNull()
    pairs_of_rows = rows.select(
        SOURCE_FILE,
        MALFORMED,
        F.when(whole, item).alias("item_id"),
        F.when(whole, F.concat(*values)).alias("pairs"),
    )
    if observation is not None:
        pairs_of_rows = pairs_of_rows.observe(observation, *_row_counts())
    with_item = pairs_of_rows.where(F.col("item_id").isNotNull())
    each = with_item.select("item_id", F.explode("pairs").alias("pair"))
    return each.select("item_id", "pair.attribute", "pair.value").where(F.col("value").isNotNull())


def _row_counts() -> Iterator[Column]:
    """What `item_rows` and `item_examples` tell of an item table."""
    malformed = F.col(MALFORMED).isNotNull()
    no_item = ~malformed & F.col("item_id").isNull()
    # Not the whole row: columns that nobody asked for would have to be read.
    example = F.struct(F.coalesce(MALFORMED, F.to_json("pairs")), SOURCE_FILE)
    yield F.count("*").alias("rows")
    for reason, holds in zip(ITEM_REASONS, (malformed, no_item), strict=True):
        yield F.count(F.when(holds, True)).alias(reason)
        yield F.min(F.when(holds, example)).alias(reason + _EXAMPLE)


def _pairs(rows: DataFrame, attribute: str | None, column: Column, whole_numbers: bool) -> Column:
    """array<struct<attribute, value>>: the values, as text, of a column that may be an array."""
    name = F.lit(attribute).cast("string").alias("attribute")
    type_ = type_of(rows, column)
    if not isinstance(type_, ArrayType):
        text = as_text(column, type_, whole_numbers)
        return F.array(F.struct(name, text.alias("value")))

    def pair(value: Column) -> Column:
        text = as_text(value, type_.elementType, whole_numbers)
        return F.struct(name, text.alias("value"))

    # Of a null array nothing is known, which an empty one says too.
    values = F.coalesce(column, F.array().cast(type_))
    return F.transform(values, pair)
