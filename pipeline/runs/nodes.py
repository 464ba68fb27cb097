"""Clicks and item tables -> the nodes of each view: their vocabulary, and the row of each click."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TypeVar

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import ITEM_VIEW, View, fingerprint
from pipeline.contracts.layout import Output
from pipeline.contracts.sealed import MANIFEST
from pipeline.contracts.statistics import TRAIN
from pipeline.errors import PipelineError
from pipeline.graphs import views, vocabulary
from pipeline.lake import Lake, Note, dates_in
from pipeline.log import item_tables
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.renew import Clicks
from pipeline.spark import side_by_side
from pipeline.storage.files import remove_folder

ITEM_DAYS_BY = ("date",)
"""What the table is partitioned by."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class ItemTables:
    """What item tables say, before any row of them is read."""

    values: DataFrame | None
    """`item_tables.item_table`; None: there are no such tables."""
    observations: Mapping[str, Observation]
    """What counts their rows once `values` is computed."""


@dataclass(frozen=True)
class NodeCounts:
    """What a run counted of the nodes of a view."""

    in_use: Mapping[str, int]
    """`nodes` that are in use, and the `clicks` on them."""
    left_out: Mapping[str, Mapping[str, int]]
    """Limit -> the `nodes` it leaves out and the `clicks` on them."""


@dataclass(frozen=True)
class ItemCounts:
    """What a run counted of items."""

    tables: Mapping[str, Mapping[str, int]]
    """`item_tables.item_rows`."""
    examples: Mapping[str, Mapping[str, tuple[str, str]]]
    """`item_tables.item_examples`."""
    coverage: Mapping[str, int] | None
    """`item_tables.item_coverage`; None: there are no item tables."""
    changed: Mapping[str, int]
    """View -> `views.changed_items`, of attributes that stand on events."""


@dataclass(frozen=True)
class Vocabularies:
    """The nodes of all views."""

    items: DataFrame | None
    """What item tables say; None: there are no such tables."""
    values: Mapping[str, DataFrame]
    """Value view -> the values of each item."""
    nodes: Mapping[str, DataFrame]
    """View -> `vocabulary/<view>`."""
    occurrences: DataFrame
    """The clicks with the rows of their nodes."""
    node_counts: Mapping[str, NodeCounts]
    """Of each view; empty where older vocabularies are read again."""
    item_counts: ItemCounts | None
    """None where older vocabularies are read again."""


def open_item_tables(pipeline: Pipeline) -> ItemTables:
    """Raises PipelineError where a table lacks a column that the configuration names."""
    log = pipeline.settings.source
    observations = item_tables.item_observations(log)
    return ItemTables(item_tables.item_table(pipeline.spark, log, observations), observations)


def forget(output: Output) -> None:
    """Older shards and cases are no longer whole once others take their place."""
    for folder in (output.shards, output.heldout):
        (folder / MANIFEST).unlink(missing_ok=True)
        remove_folder(folder)
    output.statistics.unlink(missing_ok=True)


def make_vocabularies(pipeline: Pipeline, clicks: Clicks, item_tables: ItemTables) -> Vocabularies:
    """Writes `items` and `vocabulary/<view>`. Raises PipelineError where nothing is left to train
    on, or a view has no node."""
    forget(pipeline.output)
    table = item_tables.values
    if table is not None:
        table = pipeline.lake.write("items", table)
    items = _items(pipeline, clicks, table)
    item_counts = _count_items(pipeline, items, item_tables.observations)

    def vocabulary_of(name: str, view: View) -> tuple[DataFrame, NodeCounts]:
        counted = _count(pipeline, clicks.frame, items, name, view)
        return _write_vocabulary(pipeline.lake, counted, name, view)

    written = for_each_view(pipeline, vocabulary_of)
    nodes = {name: frame for name, (frame, _) in written.items()}
    node_counts = {name: counts for name, (_, counts) in written.items()}
    occurrences = _occurrences(pipeline, clicks.frame, items, nodes)
    return Vocabularies(items.table, items.values, nodes, occurrences, node_counts, item_counts)


def read_vocabularies(pipeline: Pipeline, clicks: Clicks) -> Vocabularies:
    """The vocabularies as they are, and what follows from them and the clicks."""
    lake, settings = pipeline.lake, pipeline.settings
    table = lake.read("items") if settings.source.items else None
    items = _items(pipeline, clicks, table)
    nodes = {name: lake.read(f"vocabulary/{name}") for name in settings.views}
    occurrences = _occurrences(pipeline, clicks.frame, items, nodes)
    return Vocabularies(table, items.values, nodes, occurrences, node_counts={}, item_counts=None)


def for_each_view(pipeline: Pipeline, make: Callable[[str, View], Made]) -> dict[str, Made]:
    """What is made for each view, side by side."""
    work = {name: partial(make, name, view) for name, view in pipeline.settings.views.items()}
    return side_by_side(pipeline.spark, work)


@dataclass(frozen=True)
class _Items:
    """What is known of the items that were clicked."""

    table: DataFrame | None
    """What item tables say; None: there are no such tables."""
    clicked: DataFrame
    """`views.items_of_clicks` of the training part."""
    values: Mapping[str, DataFrame]
    """Value view -> the values of each item."""
    drawing: Collection[str]
    """The views in which an occurrence draws one of its item's values."""


def _items(pipeline: Pipeline, clicks: Clicks, table: DataFrame | None) -> _Items:
    clicked = pipeline.lake.scratch("seen", _clicked_items(pipeline, clicks))
    if clicked.isEmpty():
        raise PipelineError(
            "[split] leaves no click to train on; check `cut` and the times of the log"
        )
    values = _values(pipeline, clicked, table)
    drawing = [
        name
        for name, frame in values.items()
        if pipeline.settings.views[name].several == "draw" and views.has_several(frame)
    ]
    return _Items(table, clicked, values, drawing)


def _clicked_items(pipeline: Pipeline, clicks: Clicks) -> DataFrame:
    """`views.items_of_clicks` of the training part.

    Where days come one by one, by `item_days`: only days that changed are counted."""
    settings = pipeline.settings
    used = {view.attribute for view in settings.views.values()}
    attributes = [name for name in settings.source.attributes if name in used]
    train = clicks.frame.where(F.col("part") == TRAIN)
    # The last items of a user are others after each click: with this split, no day keeps its
    # training part.
    if clicks.whole or settings.split.kind == "last_items":
        return views.items_of_clicks(train, attributes)
    return views.over_days(_item_days(pipeline, train, attributes))


def _item_days(pipeline: Pipeline, train: DataFrame, attributes: list[str]) -> DataFrame:
    """`item_days`, of the dates on which `clean` has changed since it was last written."""
    lake, table = pipeline.lake, "item_days"
    rules = fingerprint([attributes, pipeline.settings.split.model_dump()])
    changed = lake.changed_since(table, "clean", rules)
    inputs = {"clean": lake.version("clean")}
    if changed is None:
        items = views.items_of_days(train, attributes)
        return lake.write(table, items, ITEM_DAYS_BY, note=Note(inputs=inputs, settings=rules))
    days = list(map(date.fromisoformat, changed))
    if days:
        on_days = train.where(F.col("date").isin(*days))
        items = views.items_of_days(on_days, attributes)
        note = Note(inputs=inputs, settings=rules, changed=tuple(changed))
        lake.write(table, items, ITEM_DAYS_BY, dates_in(days), note)
    return lake.read(table)


def _values(
    pipeline: Pipeline, clicked: DataFrame, table: DataFrame | None
) -> dict[str, DataFrame]:
    """The values that items have in each value view."""
    settings, values = pipeline.settings, {}
    for name, view in settings.views.items():
        if name != ITEM_VIEW:
            on_events = view.attribute in settings.source.attributes
            frame = views.item_values(clicked, table, view, on_events)
            values[name] = pipeline.lake.scratch(f"values_{name}", frame)
    return values


def _count_items(
    pipeline: Pipeline, items: _Items, observations: Mapping[str, Observation]
) -> ItemCounts:
    coverage = None
    if items.table is not None:
        coverage = item_tables.item_coverage(items.table, items.clicked)
    settings = pipeline.settings
    changed = {
        name: views.changed_items(items.clicked, view)
        for name, view in settings.views.items()
        if view.attribute in settings.source.attributes
    }
    return ItemCounts(
        tables=item_tables.item_rows(observations),
        examples=item_tables.item_examples(observations),
        coverage=coverage,
        changed=changed,
    )


def _count(
    pipeline: Pipeline, clicks: DataFrame, items: _Items, name: str, view: View
) -> DataFrame:
    """How often each node of a view was clicked: id, count, first_date."""
    if name == ITEM_VIEW:
        return vocabulary.count_items(items.clicked)
    values = items.values[name]
    if name not in items.drawing:
        return vocabulary.count_values(items.clicked, values)
    # Each occurrence draws for itself, so all clicks are gone through.
    train = clicks.where(F.col("part") == TRAIN)
    occurrences = views.with_node(train, values, name, view, pipeline.settings.seed)
    return vocabulary.count_drawn(occurrences, name)


def _write_vocabulary(
    lake: Lake, counted: DataFrame, name: str, view: View
) -> tuple[DataFrame, NodeCounts]:
    """`vocabulary/<view>`: the rows of an older one stay, new nodes are appended."""
    table = f"vocabulary/{name}"
    candidates = lake.scratch(f"counted_{name}", counted)

    def kept(what: str) -> vocabulary.Keep:
        return lambda frame: lake.scratch(f"{what}_{name}", frame)

    frequent = vocabulary.often_enough(candidates, view.minimum_count)
    rows = vocabulary.rank(frequent, view.top, kept("ranked"))
    if lake.exists(table):
        rows = vocabulary.append(lake.read(table), rows, kept("new"))
    is_in_use = F.when(F.col("count") > 0, True)
    written, in_use = lake.write_counted(
        table, rows, nodes=F.count(is_in_use), clicks=F.sum("count")
    )
    left_out = vocabulary.limits(candidates, view.minimum_count, in_use)
    if not in_use["nodes"]:
        raise PipelineError(
            f"view '{name}' has no node: check views.{name}.minimum_count, null_values and "
            "the attribute's column"
        )
    return written, NodeCounts(in_use, left_out)


def _occurrences(
    pipeline: Pipeline, clicks: DataFrame, items: _Items, nodes: Mapping[str, DataFrame]
) -> DataFrame:
    """The clicks with the rows of their nodes."""
    settings = pipeline.settings
    by_item = vocabulary.rows_of_items(items.clicked, items.values, items.drawing, nodes)
    rows = pipeline.lake.scratch("rows", by_item)
    return vocabulary.with_rows(clicks, rows, settings.views, settings.seed)
