"""Clicks and item tables -> the nodes of each view: their vocabulary, and the row of each click."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TypeVar

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.split import TRAIN
from pipeline.config import ITEM_VIEW, View, fingerprint
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import MANIFEST
from pipeline.errors import PipelineError
from pipeline.graphs import views, vocabulary
from pipeline.lake import Lake, Note, dates_in
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.renew import Clicks
from pipeline.spark import side_by_side
from pipeline.storage.files import remove_folder

ITEM_DAYS_BY = ("date",)
"""What the table is partitioned by."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class ItemTables:
    """What item tables say, before any row of them is read."""

    values: DataFrame | None
    """`views.item_table`; None: there are no such tables."""
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
    """`views.item_rows`."""
    examples: Mapping[str, Mapping[str, tuple[str, str]]]
    """`views.item_examples`."""
    coverage: Mapping[str, int] | None
    """`views.item_coverage`; None: there are no item tables."""
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
    observations = views.item_observations(log)
    return ItemTables(views.item_table(pipeline.spark, log, observations), observations)


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
    lake, observations = pipeline.lake, item_tables.observations
    items = item_tables.values
    if items is not None:
        items = lake.write("items", items)
    rows, examples = views.item_rows(observations), views.item_examples(observations)
    seen = _seen_items(pipeline, clicks)
    coverage = None if items is None else views.item_coverage(items, seen)
    values = _values(pipeline, seen, items)
    counts = ItemCounts(rows, examples, coverage, _changed_items(pipeline, seen))
    several = _views_that_draw(pipeline, values)
    count = partial(_count, pipeline, clicks.frame, seen, values, several)

    def vocabulary_of(name: str, view: View) -> tuple[DataFrame, NodeCounts]:
        return _write_vocabulary(lake, count(name, view), name, view)

    written = for_each_view(pipeline, vocabulary_of)
    nodes = {name: frame for name, (frame, _) in written.items()}
    node_counts = {name: counted for name, (_, counted) in written.items()}
    occurrences = _occurrences(pipeline, clicks, seen, values, several, nodes)
    return Vocabularies(items, values, nodes, occurrences, node_counts, counts)


def read_vocabularies(pipeline: Pipeline, clicks: Clicks) -> Vocabularies:
    """The vocabularies as they are, and what follows from them and the clicks."""
    lake, settings = pipeline.lake, pipeline.settings
    items = lake.read("items") if settings.source.items else None
    seen = _seen_items(pipeline, clicks)
    nodes = {name: lake.read(f"vocabulary/{name}") for name in settings.views}
    values = _values(pipeline, seen, items)
    several = _views_that_draw(pipeline, values)
    occurrences = _occurrences(pipeline, clicks, seen, values, several, nodes)
    return Vocabularies(items, values, nodes, occurrences, node_counts={}, item_counts=None)


def for_each_view(pipeline: Pipeline, make: Callable[[str, View], Result]) -> dict[str, Result]:
    """What is made for each view, side by side."""
    work = {name: partial(make, name, view) for name, view in pipeline.settings.views.items()}
    return side_by_side(pipeline.spark, work)


def _seen_items(pipeline: Pipeline, clicks: Clicks) -> DataFrame:
    """`views.seen_items` of the training part; where days come one by one, by `item_days`: only
    days that changed are counted."""
    settings = pipeline.settings
    used = {view.attribute for view in settings.views.values()}
    attributes = [name for name in settings.source.attributes if name in used]
    train = clicks.frame.where(F.col("part") == TRAIN)
    # The last items of a user are others after each click: with this split, no day keeps its
    # training part.
    if clicks.whole or settings.split.kind == "last_items":
        items = views.seen_items(train, attributes)
    else:
        items = views.over_days(_item_days(pipeline, train, attributes))
    seen = pipeline.lake.scratch("seen", items)
    if seen.isEmpty():
        raise PipelineError(
            "[split] leaves no click to train on; check `cut` and the times of the log"
        )
    return seen


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


def _values(pipeline: Pipeline, seen: DataFrame, items: DataFrame | None) -> dict[str, DataFrame]:
    """The values that items have in each value view."""
    settings, values = pipeline.settings, {}
    for name, view in settings.views.items():
        if name != ITEM_VIEW:
            on_events = view.attribute in settings.source.attributes
            frame = views.item_values(seen, items, view, on_events)
            values[name] = pipeline.lake.scratch(f"values_{name}", frame)
    return values


def _changed_items(pipeline: Pipeline, seen: DataFrame) -> dict[str, int]:
    """How many items have changed their value, in each view of an attribute that stands on
    events."""
    settings = pipeline.settings
    return {
        name: views.changed_items(seen, view)
        for name, view in settings.views.items()
        if view.attribute in settings.source.attributes
    }


def _views_that_draw(pipeline: Pipeline, values: Mapping[str, DataFrame]) -> list[str]:
    """The views in which an occurrence draws one of its item's values."""
    settings = pipeline.settings
    return [
        name
        for name, frame in values.items()
        if settings.views[name].several == "draw" and views.has_several(frame)
    ]


def _count(
    pipeline: Pipeline,
    clicks: DataFrame,
    seen: DataFrame,
    values: Mapping[str, DataFrame],
    several: Collection[str],
    name: str,
    view: View,
) -> DataFrame:
    """How often each node of a view was clicked: id, count, first_date."""
    if name == ITEM_VIEW:
        return vocabulary.count_items(seen)
    if name not in several:
        return vocabulary.count_values(seen, values[name])
    # Each occurrence draws for itself, so that all clicks are gone through.
    train, seed = clicks.where(F.col("part") == TRAIN), pipeline.settings.seed
    return vocabulary.count_drawn(views.with_node(train, values[name], name, view, seed), name)


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
    pipeline: Pipeline,
    clicks: Clicks,
    seen: DataFrame,
    values: Mapping[str, DataFrame],
    several: Collection[str],
    nodes: Mapping[str, DataFrame],
) -> DataFrame:
    """The clicks with the rows of their nodes."""
    settings = pipeline.settings
    rows = vocabulary.rows_of_items(seen, values, several, nodes)
    rows = pipeline.lake.scratch("rows", rows)
    return vocabulary.with_rows(clicks.frame, rows, settings.views, settings.seed)
