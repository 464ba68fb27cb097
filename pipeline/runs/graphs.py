"""The clicks in their order -> sequences of nodes, and the graphs that these make: `sessions`,
`edges/<view>`, `links/<relation>`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import ITEM_VIEW
from pipeline.figures import statistics
from pipeline.graphs import sequences
from pipeline.graphs.edges import directed_edges, item_links
from pipeline.lake import GoneError, Lake, Note, dates_in, older_versions
from pipeline.runs.nodes import Vocabularies
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.renew import Clicks
from pipeline.spark import side_by_side

SESSIONS_BY = ("date",)
"""What the table is partitioned by."""


@dataclass(frozen=True)
class NodeSequences:
    """The sequences of nodes of all views."""

    sessions: DataFrame
    """`sequences.sessions`."""


@dataclass(frozen=True)
class Graphs:
    """`edges` and `links` are up to date. Both hold how many there are, `distinct`, and their total
    `weight`."""

    edges: Mapping[str, Mapping[str, int]]
    """Of each view; empty where older graphs are read again."""
    links: Mapping[str, Mapping[str, int]]
    """Of each relation."""


def make_sequences(pipeline: Pipeline, vocabularies: Vocabularies) -> NodeSequences:
    """Computed once and read by graphs, shards and statistics."""
    sessions = sequences.sessions(vocabularies.occurrences, pipeline.settings.views)
    return NodeSequences(pipeline.lake.scratch("sessions", sessions))


def make_graphs(
    pipeline: Pipeline, clicks: Clicks, vocabularies: Vocabularies, node_sequences: NodeSequences
) -> Graphs:
    """Writes `sessions`, `edges/<view>` and `links/<relation>`, side by side."""
    lake, settings, nodes = pipeline.lake, pipeline.settings, vocabularies.nodes
    sessions = node_sequences.sessions

    def write_sessions() -> dict[str, int]:
        _write_sessions(lake, sessions, clicks.whole)
        return {}

    def write_edges(view: str) -> dict[str, int]:
        return _weighted(lake, f"edges/{view}", directed_edges(sessions, view, nodes[view]))

    def write_links(relation: str) -> dict[str, int]:
        view = settings.relations[relation].view
        links = item_links(vocabularies.values[view], nodes[ITEM_VIEW], nodes[view])
        return _weighted(lake, f"links/{relation}", links)

    work: dict[str, Callable[[], dict[str, int]]] = {"sessions": write_sessions}
    for view in settings.views:
        work[f"edges/{view}"] = partial(write_edges, view)
    for relation in settings.relations:
        work[f"links/{relation}"] = partial(write_links, relation)
    written = side_by_side(pipeline.spark, work)
    return Graphs(
        edges={view: written[f"edges/{view}"] for view in settings.views},
        links={relation: written[f"links/{relation}"] for relation in settings.relations},
    )


def read_graphs(pipeline: Pipeline) -> Graphs:
    """The links as they are; of the edges, shards need no count."""
    lake, relations = pipeline.lake, pipeline.settings.relations
    links = {name: statistics.weighted(lake.read(f"links/{name}")) for name in relations}
    return Graphs(edges={}, links=links)


def _weighted(lake: Lake, table: str, frame: DataFrame) -> dict[str, int]:
    """Writes edges or links; returns how many there are, and their total weight."""
    distinct, weight = F.count("*"), F.sum("weight")
    _, counts = lake.write_counted(table, frame, distinct=distinct, weight=weight)
    return counts


def _write_sessions(lake: Lake, sessions: DataFrame, whole: bool) -> None:
    """`sessions`, of the dates that changed."""
    table, rows = "sessions", sequences.session_table(sessions)
    days = None if whole else _changed_starts(lake)
    inputs = {"clean": lake.version("clean")}
    if days is None:
        lake.write(table, rows, SESSIONS_BY, note=Note(inputs=inputs))
    elif days:
        on_days = rows.where(F.col("date").isin(*days))
        note = Note(inputs=inputs, changed=tuple(map(str, days)))
        lake.write(table, on_days, SESSIONS_BY, dates_in(days), note)


def _changed_starts(lake: Lake) -> list[date] | None:
    """The dates on which sessions begin whose clicks have changed since `sessions` was written;
    None: any."""
    note = lake.note("sessions")
    changed = lake.changed_since("sessions", "clean", "")
    if changed is None or note is None:
        return None
    return _starts(lake, note.inputs["clean"], changed)


def _starts(lake: Lake, version: int, dates: list[str]) -> list[date] | None:
    """The dates on which sessions begin, or began in an older version of `clean`, that have clicks
    of some dates; None: that version was vacuumed."""
    of_dates = F.col("date").isin(*map(date.fromisoformat, dates))
    start = F.to_date("session_start").alias("start")
    try:
        with older_versions():
            before = lake.read("clean", lake.like("clean", version))
            clicks = before.unionByName(lake.read("clean"), allowMissingColumns=True)
            rows = clicks.where(of_dates).select(start).distinct().collect()
    except GoneError:
        return None
    return sorted(row["start"] for row in rows)
