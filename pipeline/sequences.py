"""Node sequences and their skip-gram pairs, in the two encodings of pipeline/manifest.py.

A row's key and the seed decide where it lies: file = hash mod files, sorted by hash within. So the i-th file of the same input is the
same, whatever the number of cores and partitions.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.vocabulary import previous, row

FILE, HASH = "file", "hash"
SESSION = ("user_id", "session_id")


def sessions(occurrences: DataFrame, views: list[str]) -> DataFrame:
    """One row a session: user_id, session_id, and for each view `nodes_<view>`: the rows of its nodes in click order, without those
    outside the vocabulary and then without consecutive duplicates."""
    lists = []
    for view in views:
        before = F.col(previous(view))
        again = (before["row"] == F.col(row(view))) & (before["first"] == F.col("position") - F.col("session_position"))
        new = F.when(F.col(row(view)).isNotNull() & ~F.coalesce(again, F.lit(False)), F.struct("session_position", row(view)))
        lists.append(F.sort_array(F.collect_list(new))[row(view)].alias(f"nodes_{view}"))
    return occurrences.groupBy(*SESSION).agg(*lists)


def windows(sessions: DataFrame, view: str) -> DataFrame:
    """user_id, session_id, nodes. Sequences of one node have no pairs and are left out."""
    return sessions.select(*SESSION, F.col(f"nodes_{view}").alias("nodes")).where(F.size("nodes") > 1)


def pairs(windows: DataFrame, window: int) -> DataFrame:
    """user_id, session_id, position, centre, contexts: each node of a sequence with the nodes at most `window` away, in their order."""
    centres = windows.select(*SESSION, "nodes", F.posexplode("nodes").alias("position", "centre"))
    before = F.slice("nodes", F.greatest(F.col("position") - window, F.lit(0)) + 1, F.least("position", F.lit(window)))
    after = F.slice("nodes", F.col("position") + 2, window)
    return centres.select(*SESSION, "position", "centre", F.concat(before, after).alias("contexts"))


def link_rows(links: DataFrame, items: DataFrame, value_nodes: DataFrame) -> DataFrame:
    """item_id, centre, contexts: each item's row with the rows of all values linked to it, in ascending order."""
    item = items.select(F.col("id").alias("item_id"), F.col("row").alias("centre"))
    value = value_nodes.select(F.col("id").alias("value_id"), F.col("row").alias("context"))
    joined = links.join(item, "item_id", "inner").join(value, "value_id", "inner")
    return joined.groupBy("item_id", "centre").agg(F.sort_array(F.collect_list("context")).alias("contexts"))


def click_rows(train: DataFrame, link_rows: DataFrame) -> DataFrame:
    """user_id, session_id, position, centre, contexts: a row of `link_rows` for every click on its item."""
    clicked = train.select(*SESSION, F.col("session_position").alias("position"), "item_id")
    return clicked.join(link_rows, "item_id", "inner").select(*SESSION, "position", "centre", "contexts")


def shuffled(rows: DataFrame, key: list[str], columns: list[str], files: int, seed: int) -> DataFrame:
    """The columns of rows in files of pseudo-random order; `file` is the number of each row's file."""
    hashed = rows.withColumn(HASH, F.xxhash64(*key, F.lit(seed)))
    placed = hashed.withColumn(FILE, F.pmod(HASH, F.lit(files)).cast("int"))
    return placed.repartition(files, FILE).sortWithinPartitions(FILE, HASH, *key).select(FILE, *columns)
