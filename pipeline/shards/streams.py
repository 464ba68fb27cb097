"""Sequences and links -> the rows that training reads, in the two encodings of
pipeline/contracts/shards.py.

A row's key and the seed decide where it lies: file = hash mod files, sorted by hash within. So the
i-th file of the same input is the same, whatever the number of cores and partitions.
"""

from collections.abc import Iterable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION
from pipeline.config import ITEM_VIEW
from pipeline.contracts.statistics import TRAIN
from pipeline.graphs.sequences import POSITION, nodes
from pipeline.graphs.vocabulary import row

HASH = "hash"


def windows(sessions: DataFrame, view: str) -> DataFrame:
    """The columns of `SESSION`, nodes. Sequences of one node have no pairs and are left out."""
    sequences = sessions.select(*SESSION, F.col(nodes(view)).alias("nodes"))
    return sequences.where(F.size("nodes") > 1)


def pairs(windows: DataFrame, key: Sequence[str], window: int) -> DataFrame:
    """The key of a sequence, position, centre, contexts: each node of a sequence with the nodes at
    most `window` away, in their order (paper eq. 1, context window c).

    >>> shown(pairs(rows("s string, nodes array<int>", ("s", [3, 0, 7, 1])), ["s"], 2))
    s position centre contexts
    s 0        3      [0, 7]
    s 1        0      [3, 7, 1]
    s 2        7      [3, 0, 1]
    s 3        1      [0, 7]
    """
    centres = windows.select(*key, "nodes", F.posexplode("nodes").alias("position", "centre"))
    # Spark's lists begin at 1, positions at 0.
    first = F.greatest(F.col("position") - window, F.lit(0)) + 1
    before = F.slice("nodes", first, F.least("position", F.lit(window)))
    after = F.slice("nodes", F.col("position") + 2, window)
    contexts = F.concat(before, after)
    return centres.select(*key, "position", "centre", contexts.alias("contexts"))


def link_rows(links: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, centre, contexts: each item's row with the rows of all values linked to it, in
    ascending order."""
    item = items.select(F.col("id").alias("item_id"), F.col("row").alias("centre"))
    value = value_nodes.select(F.col("id").alias("value_id"), F.col("row").alias("context"))
    joined = links.join(item, "item_id", "inner").join(value, "value_id", "inner")
    contexts = F.sort_array(F.collect_list("context"))
    return joined.groupBy("item_id", "centre").agg(contexts.alias("contexts"))


def click_rows(occurrences: DataFrame, link_rows: DataFrame) -> DataFrame:
    """The columns of `SESSION`, session_position, centre, contexts: a row of `link_rows` for each
    training click on its item."""
    in_vocabulary = F.col(row(ITEM_VIEW)).isNotNull()
    trained = occurrences.where((F.col("part") == TRAIN) & in_vocabulary)
    clicked = trained.select(*SESSION, POSITION, "item_id")
    linked = clicked.join(link_rows, "item_id", "inner")
    return linked.select(*SESSION, POSITION, "centre", "contexts")


def shuffled(
    rows: DataFrame, key: Iterable[str], columns: list[str], files: int, seed: int
) -> DataFrame:
    """The columns of rows in pseudo-random order; the rows of partition i are those of file i."""
    hashed = rows.withColumn(HASH, F.xxhash64(*key, F.lit(seed)))
    file = F.pmod(HASH, F.lit(files)).cast("int")
    dealt = hashed.repartitionById(files, file)
    # The hash stands first: Spark then compares rows by one number.
    return dealt.sortWithinPartitions(HASH, *key).select(*columns)
