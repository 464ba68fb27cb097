"""Graphs, walks and edge lists in Spark, on hand-made graphs side by side in one table of edges."""

from collections import Counter
from collections.abc import Iterator

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.config import View
from pipeline.graphs import walks
from pipeline.graphs.walks_in_memory import stream_key
from tests.pipeline.graphs.test_walks_in_memory import Edges, both_ways, walked

# fmt: off
EDGES = {
    ("path0", "path1"): 1, ("path1", "path2"): 1, ("path2", "path3"): 2,
    ("a", "b"): 1, ("b", "a"): 2, ("b", "c"): 5, ("c", "a"): 2, ("c", "d"): 1,
    ("into", "sink"): 3,
    # A hub: its line is much longer than a bucket, and so is one of its edges.
    **{("hub", f"leaf{number}"): 1 for number in range(90)},
    ("leaf7", "hub"): 400, ("leaf8", "leaf9"): 1,
    # Nodes that are not in use: one is in the vocabulary, one is not.
    ("a", "old"): 50, ("unknown", "b"): 50,
}
# fmt: on
IDS = sorted({node for edge in EDGES for node in edge} - {"unknown"}, key=lambda name: name[::-1])
ROWS = {name: row for row, name in enumerate(IDS)}
USED = {
    (ROWS[a], ROWS[b]): weight
    for (a, b), weight in EDGES.items()
    if not {a, b} & {"old", "unknown"}
}


@pytest.fixture(scope="module")
def edges(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(
        [(*edge, weight) for edge, weight in EDGES.items()],
        "source string, target string, weight long",
    )


@pytest.fixture(scope="module")
def nodes(spark: SparkSession) -> DataFrame:
    rows = [(name, row, 0 if name == "old" else 1) for name, row in ROWS.items()]
    return spark.createDataFrame(rows, "id string, row int, count long")


@pytest.fixture
def partitions(spark: SparkSession, request: pytest.FixtureRequest) -> Iterator[int]:
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", str(request.param))
    yield request.param
    spark.conf.set("spark.sql.shuffle.partitions", str(before))


def kept(_: str, frame: DataFrame) -> DataFrame:
    return frame.localCheckpoint()


def refused(name: str, _: DataFrame) -> DataFrame:
    raise AssertionError(f"'{name}' was kept: no joins were to be made")


def rows_of(found: DataFrame) -> list[tuple[int, list[int]]]:
    return sorted((row["walk_id"], row["nodes"]) for row in found.collect())


def test_a_graph_holds_nodes_in_use_and_both_directions_unless_directed(
    edges: DataFrame, nodes: DataFrame
) -> None:
    options = {"directed": (True, True), "undirected": (False, True), "unweighted": (False, False)}
    frames = [
        walks.adjacency(edges, nodes, *option).withColumn("option", F.lit(name))
        for name, option in options.items()
    ]
    found: dict[str, Edges] = {name: {} for name in options}
    for row in frames[0].unionByName(frames[1]).unionByName(frames[2]).collect():
        found[row["option"]][row["node"], row["neighbour"]] = row["weight"]
    assert found["directed"] == USED
    assert found["undirected"] == both_ways(USED)
    assert found["undirected"][ROWS["a"], ROWS["b"]] == 3
    assert found["unweighted"] == dict.fromkeys(both_ways(USED), 1)


WALKS = {"walks_per_node": 2, "length": 4}
DEEPWALK = View(sequences="walks", directed=True, walks=WALKS)
NODE2VEC = View(sequences="walks", walks=WALKS | {"p": 0.5, "q": 1.25})


@pytest.mark.parametrize("partitions", [1, 2, 5], indirect=True)
def test_walks_over_a_small_graph_are_the_same_for_any_partitions(
    edges: DataFrame, nodes: DataFrame, partitions: int
) -> None:
    found = rows_of(walks.walks(edges.repartition(partitions), nodes, NODE2VEC, 7, "item", refused))
    assert found == walked(both_ways(USED), NODE2VEC.walks, key=stream_key(7, "item"))
    used = sorted({node for edge in USED for node in edge})
    assert [(walk_id, nodes[0]) for walk_id, nodes in found] == [
        (2 * node + number, node) for node in used for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("partitions", "view"),
    [(1, DEEPWALK), (5, NODE2VEC)],
    indirect=["partitions"],
    ids=["deepwalk", "node2vec"],
)
def test_joins_walk_a_large_graph_in_the_same_way(
    edges: DataFrame, nodes: DataFrame, partitions: int, view: View
) -> None:
    large = view.model_copy(
        update={"walks": view.walks.model_copy(update={"broadcast_edges": len(EDGES) - 1})}
    )
    found = rows_of(walks.walks(edges.repartition(partitions), nodes, large, 7, "item", kept))
    assert found == walked(
        USED if view.directed else both_ways(USED), view.walks, key=stream_key(7, "item")
    )


def test_a_graph_without_edges_has_no_walk(edges: DataFrame, nodes: DataFrame) -> None:
    assert walks.walks(edges.limit(0), nodes, NODE2VEC, 7, "item", refused).collect() == []


def test_an_edge_list_holds_every_edge_as_often_as_it_weighs(
    edges: DataFrame, nodes: DataFrame
) -> None:
    one_way, two_ways = (
        walks.edge_rows(edges, nodes, directed, contexts=16).withColumn("directed", F.lit(directed))
        for directed in (True, False)
    )
    rows = one_way.unionByName(two_ways).collect()
    for directed, expected in ((True, USED), (False, both_ways(USED))):
        found = [row for row in rows if row["directed"] == directed]
        assert (
            Counter((row["centre"], context) for row in found for context in row["contexts"])
            == expected
        )
        assert max(len(row["contexts"]) for row in found) <= 16
        assert max(Counter((row["centre"], row["piece"]) for row in found).values()) == 1
    # The hub's 490 contexts are spread over 31 rows, and so are the 401 of its heavy edge.
    hub = [row["contexts"] for row in rows if row["centre"] == ROWS["hub"] and not row["directed"]]
    assert {len(contexts) for contexts in hub} == {15, 16}
    assert {contexts.count(ROWS["leaf7"]) for contexts in hub} == {12, 13}
