"""The graph of each view, and the links between items and values (paper section 3.1, "Graph
construction")."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.graphs.sequences import before, nodes
from pipeline.graphs.vocabulary import nodes_in_use


def directed_edges(sessions: DataFrame, view: str, vocabulary: DataFrame) -> DataFrame:
    """source, target, weight: how often a user went from one node to the next, over the user's
    whole history.

    Reads `sequences.sessions`: within a session a step leads to each node from the one before; to
    its first node from the user's last node in an earlier session, unless it is the same. So there
    are no self-loops. An edge is directed, and its weight counts its steps.

    >>> visited = rows("nodes_item array<int>, before_item int",
    ...                ([0, 1, 0, 1], None), ([1, 2], 1))
    >>> shown(directed_edges(visited, "item", nodes("a", "b", "c")))
    source target weight
    a      b      2
    b      a      1
    b      c      1
    """
    steps = sessions.select(before(view), nodes(view), F.posexplode(nodes(view)).alias("at", "to"))
    in_session = F.get(nodes(view), F.col("at") - 1)
    begin = F.when(F.col("at") == 0, F.col(before(view))).otherwise(in_session)
    # A first node of which nothing is known before is a step from null, and is left out here too.
    moves = steps.select(begin.alias("from"), "to").where(F.col("from") != F.col("to"))
    counted = moves.groupBy("from", "to").agg(F.count("*").alias("weight"))
    source = vocabulary.select(F.col("row").alias("from"), F.col("id").alias("source"))
    target = vocabulary.select(F.col("row").alias("to"), F.col("id").alias("target"))
    named = counted.join(source, "from", "inner").join(target, "to", "inner")
    return named.select("source", "target", "weight")


def item_links(values: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, value_id, weight = clicks on the item: each item in use with all its values that are
    in use in their vocabulary.

    >>> values = rows("item_id string, values array<struct<value string>>",
    ...               ("a", [("x",), ("y",)]), ("b", [("x",)]), ("c", [("z",)]))
    >>> shown(item_links(values, nodes("a", "b", "c"), nodes("x", "y")))
    item_id value_id weight
    a       x        3
    a       y        3
    b       x        2
    """
    pairs = values.select("item_id", F.explode("values.value").alias("value_id"))
    clicked_items = nodes_in_use(items)
    weights = clicked_items.select(F.col("id").alias("item_id"), F.col("count").alias("weight"))
    clicked_values = nodes_in_use(value_nodes).select(F.col("id").alias("value_id"))
    weighted = pairs.join(weights, "item_id", "inner")
    linked = weighted.join(clicked_values, "value_id", "left_semi")
    return linked.select("item_id", "value_id", "weight")
