"""The graph of each view, and the links between items and values (paper section 3.1, "Graph construction")."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.views import node
from pipeline.vocabulary import row


def edges(train: DataFrame, view: str) -> DataFrame:
    """source, target, weight: how often a user went from one node to the next, over the user's whole history.

    Clicks outside the vocabulary are passed over, consecutive duplicates removed; so there are no self-loops.
    """
    inside = F.when(F.col(row(view)).isNotNull(), F.col(node(view)))
    before = F.expr("lag(target) IGNORE NULLS OVER (PARTITION BY user_id ORDER BY position)")
    steps = train.select("user_id", "position", inside.alias("target")).withColumn("source", before)
    # Null where a click is outside the vocabulary or the first one.
    return steps.where(F.col("source") != F.col("target")).groupBy("source", "target").agg(F.count("*").alias("weight"))


def links(values: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, value_id, weight = clicks on the item: each item of the vocabulary with all its values that are in theirs."""
    pairs = values.select("item_id", F.explode("values.value").alias("value_id"))
    clicked = items.select(F.col("id").alias("item_id"), F.col("count").alias("weight"))
    return (
        pairs.join(clicked, "item_id", "inner")
        .join(value_nodes.select(F.col("id").alias("value_id")), "value_id", "left_semi")
        .select("item_id", "value_id", "weight")
    )
