"""Node sequences from a view's graph: random walks (DeepWalk, node2vec) and edge lists (LINE).
Paper section 3.1, "Node sequence sampling".

A node's edges lie side by side on a line of integers, in the order of the neighbours' rows, each as
long as it weighs. A step draws a point of that line and goes to the neighbour whose interval holds
it. Every draw is a hash of (seed, view, start, number of the walk, step, trial), so that a walk
depends on nothing else: not on partitions, cores, or which of the two ways below computes it.

- A graph of at most `broadcast_edges` edges is sent to the Python workers as arrays and walked
  there, batch by batch, with no shuffle.
- A larger one stays distributed: a round of joins moves every walk on by one draw. A walk carries
  the total weight of its node and looks up one bucket of BUCKET points of the line: no walk meets a
  hub's whole list of edges, and those on a hub are spread over its buckets.

node2vec's weights depend on the node before (Grover & Leskovec 2016, section 3.2.2). The edge back
is drawn with its exact share. Any other is drawn by weight and accepted with probability 1 where it
leads to a neighbour of the node before, with 1/q elsewhere (both scaled so that the larger is 1),
else drawn again. That is exact, takes at most max(q, 1/q) draws a step on average, and asks of the
node before only whether it has one neighbour.
"""

from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import View, Walks
from pipeline.graphs.vocabulary import nodes_in_use
from pipeline.graphs.walks_in_memory import (
    ACCEPT,
    BACK,
    NEXT,
    Graph,
    accepts,
    goes_back,
    is_biased,
    stream_key,
    walk_batch,
)

KeepAs = Callable[[str, DataFrame], DataFrame]
"""Writes a frame under a name and reads it back, such as `Lake.scratch`."""

BUCKET = 64
"""Points of a node's line that one lookup reads: at most so many edges, as each weighs 1 or
more."""
CONTEXTS = 16
"""Most contexts in a row of an edge list: about what a node of a session has within the window."""
CELLS = 1 << 22
"""Nodes of the walks that a Python worker holds at a time: 16 MiB."""
LIST = 1 << 16
"""Longest list of numbers that becomes rows at once."""


def walks(
    edges: DataFrame, nodes: DataFrame, settings: View, seed: int, view: str, keep: KeepAs
) -> DataFrame:
    """walk_id: long, nodes: array<int>: random walks over a view's graph, as rows of its
    vocabulary.

    `edges` is source, target, weight by raw id, `nodes` the view's vocabulary. A walk's id is its
    start · walks_per_node + its number. Nodes that no edge leaves start no walk. Where the graph is
    too large to be sent, `keep` writes each round's state.
    """
    rules = settings.walks
    graph = adjacency(edges, nodes, settings.directed, rules.weighted)
    key = stream_key(seed, view)
    if edges.count() <= rules.broadcast_edges:
        return _walks_by_broadcast(graph, rules, key)
    return _walks_by_joins(graph, rules, key, view, keep)


def edge_rows(
    edges: DataFrame, nodes: DataFrame, directed: bool, contexts: int = CONTEXTS
) -> DataFrame:
    """centre: int, piece: long, contexts: array<int>: every edge as often as it weighs; unless
    directed, both ways.

    LINE draws edges in proportion to their weight (Tang et al. 2015, section 4.2; an undirected
    edge is two directed ones): an epoch over these rows meets every edge just so often. There are
    as many pairs as the graph's total weight, or twice that. They are the pairs that a window of 1
    over users' whole histories has; sessions lack those that cross from one session to the next. A
    row has at most `contexts` contexts. A node's points are dealt to its rows in turn, so that the
    repeats of a heavy edge lie far apart once rows are shuffled.
    """
    # Rows that a node's points take, rounded up.
    pieces = F.expr(f"(total + {contexts - 1}) DIV {contexts}")
    dealt = line_intervals(adjacency(edges, nodes, directed)).withColumn("pieces", pieces)
    # An edge's first points lie in so many different rows; in each of them it is repeated.
    touched = _numbered(dealt, F.least("weight", "pieces"), "turn")
    repeats = F.expr("CAST((weight - turn + pieces - 1) DIV pieces AS int)")
    piece = F.pmod(F.col("low") + F.col("turn"), "pieces")
    rows = touched.select(
        F.col("node").alias("centre"),
        piece.alias("piece"),
        F.array_repeat("neighbour", repeats).alias("same"),
    )
    in_order = F.sort_array(F.flatten(F.collect_list("same")))
    return rows.groupBy("centre", "piece").agg(in_order.alias("contexts"))


def adjacency(
    edges: DataFrame, nodes: DataFrame, directed: bool, weighted: bool = True
) -> DataFrame:
    """node: int, neighbour: int, weight: long: the graph by row of the vocabulary, from each node
    that has a neighbour in use.

    Unless directed, both directions of an edge are summed and it stands in both. Unless weighted,
    every weight is 1.
    """
    rows = nodes_in_use(nodes)
    source = rows.select(F.col("id").alias("source"), F.col("row").alias("node"))
    target = rows.select(F.col("id").alias("target"), F.col("row").alias("neighbour"))
    joined = edges.join(source, "source", "inner").join(target, "target", "inner")
    forth = joined.select("node", "neighbour", "weight")
    node, neighbour = F.col("neighbour").alias("node"), F.col("node").alias("neighbour")
    back = forth.select(node, neighbour, "weight")
    both = forth if directed else forth.unionByName(back)
    weight = F.sum("weight") if weighted else F.lit(1).cast("long")
    return both.groupBy("node", "neighbour").agg(weight.alias("weight"))


def line_intervals(graph: DataFrame) -> DataFrame:
    """Adds to `adjacency`, as long, where the edge begins on its node's line, `low`, and how long
    the line is, `total`.

    One task sorts all edges of a node. Those of a hub are at most as many as there are nodes, and
    Spark spills them to disk.
    """
    so_far = "PARTITION BY node ORDER BY neighbour ROWS UNBOUNDED PRECEDING"
    low = F.expr(f"CAST(sum(weight) OVER ({so_far}) AS long) - weight")
    total = F.expr("CAST(sum(weight) OVER (PARTITION BY node) AS long)")
    return graph.select("node", "neighbour", "weight", low.alias("low"), total.alias("total"))


def _numbered(frame: DataFrame, count: Column, name: str) -> DataFrame:
    """Each row `count` times, with the numbers 0 to count - 1 in the column `name`."""
    counted = frame.withColumn("count", count.cast("long"))
    # In blocks, because one list of all numbers may be longer than a row can be.
    block_numbers = F.expr(f"sequence(0L, (count - 1) DIV {LIST})")
    blocks = counted.withColumn("block", F.explode(block_numbers))
    first = F.col("block") * LIST
    last = F.least(F.col("count"), (F.col("block") + 1) * LIST) - 1
    numbered = blocks.withColumn(name, F.explode(F.sequence(first, last)))
    return numbered.drop("count", "block")


def _walks_by_broadcast(graph: DataFrame, settings: Walks, key: int) -> DataFrame:
    """The walks over a graph that fits the driver and every Python worker."""
    spark = graph.sparkSession
    columns = graph.select("node", "neighbour", "weight").toArrow().columns
    arrays = Graph.of(*(column.to_numpy() for column in columns))
    starts = spark.range(0, arrays.size, 1, _partitions(spark))
    sent = spark.sparkContext.broadcast(arrays)

    def each(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        cells_of_a_start = settings.walks_per_node * settings.length
        several = max(1, CELLS // cells_of_a_start)
        for batch in batches:
            for begin in range(0, batch.num_rows, several):
                some = batch.column(0).slice(begin, several)
                yield walk_batch(sent.value, some.to_numpy(), key, settings)

    return starts.mapInArrow(each, "walk_id long, nodes array<int>")


# Walks by joins.

WALK_STATE = ("start", "walk", "step", "trial", "node", "previous", "total", "back", "back_low")
"""A walk under way: its node at `step`; `trial` draws of the next one were refused; `total` is the
length of the node's line, `back` the weight of the edge back to the previous node and `back_low`
where on the line it begins (both 0 where there is none)."""


def _walks_by_joins(
    graph: DataFrame, settings: Walks, key: int, view: str, keep: KeepAs
) -> DataFrame:
    """The walks over a graph of any size. Each round, kept as `walks_<view>_<round>`, draws once
    for every walk under way."""
    edges = keep(f"walks_{view}_edges", line_intervals(graph))
    lookup, neighbours = _lookup(edges, settings).persist(), _pairs(edges).persist()
    alive = F.expr(f"total > 0 AND step < {settings.length - 1}")
    rounds = [keep(f"walks_{view}_0", _starts(edges, settings))]
    try:
        while not rounds[-1].where(alive).isEmpty():
            moved = _round(rounds[-1].where(alive), lookup, neighbours, settings, key)
            rounds.append(keep(f"walks_{view}_{len(rounds)}", moved))
    finally:
        lookup.unpersist()
        neighbours.unpersist()
    return _gathered(rounds, settings)


def _starts(edges: DataFrame, settings: Walks) -> DataFrame:
    """The WALK_STATE of all walks at their first node."""
    zero, zero_long = F.lit(0), F.lit(0).cast("long")
    numbers = F.sequence(zero, F.lit(settings.walks_per_node - 1))
    # One edge of each node begins its line.
    walks = edges.where("low = 0").withColumn("walk", F.explode(numbers))
    node, nowhere = F.col("node"), F.lit(None).cast("int")
    draws = (node, F.col("walk"), zero, zero)
    line = (node, nowhere, F.col("total"), zero_long, zero_long)
    values = zip((*draws, *line), WALK_STATE, strict=True)
    return walks.select(*(value.alias(name) for value, name in values))


def _lookup(edges: DataFrame, settings: Walks) -> DataFrame:
    """at, bucket, low, high: each edge in each bucket of its node's line that it reaches into; and
    what a walk takes along on it: to, next_total, next_back, next_back_low."""
    reached = F.expr(f"(low + weight - 1) DIV {BUCKET} - low DIV {BUCKET} + 1")
    in_buckets = _numbered(_with_next(edges, settings), reached, "offset")
    bucket = F.expr(f"low DIV {BUCKET} + offset")
    high = F.col("low") + F.col("weight")
    zero = F.lit(0).cast("long")
    taken_along = ("next_total", "next_back", "next_back_low")
    rows = in_buckets.select(
        F.col("node").alias("at"),
        bucket.alias("bucket"),
        "low",
        high.alias("high"),
        F.col("neighbour").alias("to"),
        *(F.coalesce(name, zero).alias(name) for name in taken_along),
    )
    return _kept_together(rows, "at", "bucket")


def _with_next(edges: DataFrame, settings: Walks) -> DataFrame:
    """Adds to `line_intervals` the `total` of the neighbour, and the weight and begin of the edge
    back on its line; null where it has none."""
    neighbour, next_total = F.col("node").alias("neighbour"), F.col("total").alias("next_total")
    totals = edges.where("low = 0").select(neighbour, next_total)
    carried = edges.join(totals, "neighbour", "left")
    if not is_biased(settings):
        unknown = F.lit(None).cast("long")
        return carried.withColumns({"next_back": unknown, "next_back_low": unknown})
    back = edges.select(
        F.col("neighbour").alias("node"),
        F.col("node").alias("neighbour"),
        F.col("weight").alias("next_back"),
        F.col("low").alias("next_back_low"),
    )
    return carried.join(back, ["node", "neighbour"], "left")


def _pairs(edges: DataFrame) -> DataFrame:
    """previous, to, near = true: which nodes are neighbours."""
    previous, to = F.col("node").alias("previous"), F.col("neighbour").alias("to")
    pairs = edges.select(previous, to, F.lit(True).alias("near"))
    return _kept_together(pairs, "previous", "to")


def _kept_together(rows: DataFrame, *key: str) -> DataFrame:
    """Where a join by the key will look for them, and in its order: a persisted frame keeps both,
    so no round moves it again."""
    return rows.repartition(_partitions(rows.sparkSession), *key).sortWithinPartitions(*key)


def _partitions(spark: SparkSession) -> int:
    return int(spark.conf.get("spark.sql.shuffle.partitions") or 1)


def _round(
    state: DataFrame, lookup: DataFrame, neighbours: DataFrame, settings: Walks, key: int
) -> DataFrame:
    """The WALK_STATE of walks under way after one more draw: a step further, or where they were and
    a trial further."""
    drawn = state.withColumn("returns", _returns(settings, key)).withColumn("point", _point(key))
    point = F.col("point")
    in_bucket = (F.col("node") == F.col("at")) & (F.expr(f"point DIV {BUCKET}") == F.col("bucket"))
    on_edge = (point >= F.col("low")) & (point < F.col("high"))
    candidates = drawn.join(lookup, in_bucket & on_edge, "inner")
    if settings.q == 1:
        return _moved(candidates, F.lit(True), settings)
    # A first step looks at weights alone, and the edge back was drawn with its exact share.
    is_exact = F.col("previous").isNull() | F.col("returns")
    bias = F.when(F.col("near"), 1.0).otherwise(1.0 / settings.q)
    accepted = is_exact | accepts(_uniform_column(key, ACCEPT), bias, settings)
    return _moved(candidates.join(neighbours, ["previous", "to"], "left"), accepted, settings)


def _moved(candidates: DataFrame, accepted: Column, settings: Walks) -> DataFrame:
    """The WALK_STATE of walks, those that accepted their candidate at their next node."""
    previous = F.col("node") if is_biased(settings) else F.lit(None).cast("int")
    there = (
        F.col("step") + 1,
        F.lit(0),
        F.col("to"),
        previous,
        F.col("next_total"),
        F.col("next_back"),
        F.col("next_back_low"),
    )
    here = (F.col("step"), F.col("trial") + 1, *(F.col(name) for name in WALK_STATE[4:]))
    columns = (
        F.when(accepted, new).otherwise(old).alias(name)
        for name, new, old in zip(WALK_STATE[2:], there, here, strict=True)
    )
    return candidates.select("start", "walk", *columns)


def _bits(key: int, what: int) -> Column:
    draw = [F.col(name) for name in WALK_STATE[:4]]
    fields = [F.lit(key), *draw, F.lit(what)]
    # As longs, which walks_in_memory hashes too.
    return F.xxhash64(*(field.cast("long") for field in fields))


def _uniform_column(key: int, what: int) -> Column:
    """[0, 1), from the upper 53 bits of a draw."""
    upper_bits = F.shiftrightunsigned(_bits(key, what), 11)
    return upper_bits.cast("double") * F.lit(2.0**-53)


def _returns(settings: Walks, key: int) -> Column:
    uniform = _uniform_column(key, BACK)
    back: Column = goes_back(uniform, F.col("back"), F.col("total"), settings)
    return F.col("previous").isNotNull() & back


def _point(key: int) -> Column:
    """The point of the node's line that is drawn: the edge back where the walk returns, else any
    but that edge's."""
    # The line without the edge back, which may be all of it.
    length = F.greatest(F.col("total") - F.col("back"), F.lit(1))
    point = F.pmod(_bits(key, NEXT), length)
    skipped = F.when(point >= F.col("back_low"), F.col("back")).otherwise(0)
    other = point + skipped
    return F.when(F.col("returns"), F.col("back_low")).otherwise(other)


def _gathered(rounds: list[DataFrame], settings: Walks) -> DataFrame:
    """The walks of two nodes or more, from the rounds in which each of them arrived at its
    nodes."""
    arrivals = rounds[0]
    for later in rounds[1:]:
        arrivals = arrivals.unionByName(later)
    steps = F.collect_list(F.struct("step", "node"))
    nodes = F.sort_array(steps)["node"]
    # A refused draw left the walk where it was.
    by_walk = arrivals.where("trial = 0").groupBy("start", "walk")
    gathered = by_walk.agg(nodes.alias("nodes")).where(F.size("nodes") > 1)
    walk_id = F.col("start").cast("long") * settings.walks_per_node + F.col("walk")
    return gathered.select(walk_id.alias("walk_id"), "nodes")
