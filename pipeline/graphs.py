"""The graph of each view, and the links between items and values (paper section 3.1, "Graph construction")."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.vocabulary import in_use, previous, row


def edges(occurrences: DataFrame, view: str, nodes: DataFrame) -> DataFrame:
    """source, target, weight: how often a user went from one node to the next, over the user's whole history.

    Clicks outside the vocabulary are passed over, consecutive duplicates removed; so there are no self-loops.
    """
    steps = occurrences.select(F.col(f"{previous(view)}.row").alias("from"), F.col(row(view)).alias("to"))
    # Null where a click is outside the vocabulary or the user's first one.
    counted = steps.where(F.col("from") != F.col("to")).groupBy("from", "to").agg(F.count("*").alias("weight"))
    source = nodes.select(F.col("row").alias("from"), F.col("id").alias("source"))
    target = nodes.select(F.col("row").alias("to"), F.col("id").alias("target"))
    return counted.join(source, "from", "inner").join(target, "to", "inner").select("source", "target", "weight")


def links(values: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, value_id, weight = clicks on the item: each item in use with all its values that are in use in their vocabulary."""
    pairs = values.select("item_id", F.explode("values.value").alias("value_id"))
    clicked = in_use(items).select(F.col("id").alias("item_id"), F.col("count").alias("weight"))
    return (
        pairs.join(clicked, "item_id", "inner")
        .join(in_use(value_nodes).select(F.col("id").alias("value_id")), "value_id", "left_semi")
        .select("item_id", "value_id", "weight")
    )
