"""The figures of the pipeline counted again, by DuckDB: from the raw files and the rules in
docs/design.md, without the pipeline's code.

The one thing taken over is Spark's hash (tests/bench/spark_hash.py), which orders equal times and
draws one of several values; with it every figure has to be the same. What a configuration may say
beyond the shipped projects' settings is refused, not ignored.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import ARROW

from pipeline.config import ITEM_VIEW, Files, PipelineConfig, Relation, Split, View
from pipeline.log.source_paths import resolve
from tests.bench import spark_hash

FUNCTIONS = {"split(": "string_split_regex("}
"""Spark's functions in the shipped projects that DuckDB calls otherwise."""
FACTORS = {"seconds": 1_000_000, "milliseconds": 1000, "microseconds": 1}
INTEGER_END = 2**31
"""Seeds from here on are long to Spark, and hashed so."""


class Recount:
    """One project. Each method makes tables of the connection from those before it; `run` tells
    their order."""

    def __init__(self, project: PipelineConfig) -> None:
        _refuse_others(project)
        self.project = project
        self.connection = duckdb.connect()
        self.connection.execute(f"SET TimeZone = {_text(project.source.time.zone)}")
        add = self.connection.create_function
        add(
            "tie_hash",
            tie_hash(project.seed),
            ["VARCHAR", "BIGINT", "VARCHAR"],
            "BIGINT",
            type=ARROW,
        )
        add(
            "draw_hash",
            draw_hash(project.seed),
            ["VARCHAR", "INTEGER", "VARCHAR"],
            "BIGINT",
            type=ARROW,
        )
        self.fields = [
            *project.source.columns.model_dump(exclude_none=True),
            *project.source.attributes,
        ]

    def run(self) -> dict[str, Any]:
        """Figures under the names of statistics.json."""
        funnel = self._events() | self._clicks()
        self._sessions()
        self._parts()
        self._values()
        self._vocabularies()
        views, relations = self.project.views, self.project.relations
        return {
            "funnel": funnel,
            "parts": self._part_figures(),
            "nodes": {view: self._one(f"SELECT count(*) FROM vocabulary_{view}") for view in views},
            "edges": {view: self._edges(view) for view in views},
            "links": {name: self._links(name, relation) for name, relation in relations.items()},
            "sequences": {view: self._sequences(view) for view in views},
            "pairs": {view: self._pairs(view) for view in views}
            | {name: self._linked_pairs(name, relations[name]) for name in relations},
        }

    def _one(self, query: str) -> Any:
        row = self.connection.execute(query).fetchone()
        assert row is not None  # every query here is an aggregate
        return row[0]

    def _events(self) -> dict[str, Any]:
        """`events`: distinct events, `times` = how often each stands in the log."""
        source = self.project.source
        self.connection.execute(f"CREATE TABLE raw AS FROM {_reader(source)}")
        malformed = self._malformed()
        columns = self._columns("raw")
        texts = source.columns.model_dump(exclude_none=True) | source.attributes
        mapped = ", ".join(
            f"{self._typed(name, _translated(text, columns))} AS {name}"
            for name, text in texts.items()
        )
        written = _translated(source.columns.timestamp, columns)
        self.connection.execute(
            f"CREATE TABLE mapped AS SELECT {mapped}, CAST({written} AS VARCHAR) AS "
            "written_time FROM raw"
        )
        self.connection.execute(f"""
            CREATE TABLE judged AS SELECT *, CASE
                WHEN user_id IS NULL THEN 'no user_id'
                WHEN item_id IS NULL THEN 'no item_id'
                WHEN "timestamp" IS NULL AND coalesce(trim(written_time), '') <> ''
                    THEN 'unreadable timestamp'
                WHEN "timestamp" IS NULL THEN 'no timestamp'
                WHEN "timestamp" < {round(source.time.earliest.timestamp() * 1e6)}
                    THEN 'timestamp out of range'
                WHEN "timestamp" >= epoch_us(now()) + 86400000000 THEN 'timestamp out of range' END
                    AS reason
            FROM mapped
        """)
        self.connection.execute(
            f"""
            CREATE TABLE events AS SELECT *, tie_hash(user_id, "timestamp", item_id) AS tie
            FROM (SELECT {self._names()}, count(*) AS times FROM judged WHERE reason IS NULL
                GROUP BY ALL)
        """
        )
        reasons = dict(
            self.connection.execute(
                "SELECT reason, count(*) FROM judged WHERE reason IS NOT NULL GROUP BY reason"
            ).fetchall()
        )
        rejected = reasons | ({"malformed row": malformed} if malformed else {})
        return {"raw rows": self._one("SELECT count(*) FROM raw") + malformed, "rejected": rejected}

    def _malformed(self) -> int:
        if self.project.source.format != "csv":
            return 0
        return int(
            self._one(
                "SELECT count(DISTINCT (file_path, line)) FROM reject_errors JOIN reject_scans "
                "USING (scan_id, file_id)"
            )
        )

    def _columns(self, table: str) -> dict[str, str]:
        return {
            name: kind for name, kind, *_ in self.connection.execute(f"DESCRIBE {table}").fetchall()
        }

    def _names(self) -> str:
        return ", ".join(f'"{name}"' for name in self.fields)

    def _typed(self, name: str, column: str) -> str:
        source = self.project.source
        if name in ("timestamp", "app_open", "app_close"):
            if source.time.unit == "timestamp":
                return f"epoch_us(try_cast({column} AS TIMESTAMPTZ))"
            return (
                f"CAST(try_cast({column} AS DECIMAL(38, 6)) * {FACTORS[source.time.unit]} AS "
                "BIGINT)"
            )
        if name in ("stay_seconds", "value"):
            return f"try_cast({column} AS DOUBLE)"
        text = f"CAST({column} AS VARCHAR)"
        if source.whole_numbers:
            text = rf"regexp_replace({text}, '^([+-]?\d+)\.0*$', '\1')"
        return (
            text if name in source.attributes else f"CASE WHEN trim({text}) <> '' THEN {text} END"
        )

    def _clicks(self) -> dict[str, Any]:
        """`clicks`: the events that pass the click filter."""
        clean, types = self.project.clean, self.project.source.event_types
        stay = {"absent": "NULL::DOUBLE", "given": "stay_seconds", "derived": self._left_after()}[
            clean.stay
        ]
        wanted = (
            f"NOT coalesce(event_type IN ({', '.join(map(_text, types))}), false)"
            if types
            else "false"
        )
        low = "false" if clean.minimum_value is None else f"value < {clean.minimum_value}"
        short = "false" if clean.stay == "absent" else f"stay < {clean.minimum_stay_seconds}"
        self.connection.execute(f"""
            CREATE TABLE stayed AS
            WITH ordered AS (SELECT *, row_number() OVER (PARTITION BY user_id
                ORDER BY {self._order()}) AS number FROM events),
            marked AS (SELECT *, coalesce(item_id <> lag(item_id) OVER by_number, true) AS begins
                FROM ordered
                WINDOW by_number AS (PARTITION BY user_id ORDER BY number)),
            ahead AS (SELECT *, lead(CASE WHEN begins THEN "timestamp" END IGNORE NULLS)
                OVER (PARTITION BY user_id ORDER BY number) AS next_item_at FROM marked)
            SELECT * EXCLUDE (number, begins, next_item_at), {stay} AS stay FROM ahead
        """)
        self.connection.execute(f"""
            CREATE TABLE filtered AS SELECT *, CASE
                WHEN coalesce({wanted}, false) THEN 'event type'
                WHEN coalesce({low}, false) THEN 'value below minimum'
                WHEN coalesce({short}, false) THEN 'stay below minimum' END AS dropped
            FROM stayed
        """)
        self.connection.execute(
            "CREATE TABLE clicks AS SELECT * EXCLUDE (dropped) FROM filtered WHERE dropped IS NULL"
        )
        dropped = dict(
            self.connection.execute(
                "SELECT dropped, count(*) FROM filtered WHERE dropped IS NOT NULL GROUP BY ALL"
            ).fetchall()
        )
        dropped["duplicate"] = self._one("SELECT coalesce(sum(times - 1), 0)::BIGINT FROM events")
        known = self._one(
            "SELECT coalesce(sum(times), 0)::BIGINT FROM stayed WHERE stay IS NOT NULL"
        )
        return {
            "dropped": dropped,
            "clicks": self._one("SELECT count(*) FROM clicks"),
            "events with a known stay": known,
        }

    def _left_after(self) -> str:
        """Seconds from an event to the next one on another item, or to the app's close where that
        comes first; null where it is nothing."""
        until = "next_item_at"
        if "app_close" in self.fields:
            until = 'least(next_item_at, CASE WHEN app_close >= "timestamp" THEN app_close END)'
        return f'CASE WHEN {until} > "timestamp" THEN ({until} - "timestamp") / 1000000 END'

    def _order(self) -> str:
        """Of one user's events: by time, then by hash, then by item; the other columns for events
        that differ in nothing else."""
        others = ", ".join(
            f'"{name}"' for name in self.fields if name not in ("user_id", "item_id", "timestamp")
        )
        return '"timestamp", tie, item_id' + (f", {others}" if others else "")

    def _sessions(self) -> None:
        """`sessioned`: clicks with position, session_id, session_start and session_position."""
        sessions = self.project.sessions
        idle, merge = (
            round(gap * 1e6) for gap in (sessions.idle_gap_seconds, sessions.merge_gap_seconds)
        )
        self.connection.execute(f"""
            CREATE TABLE apped AS
            SELECT *, {self._app()} AS app, row_number() OVER (PARTITION BY user_id
                ORDER BY {self._order()}) - 1 AS position FROM clicks
        """)
        opened = (
            'least(min("timestamp"), min(app_open))'
            if "app_open" in self.fields
            else 'min("timestamp")'
        )
        closed = (
            'greatest(max("timestamp"), max(app_close))'
            if "app_close" in self.fields
            else 'max("timestamp")'
        )
        self.connection.execute(f"""
            CREATE TABLE chains AS
            WITH apps AS (SELECT user_id, app, {opened} AS opened, {closed} AS closed FROM apped
                GROUP BY ALL),
            known AS (SELECT *, max(closed) OVER (PARTITION BY user_id ORDER BY opened, app
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS closed_before FROM apps)
            SELECT user_id, app, count(*) FILTER (WHERE opened - closed_before >= {merge})
                OVER (PARTITION BY user_id ORDER BY opened, app ROWS UNBOUNDED PRECEDING) AS chain
                    FROM known
        """)
        self.connection.execute(f"""
            CREATE TABLE numbered AS
            WITH chained AS (SELECT apped.*, chain FROM apped JOIN chains USING (user_id, app)),
            marked AS (SELECT *,
                coalesce("timestamp" - lag("timestamp") OVER mine >= {idle} OR chain <> lag(chain)
                    OVER mine, true) AS begins
                FROM chained WINDOW mine AS (PARTITION BY user_id ORDER BY position)),
            counted AS (SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY user_id
                ORDER BY position ROWS UNBOUNDED PRECEDING)
                AS session FROM marked)
            SELECT * EXCLUDE (begins, app, chain), row_number() OVER (PARTITION BY user_id, session
                ORDER BY position) - 1 AS number,
                count(*) OVER (PARTITION BY user_id, session) AS length FROM counted
        """)
        self._pieces(sessions.maximum_length)
        self.connection.execute("""
            CREATE TABLE sessioned AS
            WITH pieced AS (SELECT numbered.*, coalesce(piece, 0) AS piece FROM numbered
                LEFT JOIN pieces ON pieces.length = numbered.length AND number >= piece
                    AND number < piece + size),
            begun AS (SELECT *, min("timestamp") OVER (PARTITION BY user_id, session, piece)
                AS session_start FROM pieced)
            SELECT * EXCLUDE (number, length, piece, session), (number - piece)::INTEGER
                AS session_position,
                md5(user_id || chr(0) || session_start || chr(0) || piece) AS session_id FROM begun
        """)

    def _app(self) -> str:
        """The app session of a click; a click outside every one stands alone, and a log without
        them is one."""
        known = [name for name in ("app_session_id", "app_open") if name in self.fields]
        if not known:
            return "''"
        choices = [f"'{name} ' || {name}" for name in known] + ["'click ' || \"timestamp\""]
        return f"coalesce({', '.join(choices)})"

    def _pieces(self, longest: int | None) -> None:
        """`pieces`: where the pieces of a session of each length begin, and their sizes."""
        self.connection.execute("CREATE TABLE pieces (length BIGINT, piece BIGINT, size BIGINT)")
        lengths = [
            row[0]
            for row in self.connection.execute("SELECT DISTINCT length FROM numbered").fetchall()
        ]
        rows = [
            [length, *piece]
            for length in lengths
            for piece in _halves(0, length, longest or length)
        ]
        self.connection.executemany("INSERT INTO pieces VALUES (?, ?, ?)", rows)

    def _parts(self) -> None:
        """`parted`: clicks with their part of the split; `train`: those to learn from."""
        part = _part(self.project.split)
        self.connection.execute(f"""
            CREATE TABLE parted AS SELECT *, {part} AS part
            FROM (SELECT *, count(*) OVER (PARTITION BY user_id) AS clicks_of_user FROM sessioned)
        """)
        self.connection.execute("CREATE TABLE train AS FROM parted WHERE part = 'train'")

    def _part_figures(self) -> dict[str, Any]:
        rows = self.connection.execute("""
            SELECT part, count(*), count(DISTINCT user_id), count(DISTINCT (user_id, session_id)),
                strftime(make_timestamp(min("timestamp")), '%Y-%m-%d %H:%M:%S'),
                strftime(make_timestamp(max("timestamp")), '%Y-%m-%d %H:%M:%S')
            FROM parted GROUP BY part
        """).fetchall()
        return {
            part: dict(zip(("clicks", "users", "sessions", "first", "last"), figures, strict=True))
            for part, *figures in rows
        }

    def _values(self) -> None:
        """`values_VIEW`: item_id, value, weight, and between which draws an occurrence takes it
        (`since`, `until`, `total`)."""
        for name, view in self.project.views.items():
            if name == ITEM_VIEW:
                continue
            known = (
                "value IS NOT NULL AND value NOT IN "
                f"({', '.join(map(_text, view.null_values)) or 'NULL'})"
            )
            said = " UNION ALL ".join(self._said(view))
            self.connection.execute(f"""
                CREATE TABLE values_{name} AS
                WITH summed AS (SELECT item_id, value, sum(weight)::BIGINT AS weight FROM ({said})
                    WHERE {known} GROUP BY ALL)
                SELECT *, sum(weight) OVER heaviest - weight AS since, sum(weight) OVER heaviest
                    AS until,
                    sum(weight) OVER (PARTITION BY item_id) AS total
                FROM summed WINDOW heaviest AS (PARTITION BY item_id ORDER BY weight DESC,
                    value ROWS UNBOUNDED PRECEDING)
            """)

    def _said(self, view: View) -> Iterator[str]:
        """Who says what values the items of a view have: item_id, value, weight."""
        attribute, source = str(view.attribute), self.project.source
        if attribute in source.attributes:
            known = (
                f'"{attribute}" IS NOT NULL AND "{attribute}" NOT IN '
                f"({', '.join(map(_text, view.null_values)) or 'NULL'})"
            )
            latest = f'arg_max("{attribute}", ("timestamp", "{attribute}"))'
            yield (
                f"SELECT item_id, {latest} AS value, 1 AS weight FROM train WHERE {known} "
                "GROUP BY item_id"
            )
        for table in source.items:
            if attribute in table.attributes:
                self.connection.execute(
                    f"CREATE OR REPLACE TEMP TABLE probe AS FROM {_reader(table)} LIMIT 0"
                )
                columns = self._columns("probe")
                value, item = (
                    _translated(table.attributes[attribute], columns),
                    _translated(table.item_id, columns),
                )
                kind = self.connection.execute(
                    f"SELECT typeof({value}) FROM (SELECT NULL) LEFT JOIN probe ON true"
                ).fetchone()
                each = f"unnest({value})" if kind is not None and kind[0].endswith("[]") else value
                yield (
                    f"SELECT {item}::VARCHAR AS item_id, {each}::VARCHAR AS value, 1 AS "
                    f"weight FROM {_reader(table)}"
                )

    def _vocabularies(self) -> None:
        """`noded`: training clicks with the node of each view; `vocabulary_VIEW`: id, row,
        count."""
        self.connection.execute("CREATE TABLE noded AS SELECT *, item_id AS node_item FROM train")
        for name, view in self.project.views.items():
            if name != ITEM_VIEW:
                self._take(name, view)
            top = "" if view.top is None else f"WHERE row < {view.top}"
            self.connection.execute(f"""
                CREATE TABLE vocabulary_{name} AS SELECT * FROM (
                    SELECT *, row_number() OVER (ORDER BY count DESC, id) - 1 AS row FROM (
                        SELECT node_{name} AS id, count(*) AS count FROM noded
                            WHERE node_{name} IS NOT NULL GROUP BY ALL
                        HAVING count(*) >= {view.minimum_count}))
                {top}
            """)

    def _take(self, name: str, view: View) -> None:
        """Adds the node that each click takes in a value view."""
        draw = (
            "0"
            if view.several == "first"
            else f"draw_hash(session_id, session_position, {_text(name)})"
        )
        self.connection.execute(f"""
            CREATE OR REPLACE TABLE noded AS
            WITH drawn AS (SELECT *, {draw} AS draw FROM noded)
            SELECT drawn.* EXCLUDE (draw), mine.value AS node_{name} FROM drawn LEFT
                JOIN values_{name} AS mine
            ON mine.item_id = drawn.item_id AND (draw % total + total) % total >= since
                AND (draw % total + total) % total < until
        """)

    def _kept(self, view: str) -> str:
        """Training clicks whose node is in the vocabulary."""
        return (
            f"(SELECT noded.* FROM noded SEMI JOIN vocabulary_{view} AS known ON known.id = "
            f"node_{view})"
        )

    def _edges(self, view: str) -> dict[str, int]:
        row = self.connection.execute(f"""
            WITH steps AS (SELECT node_{view} AS here, lead(node_{view}) OVER (PARTITION BY user_id
                ORDER BY position) AS there
                FROM {self._kept(view)})
            SELECT count(DISTINCT (here, there)), count(*) FROM steps WHERE here <> there
        """).fetchone()
        assert row is not None  # an aggregate has a row
        return {"distinct": row[0], "weight": row[1]}

    def _links(self, name: str, relation: Relation) -> dict[str, int]:
        view = relation.view
        self.connection.execute(f"""
            CREATE TABLE links_{name} AS
            SELECT item_id, value, items.count AS weight FROM values_{view}
            JOIN vocabulary_item AS items ON items.id = item_id SEMI JOIN vocabulary_{view}
                AS known ON known.id = value
        """)
        distinct = self._one(f"SELECT count(*) FROM links_{name}")
        return {
            "distinct": distinct,
            "weight": self._one(f"SELECT coalesce(sum(weight), 0)::BIGINT FROM links_{name}"),
        }

    def _linked_pairs(self, name: str, relation: Relation) -> int:
        """A pair for each link, or one for each click on a linked item."""
        return int(
            self._one(
                f"SELECT coalesce(sum({'weight' if relation.rows == 'clicks' else '1'}), "
                f"0)::BIGINT FROM links_{name}"
            )
        )

    def _sequences(self, view: str) -> dict[str, int]:
        """What becomes of training clicks in a view; and `lengths_VIEW`: how many sessions have
        sequences of each length."""
        self.connection.execute(f"""
            CREATE TABLE lengths_{view} AS
            WITH beside AS (SELECT user_id, session_id, node_{view} AS here,
                    lag(node_{view}) OVER (PARTITION BY user_id, session_id ORDER BY position)
                        AS before FROM {self._kept(view)}),
            sessions AS (SELECT count(*) AS length FROM beside WHERE before IS DISTINCT FROM here
                GROUP BY user_id, session_id)
            SELECT length, count(*) AS sessions FROM sessions GROUP BY length
        """)
        known = self._one(f"SELECT count(*) FROM {self._kept(view)}")
        left = self._one(f"SELECT coalesce(sum(length * sessions), 0)::BIGINT FROM lengths_{view}")
        alone = self._one(
            f"SELECT coalesce(sum(sessions), 0)::BIGINT FROM lengths_{view} WHERE length = 1"
        )
        rare = self._one(f"""
            SELECT coalesce(sum(clicks), 0)::BIGINT FROM (SELECT count(*) AS clicks FROM noded
                WHERE node_{view} IS NOT NULL
            GROUP BY node_{view} HAVING count(*) < {self.project.views[view].minimum_count})
        """)
        without = self._one(f"SELECT count(*) FROM noded WHERE node_{view} IS NULL")
        told = {"without a value": without, "below minimum_count": rare}
        told |= {
            "in vocabulary": known,
            "same node as before": known - left,
            "alone in session": alone,
            "in sequences": left - alone,
        }
        return {name: int(count) for name, count in told.items()}

    def _pairs(self, view: str) -> int:
        """Pairs of nodes at most a window apart in one session's sequence."""
        apart = " + ".join(
            f"greatest(length - {distance}, 0)"
            for distance in range(1, self.project.shards.window + 1)
        )
        return 2 * int(
            self._one(f"SELECT coalesce(sum(sessions * ({apart})), 0)::BIGINT FROM lengths_{view}")
        )


def tie_hash(seed: int) -> Callable[[pa.Array, pa.Array, pa.Array], pa.Array]:
    """xxhash64(user, time, item, seed) of columns."""

    def hashed(users: pa.Array, times: pa.Array, items: pa.Array) -> pa.Array:
        hashes = spark_hash.with_text(spark_hash.start(len(users)), users.to_pylist())
        hashes = spark_hash.with_long(hashes, times.to_numpy(zero_copy_only=False))
        return _seeded(spark_hash.with_text(hashes, items.to_pylist()), seed)

    return hashed


def draw_hash(seed: int) -> Callable[[pa.Array, pa.Array, pa.Array], pa.Array]:
    """xxhash64(session, position, view, seed) of columns."""

    def hashed(sessions: pa.Array, positions: pa.Array, views: pa.Array) -> pa.Array:
        hashes = spark_hash.with_text(spark_hash.start(len(sessions)), sessions.to_pylist())
        hashes = spark_hash.with_int(hashes, positions.to_numpy(zero_copy_only=False))
        return _seeded(spark_hash.with_text(hashes, views.to_pylist()), seed)

    return hashed


def _seeded(hashes: spark_hash.Words, seed: int) -> pa.Array:
    add = spark_hash.with_int if seed < INTEGER_END else spark_hash.with_long
    return pa.array(add(hashes, np.full(len(hashes), seed)).view(np.int64))


def _refuse_others(project: PipelineConfig) -> None:
    """Raises ValueError for what is not counted here."""
    source = project.source
    unknown = {
        "source.format": source.format not in ("csv", "parquet"),
        "source.options": bool(source.options),
        "source.where": source.where is not None,
        "source.time.unit": source.time.unit not in ("timestamp", *FACTORS),
        "source.open_types": bool(source.open_types or source.close_types),
        "source.null_ids": bool(source.null_ids),
        "source.items": any(
            table.options or table.where or table.format not in ("csv", "parquet")
            for table in source.items
        ),
        "views.*.sequences": any(view.sequences != "sessions" for view in project.views.values()),
    }
    found = [option for option, there in unknown.items() if there]
    if found:
        raise ValueError(
            f"{project.name}: this count does not know {', '.join(found)} as set there"
        )


def _reader(files: Files) -> str:
    path = Path(resolve(files.path))
    if path.is_dir():
        path = path / f"*.{files.format}"
    if files.format == "parquet":
        return f"read_parquet({_text(str(path))})"
    # Rows with other numbers of fields than the header are set aside, and counted.
    rejects = (
        ", store_rejects = true"
        if "columns" in type(files).model_fields
        else ", ignore_errors = true"
    )
    return (
        f"read_csv({_text(str(path))}, all_varchar = true, header = true, delim = ',', quote "
        f"= '\"', escape = '\"'{rejects})"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _translated(text: str, columns: dict[str, str]) -> str:
    """A configured column or Spark SQL expression as DuckDB writes it."""
    if text in columns:
        return f'"{text}"'
    for ours, theirs in FUNCTIONS.items():
        text = re.sub(rf"\b{re.escape(ours)}", theirs, text)
    return text


def _halves(first: int, length: int, longest: int) -> Iterator[tuple[int, int]]:
    """First click and length of the pieces of a session that is halved while it is too long."""
    if length <= longest:
        yield first, length
        return
    front = (length + 1) // 2
    yield from _halves(first, front, longest)
    yield from _halves(first + front, length - front, longest)


def _part(split: Split) -> str:
    if split.kind == "time" and split.cut is not None:
        cut = round(split.cut.timestamp() * 1e6)
        end = (
            "true" if split.hours is None else f"session_start < {cut + round(split.hours * 3.6e9)}"
        )
        before = f"""CASE WHEN "timestamp" < {cut} THEN 'train' ELSE 'unused' END"""
        return (
            f"CASE WHEN session_start < {cut} THEN {before} WHEN {end} THEN 'test' ELSE "
            "'unused' END"
        )
    if split.kind == "last_items":
        held = (
            f"clicks_of_user >= {split.minimum_items} AND position >= clicks_of_user - "
            f"{split.items}"
        )
        return f"CASE WHEN {held} THEN 'test' ELSE 'train' END"
    return "'train'"
