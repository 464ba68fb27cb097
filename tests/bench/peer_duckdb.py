"""The tables and shards of the pipeline by DuckDB, as somebody writes them who knows it: one sort,
then passes over sorted rows.

The log is sorted once, by user and backwards in time. Window functions without PARTITION BY and
ORDER BY stream over such a table, and `lag` there is the user's next click. Ids stay numbers until
they are written.
"""

import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from tests.bench.rules import Rules

WORK = "_work"
TABLE = "FORMAT parquet, COMPRESSION snappy"
Step = Callable[[duckdb.DuckDBPyConnection, Path, Rules], None]


def run(clicks: Path, articles: Path, output: Path, rules: Rules) -> dict[str, float]:
    """Writes every table of `rules.TABLES` and the shards under `output`; returns seconds by
    step."""
    connection = duckdb.connect(
        config={
            "threads": rules.threads,
            "memory_limit": rules.memory,
            "temp_directory": str(output / WORK),
        }
    )
    connection.execute(f"CREATE VIEW log AS FROM read_parquet('{clicks}/*.parquet')")
    connection.execute(f"CREATE VIEW articles AS FROM read_csv('{articles}', all_varchar = true)")
    seconds = {}
    for name, step in STEPS.items():
        began = time.perf_counter()
        step(connection, output, rules)
        seconds[name] = round(time.perf_counter() - began, 2)
    return seconds


def _copy(connection: duckdb.DuckDBPyConnection, query: str, output: Path, table: str) -> None:
    (output / table).mkdir(parents=True, exist_ok=True)
    connection.execute(f"COPY ({query}) TO '{output / table}/part-0.parquet' ({TABLE})")


def _clean(connection: duckdb.DuckDBPyConnection, output: Path, rules: Rules) -> None:
    connection.execute(f"""
        CREATE TABLE sorted AS
        SELECT user_id, click_article_id AS item, click_timestamp AS time, session_id AS app,
            session_start AS opened FROM log
        -- The hash orders equal times, and puts equal rows side by side.
        ORDER BY user_id DESC, time DESC, hash(user_id, time, item, app, opened, {rules.seed}) DESC
    """)
    connection.execute(f"""
        CREATE TABLE clicks AS
        WITH beside AS (
            SELECT *, coalesce(user_id = lag(user_id) OVER (), false) AS same_user, lag(item)
                OVER () AS next_item,
                lag(time) OVER () AS next_time, lag(app) OVER () AS next_app, lag(opened) OVER ()
                    AS next_opened
            FROM sorted
        ), distinct_events AS (
            SELECT *, NOT (same_user AND item = next_item) AS ends_run FROM beside
            WHERE NOT (same_user AND item = next_item AND time = next_time AND app = next_app
                AND opened = next_opened)
        ), numbered AS (
            SELECT *, row_number() OVER () AS number, CASE WHEN same_user THEN next_time ELSE -1
                END AS run_left FROM distinct_events
        ), stays AS (
            -- Events on one item in a row are left when the next item is opened: what the newest
            -- run's last event says.
            SELECT *, arg_max(run_left, number) FILTER (WHERE ends_run)
                OVER (ROWS UNBOUNDED PRECEDING) AS left_at FROM numbered
        )
        SELECT number, user_id, item, time, app, opened, CASE WHEN left_at > time
            THEN left_at - time END AS stay FROM stays
        WHERE coalesce(left_at <= time OR left_at - time >= {rules.minimum_stay}, true)
    """)
    connection.execute("DROP TABLE sorted")
    query = """
        SELECT user_id::VARCHAR AS user_id, item::VARCHAR AS item_id, make_timestamp_ms(time)
            AS "timestamp",
            stay / 1000 AS stay_seconds, make_timestamp_ms(time)::DATE AS date
        FROM clicks
    """
    _copy(connection, query, output, "clean")


def _sessions(connection: duckdb.DuckDBPyConnection, output: Path, rules: Rules) -> None:
    connection.execute(f"""
        CREATE TABLE chains AS
        WITH apps AS (
            SELECT user_id, app, least(min(opened), min(time)) AS opened, max(time) AS closed
                FROM clicks GROUP BY user_id, app
        ), before AS (
            SELECT *, max(closed) OVER (PARTITION BY user_id ORDER BY opened,
                app ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                AS closed_before
            FROM apps
        )
        SELECT user_id, app, sum(coalesce(opened - closed_before >= {rules.merge_gap},
            false)::INTEGER)
            OVER (PARTITION BY user_id ORDER BY opened, app ROWS UNBOUNDED PRECEDING) AS chain
        FROM before
    """)
    connection.execute(f"""
        CREATE TABLE gaps AS
        SELECT number, user_id, item, time, app, lag(app) OVER () AS next_app,
            coalesce(user_id = lag(user_id) OVER () AND lag(time)
                OVER () - time < {rules.idle_gap}, false) AS goes_on
        FROM clicks
    """)
    connection.execute("DROP TABLE clicks")
    # Only where an app was opened within the hour is it the chains that decide. An update keeps the
    # rows in order; a join would not.
    connection.execute("""
        UPDATE gaps SET goes_on = false WHERE number IN (
            SELECT gaps.number FROM gaps
            JOIN chains AS here ON here.user_id = gaps.user_id AND here.app = gaps.app
            JOIN chains AS there ON there.user_id = gaps.user_id AND there.app = gaps.next_app
            WHERE goes_on AND gaps.app <> next_app AND here.chain <> there.chain
        )
    """)
    connection.execute("""
        CREATE TABLE sessioned AS
        SELECT number, user_id, item, time, (sum((NOT goes_on)::INTEGER)
            OVER (ROWS UNBOUNDED PRECEDING))::INTEGER AS session FROM gaps
    """)
    connection.execute("DROP TABLE gaps; DROP TABLE chains")
    query = f"""
        WITH found AS (
            SELECT any_value(user_id) AS user_id, min(time) AS start, max(time) AS "end",
                {_in_order("item", "VARCHAR")} AS item_ids
            FROM sessioned GROUP BY session
        )
        SELECT user_id::VARCHAR AS user_id, md5(concat_ws(chr(0), user_id, start * 1000, 0))
            AS session_id,
            make_timestamp_ms(start) AS start, make_timestamp_ms("end") AS "end",
                make_timestamp_ms(start)::DATE AS date, item_ids
        FROM found
    """
    _copy(connection, query, output, "sessions")


def _in_order(column: str, type_: str) -> str:
    """The list of a column in click order: sorting lists of packed numbers takes half the time of
    `list(... ORDER BY ...)`.

    The column's values lie under 2**31, row numbers of clicks under 2**32.
    """
    return (
        f"list_transform(list_reverse_sort(list((number << 31) | {column})), lambda packed: "
        f"(packed & {2**31 - 1})::{type_})"
    )


def _vocabulary(connection: duckdb.DuckDBPyConnection, output: Path, rules: Rules) -> None:
    unknown = ", ".join(f"'{value}'" for value in rules.unknown_categories)
    connection.execute(
        "CREATE TABLE counted AS SELECT item, count(*) AS count, min(time) AS first FROM "
        "sessioned GROUP BY item"
    )
    connection.execute(f"""
        CREATE TABLE categories AS
        WITH said AS (
            SELECT article_id::BIGINT AS item, category_id AS category, count(*) AS rows
                FROM articles
            WHERE category_id NOT IN ({unknown}) GROUP BY ALL
        )
        SELECT item, arg_max(category, rows) AS category FROM said GROUP BY item
    """)
    counts = {
        "item": (
            "SELECT item::VARCHAR AS id, count, first FROM counted WHERE count >= "
            f"{rules.minimum_item_count}"
        ),
        "category": (
            f"""
            SELECT category AS id, sum(count)::BIGINT AS count, min(first) AS first FROM counted
                JOIN categories USING (item)
            GROUP BY category HAVING sum(count) >= {rules.minimum_category_count}
        """
        ),
    }
    for view, query in counts.items():
        connection.execute(f"""
            CREATE TABLE vocabulary_{view} AS
            SELECT id, (row_number() OVER (ORDER BY count DESC, id) - 1)::INTEGER AS row, count,
                make_timestamp_ms(first)::DATE AS first_date
            FROM ({query})
        """)
        _copy(connection, f"FROM vocabulary_{view} ORDER BY row", output, f"vocabulary/{view}")


def _edges(connection: duckdb.DuckDBPyConnection, output: Path, rules: Rules) -> None:  # noqa: ARG001  (every step has these)
    connection.execute("""
        CREATE TABLE nodes AS
        SELECT counted.item, of_item.row AS item_row, of_category.row AS category_row FROM counted
        LEFT JOIN vocabulary_item AS of_item ON of_item.id = counted.item::VARCHAR
        LEFT JOIN categories ON categories.item = counted.item
        LEFT JOIN vocabulary_category AS of_category ON of_category.id = categories.category
    """)
    connection.execute("""
        CREATE TABLE occurrences AS
        SELECT number, user_id, session, item_row, category_row FROM sessioned
            JOIN nodes USING (item) ORDER BY number
    """)
    connection.execute("DROP TABLE sessioned")
    for view in ("item", "category"):
        connection.execute(f"""
            CREATE TABLE steps_{view} AS
            SELECT number, session, {view}_row AS row,
                CASE WHEN user_id = lag(user_id) OVER () THEN lag({view}_row) OVER () END AS next,
                lag(session) OVER () AS next_session
            FROM occurrences WHERE {view}_row IS NOT NULL
        """)
        query = f"""
            WITH counted AS (SELECT row, next, count(*) AS weight FROM steps_{view}
                WHERE row <> next GROUP BY row, next)
            SELECT here.id AS source, there.id AS target, weight FROM counted
            JOIN vocabulary_{view} AS here ON here.row = counted.row JOIN vocabulary_{view}
                AS there ON there.row = counted.next
        """
        _copy(connection, query, output, f"edges/{view}")
    connection.execute("DROP TABLE occurrences")


def _links(connection: duckdb.DuckDBPyConnection, output: Path, rules: Rules) -> None:  # noqa: ARG001
    connection.execute("""
        CREATE TABLE linked AS
        SELECT items.id AS item_id, named.id AS value_id, items.count AS weight, item_row
            AS centre, [category_row] AS contexts FROM nodes
        JOIN vocabulary_item AS items ON items.row = item_row
        JOIN vocabulary_category AS named ON named.row = category_row
    """)
    _copy(connection, "SELECT item_id, value_id, weight FROM linked", output, "links/item_category")


def _shards(connection: duckdb.DuckDBPyConnection, output: Path, rules: Rules) -> None:
    for view in ("item", "category"):
        query = f"""
            SELECT {_in_order("row", "INTEGER")} AS nodes, session AS key FROM steps_{view}
            WHERE NOT coalesce(session = next_session AND row = next, false)
            GROUP BY session HAVING count(*) > 1
        """
        _stream(connection, query, "nodes", output / "shards" / view / "windows", rules)
    _stream(
        connection,
        "SELECT centre, contexts, centre AS key FROM linked",
        "centre, contexts",
        output / "shards/item_category/pairs",
        rules,
    )


def _stream(
    connection: duckdb.DuckDBPyConnection, query: str, columns: str, folder: Path, rules: Rules
) -> None:
    """Rows into files of pseudo-random order: hash of the key mod files, sorted by hash within."""
    folder.mkdir(parents=True, exist_ok=True)
    connection.execute(f"""
        CREATE OR REPLACE TABLE stream AS SELECT {columns}, hash, (hash % {rules.files})::INTEGER
            AS file
        FROM (SELECT *, hash(key, {rules.seed}) AS hash FROM ({query}))
    """)
    limits = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {rules.row_group_rows}"
    for file in range(rules.files):
        rows = f"SELECT {columns} FROM stream WHERE file = {file} ORDER BY hash"
        connection.execute(f"COPY ({rows}) TO '{folder}/part-{file}.parquet' ({limits})")


STEPS: dict[str, Step] = {
    "clean": _clean,
    "sessions": _sessions,
    "vocabulary": _vocabulary,
    "edges": _edges,
    "links": _links,
    "shards": _shards,
}
