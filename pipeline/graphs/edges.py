"""The graph of each view, and the links between items and values (paper section 3.1, "Graph
construction")."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.graphs.sequences import before, nodes
from pipeline.graphs.vocabulary import in_use


def edges(sessions: DataFrame, view: str, vocabulary: DataFrame) -> DataFrame:
    """source, target, weight: how often a user went from one node to the next, over the user's
    whole history.

    Reads `sequences.sessions`: within a session a step leads to each node from the one before; to
    its first node from the user's last node in an earlier session, unless it is the same. So there
    are no self-loops.
    """
    steps = sessions.select(before(view), nodes(view), F.posexplode(nodes(view)).alias("at", "to"))
    begins = F.when(F.col("at") == 0, F.col(before(view))).otherwise(
        F.get(nodes(view), F.col("at") - 1)
    )
    between = steps.select(begins.alias("from"), "to").where(F.col("from") != F.col("to"))
    counted = between.groupBy("from", "to").agg(F.count("*").alias("weight"))
    source = vocabulary.select(F.col("row").alias("from"), F.col("id").alias("source"))
    target = vocabulary.select(F.col("row").alias("to"), F.col("id").alias("target"))
    return (
        counted.join(source, "from", "inner")
        .join(target, "to", "inner")
        .select("source", "target", "weight")
    )


def links(values: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, value_id, weight = clicks on the item: each item in use with all its values that are
    in use in their vocabulary."""
    pairs = values.select("item_id", F.explode("values.value").alias("value_id"))
    clicked = in_use(items).select(F.col("id").alias("item_id"), F.col("count").alias("weight"))
    return (
        pairs.join(clicked, "item_id", "inner")
        .join(in_use(value_nodes).select(F.col("id").alias("value_id")), "value_id", "left_semi")
        .select("item_id", "value_id", "weight")
    )
