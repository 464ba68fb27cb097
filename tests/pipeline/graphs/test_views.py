"""Values of attributes, vocabularies, graphs and sequences on hand-computed frames."""

from collections import Counter
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.clicks.sessions import with_sessions
from pipeline.clicks.split import with_part
from pipeline.config import Sessions, Source, Split, View
from pipeline.graphs import sequences, views, vocabulary
from pipeline.graphs.edges import directed_edges, item_links
from pipeline.log import item_tables
from pipeline.shards import streams
from tests.pipeline.frames import at, click_frame

TAG = View(attribute="tag")


def kept(frame: DataFrame) -> DataFrame:
    """Takes the place of a scratch table."""
    return frame.localCheckpoint()


def test_values_of_an_item_table_weigh_by_the_rows_that_say_them(
    spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "items.csv").write_text(
        "item,name,tags\na,A,x|y\na,A,y\nb,B,\nc,C,?\n", encoding="utf-8"
    )
    table = {
        "path": str(tmp_path / "items.csv"),
        "format": "csv",
        "item_id": "item",
        "title": "name",
    }
    log = {
        "path": "-",
        "format": "csv",
        "columns": {"user_id": "u", "item_id": "i", "timestamp": "t"},
    }
    source = Source.model_validate(
        log | {"items": [table | {"attributes": {"tag": "split(tags, '[|]')"}}]}
    )
    items = item_tables.item_table(spark, source)
    seen = views.items_of_clicks(dated(click_frame(spark, [("u", "a", "10:00")])), [])
    unknown = View(attribute="tag", null_values=("", "?"))
    found = {
        row["item_id"]: [tuple(value) for value in row["values"]]
        for row in views.item_values(seen, items, unknown, on_events=False).collect()
    }
    assert found == {"a": [("y", 2), ("x", 1)]}
    titles = item_tables.titles(items)
    assert titles is not None
    assert {row["item_id"]: row["title"] for row in titles.collect()} == {
        "a": "A",
        "b": "B",
        "c": "C",
    }


def test_items_that_only_the_log_or_only_an_item_table_knows_are_counted(
    spark: SparkSession,
) -> None:
    said = [
        ("a", "tag", "x", 1),
        ("a", None, "A", 1),
        ("b", "tag", "x", 1),
        ("never", "tag", "y", 2),
    ]
    table = spark.createDataFrame(
        said, "item_id string, attribute string, value string, weight long"
    )
    clicks = click_frame(
        spark,
        [("u", item, "10:00", tag) for item, tag in ("ax", "ay", "bx", "cx", "dx")],
        "t string",
    )
    seen = views.items_of_clicks(dated(clicks), ["t"])
    assert item_tables.item_coverage(table, seen) == {
        "in item tables": 3,
        "never clicked": 1,
        "clicked, in no item table": 2,
    }


def dated(clicks: DataFrame) -> DataFrame:
    return clicks.withColumn("date", F.to_date("timestamp"))


def test_the_latest_known_value_counts(spark: SparkSession) -> None:
    rows = [
        ("u", "a", "10:00", "z"),
        ("u", "a", "11:00", "y"),
        ("u", "a", "12:00", ""),
        ("u", "b", "10:00", "x"),
        ("u", "b", "10:01", "x"),
    ]
    seen = views.items_of_clicks(dated(click_frame(spark, rows, "tag string")), ["tag"])
    found = views.item_values(seen, None, TAG, on_events=True).collect()
    assert {row["item_id"]: [tuple(value) for value in row["values"]] for row in found} == {
        "a": [("y", 1)],
        "b": [("x", 1)],
    }
    # Only a was seen with two values that are known.
    assert views.changed_items(seen, TAG) == 1


def test_an_occurrence_takes_one_value_drawn_by_weight(spark: SparkSession) -> None:
    clicks = spark.range(3000).select(
        F.lit("a").alias("item_id"),
        F.col("id").cast("string").alias("user_id"),
        *(
            F.lit(at("10:00")).alias("session_start"),
            F.lit(0).alias("session_piece"),
            F.lit(0).alias("session_position"),
        ),
    )
    values = spark.createDataFrame(
        [("a", [("x", 3), ("y", 1)])],
        "item_id string, values array<struct<value string, weight long>>",
    )
    drawn = {
        seed: [
            row[0]
            for row in views.with_node(clicks, values, "tag", TAG, seed)
            .orderBy("user_id")
            .select("node_tag")
            .collect()
        ]
        for seed in (1, 2)
    }
    counts = Counter(drawn[1])
    assert set(counts) == {"x", "y"}
    # 3000 draws at 3/4: mean 2250, standard deviation 24.
    assert abs(counts["x"] - 2250) < 5 * 24
    assert drawn[1] != drawn[2]
    first = views.with_node(clicks, values, "tag", View(attribute="tag", several="first"), 1)
    assert {row["node_tag"] for row in first.collect()} == {"x"}


def occurrences(spark: SparkSession, rows: list[tuple[str, str, str, str]], minimum_count: int = 1):  # type: ignore[no-untyped-def]
    """(clicks with the rows of an item and a tag view, vocabularies, values) of clicks (user, item,
    time, tag)."""
    settings = {"item": View(minimum_count=minimum_count), "tag": TAG}
    clicks = with_part(
        with_sessions(dated(click_frame(spark, rows, "tag string")), Sessions(), seed=1), Split()
    )
    seen = views.items_of_clicks(clicks, ["tag"])
    values = {"tag": views.item_values(seen, None, TAG, on_events=True)}
    counted = {
        "item": vocabulary.often_enough(vocabulary.count_items(seen), minimum_count),
        "tag": vocabulary.count_values(seen, values["tag"]),
    }
    vocabularies = {name: vocabulary.rank(frame, None, kept) for name, frame in counted.items()}
    items = vocabulary.rows_of_items(seen, values, [], vocabularies)
    return vocabulary.with_rows(clicks, items, settings, seed=1), vocabularies, values


LOG = [
    # b is clicked once: with a minimum count of 2 it is in no graph, and a -> b -> a are no
    # neighbours but repeats.
    ("u", "a", "10:00", "x"),
    ("u", "b", "10:01", "x"),
    ("u", "a", "10:02", "x"),
    ("u", "c", "10:03", "y"),
    ("u", "c", "15:00", "y"),
    ("u", "a", "15:01", "x"),
    ("v", "d", "10:00", ""),
    ("v", "d", "10:01", ""),
    ("v", "a", "10:02", "x"),
]


def test_rows_number_nodes_by_frequency_then_id(spark: SparkSession) -> None:
    _, vocabularies, _ = occurrences(spark, LOG, minimum_count=2)
    assert [
        (row["id"], row["row"], row["count"])
        for row in vocabularies["item"].orderBy("row").collect()
    ] == [
        ("a", 0, 4),
        ("c", 1, 2),
        ("d", 2, 2),
    ]
    assert [
        (row["id"], row["row"], row["count"])
        for row in vocabularies["tag"].orderBy("row").collect()
    ] == [("x", 0, 5), ("y", 1, 2)]


def test_rows_follow_counts_and_then_ids_whatever_ranges_the_tasks_sort(
    spark: SparkSession,
) -> None:
    """Nearly all nodes have one count, and are still numbered by several tasks."""
    nodes = [
        (f"{number * 7919 % 5000:04}", 1 if number % 10 else number % 70, None)
        for number in range(5000)
    ]
    counted = spark.createDataFrame(nodes, "id string, count long, first_date date")
    tasks = []

    def seen(frame: DataFrame) -> DataFrame:
        found = frame.localCheckpoint()
        tasks.append(found.select(F.spark_partition_id()).distinct().count())
        return found

    settings = {"spark.sql.adaptive.enabled": "false", "spark.sql.shuffle.partitions": "5"}
    before = {name: spark.conf.get(name) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        ranked = vocabulary.rank(counted, None, seen).orderBy("row").collect()
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    assert tasks == [5]
    wanted = sorted(nodes, key=lambda node: (-node[1], node[0]))
    assert [(row["row"], row["id"]) for row in ranked] == [
        (row, node[0]) for row, node in enumerate(wanted)
    ]


def test_only_the_top_nodes_are_kept(spark: SparkSession) -> None:
    counted = spark.createDataFrame(
        [("b", 1, None), ("a", 1, None), ("c", 7, None)], "id string, count long, first_date date"
    )
    assert [
        (row["id"], row["row"])
        for row in vocabulary.rank(counted, 2, kept).orderBy("row").collect()
    ] == [("c", 0), ("a", 1)]


def test_what_limits_leave_out_is_counted(spark: SparkSession) -> None:
    counted = spark.createDataFrame(
        [("a", 9, None), ("b", 5, None), ("c", 5, None), ("d", 2, None)],
        "id string, count long, first_date date",
    )
    enough = vocabulary.often_enough(counted, 3)
    ranked = vocabulary.rank(enough, 2, kept)
    within = (
        ranked.agg(F.count("*").alias("nodes"), F.sum("count").alias("clicks"))
        .collect()[0]
        .asDict()
    )
    assert vocabulary.limits(counted, 3, within) == {
        "below minimum_count": {"nodes": 1, "clicks": 2},
        "beyond top": {"nodes": 1, "clicks": 5},
    }


def test_a_row_never_changes_its_meaning(spark: SparkSession) -> None:
    schema = "id string, count long, first_date date"
    first = vocabulary.rank(
        spark.createDataFrame([("a", 5, None), ("b", 3, None), ("c", 1, None)], schema), None, kept
    )
    later = vocabulary.rank(
        spark.createDataFrame(
            [("e", 2, None), ("c", 9, None), ("d", 7, None), ("a", 1, None)], schema
        ),
        None,
        kept,
    )
    appended = vocabulary.append(first, later, kept)
    assert [(row["row"], row["id"], row["count"]) for row in appended.orderBy("row").collect()] == [
        (0, "a", 1),
        (1, "b", 0),
        (2, "c", 9),
        (3, "d", 7),
        (4, "e", 2),
    ]
    # What is not in use now is in no sequence.
    seen = spark.createDataFrame([("b",), ("e",)], "item_id string")
    assert {
        tuple(row) for row in vocabulary.rows_of_items(seen, {}, [], {"item": appended}).collect()
    } == {("b", None), ("e", 4)}


def test_edges_join_consecutive_nodes_of_a_users_whole_history(spark: SparkSession) -> None:
    clicks, vocabularies, _ = occurrences(spark, LOG, minimum_count=2)
    sessions = sequences.sessions(clicks, ["item", "tag"])
    item = {
        (row["source"], row["target"]): row["weight"]
        for row in directed_edges(sessions, "item", vocabularies["item"]).collect()
    }
    assert item == {("a", "c"): 1, ("c", "a"): 1, ("d", "a"): 1}
    tag = {
        (row["source"], row["target"]): row["weight"]
        for row in directed_edges(sessions, "tag", vocabularies["tag"]).collect()
    }
    assert tag == {("x", "y"): 1, ("y", "x"): 1}


def test_links_hold_every_known_value_of_an_item(spark: SparkSession) -> None:
    _, vocabularies, values = occurrences(spark, LOG, minimum_count=2)
    found = {
        tuple(row)
        for row in item_links(values["tag"], vocabularies["item"], vocabularies["tag"]).collect()
    }
    assert found == {("a", "x", 4), ("c", "y", 2)}


def test_sequences_lose_unknown_nodes_first_and_consecutive_duplicates_then(
    spark: SparkSession,
) -> None:
    clicks, _, _ = occurrences(spark, LOG, minimum_count=2)
    sessions = sequences.sessions(clicks, ["item", "tag"])
    # Rows: a 0, c 1, d 2; x 0, y 1. The repeated c is in another session: there it stays.
    assert sorted(row["nodes"] for row in streams.windows(sessions, "item").collect()) == [
        [0, 1],
        [1, 0],
        [2, 0],
    ]
    assert sorted(row["nodes"] for row in streams.windows(sessions, "tag").collect()) == [
        [0, 1],
        [1, 0],
    ]


def test_pairs_are_the_nodes_at_most_a_window_apart(spark: SparkSession) -> None:
    windows = spark.createDataFrame(
        [("u", "s", [5, 6, 7, 5])], "user_id string, session_id string, nodes array<int>"
    )
    rows = streams.pairs(windows, ["user_id", "session_id"], 2).orderBy("position").collect()
    assert [(row["centre"], row["contexts"]) for row in rows] == [
        (5, [6, 7]),
        (6, [5, 7, 5]),
        (7, [5, 6, 5]),
        (5, [6, 7]),
    ]


def test_relation_rows_hold_an_item_with_all_its_values_once_or_once_a_click(
    spark: SparkSession,
) -> None:
    clicks, vocabularies, values = occurrences(spark, LOG, minimum_count=2)
    links = item_links(values["tag"], vocabularies["item"], vocabularies["tag"])
    once = streams.link_rows(links, vocabularies["item"], vocabularies["tag"])
    assert {(row["item_id"], row["centre"], tuple(row["contexts"])) for row in once.collect()} == {
        ("a", 0, (0,)),
        ("c", 1, (1,)),
    }
    each = streams.click_rows(clicks, once)
    assert Counter((row["centre"], tuple(row["contexts"])) for row in each.collect()) == {
        (0, (0,)): 4,
        (1, (1,)): 2,
    }
