"""From a raw log to training shards: the steps in their order, each of which leaves tables or files
on disk."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from pipeline.contracts.shards import Manifest
from pipeline.runs.graphs import make_graphs, make_sequences, read_graphs
from pipeline.runs.ingest import Delivery, open_delivery, read_events, take_in
from pipeline.runs.nodes import (
    ItemTables,
    Vocabularies,
    make_vocabularies,
    open_item_tables,
    read_vocabularies,
)
from pipeline.runs.pipeline import Pipeline, tables
from pipeline.runs.publish import RunFigures, count_all, publish
from pipeline.runs.renew import read_clicks, renew
from pipeline.runs.step import PipelineStep, Seconds, Values, make_all
from pipeline.runs.training_data import write_held_out, write_shards

SHARDS = PipelineStep("shards", write_shards)
HELD_OUT = PipelineStep("held-out cases", write_held_out)
STEPS = (
    PipelineStep("events", take_in, read=read_events),
    PipelineStep("clicks and sessions", renew, read=read_clicks),
    PipelineStep("vocabularies", make_vocabularies, read=read_vocabularies),
    PipelineStep("sequences", make_sequences),
    PipelineStep("sessions, edges, links", make_graphs, read=read_graphs),
    SHARDS,
    HELD_OUT,
    PipelineStep("statistics", count_all),
    PipelineStep("manifest", publish),
)


@dataclass(frozen=True)
class Preprocessed:
    """What came out of a run."""

    manifest: Manifest
    figures: Mapping[str, Any]
    """Those of statistics.json."""
    item_examples: Mapping[str, Mapping[str, tuple[str, str]]]
    """Option of an item table -> reason -> one of its rows that say nothing, and the row's file."""


def preprocess(
    pipeline: Pipeline, day: date | None = None, may_be_empty: bool = False
) -> Preprocessed:
    """From the raw log to the manifest, which is written last: the whole log in the place of all
    there is, or what one day brought, which may then be nothing, in the place of what it brought
    before. Raises PipelineError."""
    return _run(pipeline, day or "all", may_be_empty)


def update(pipeline: Pipeline) -> Preprocessed:
    """From the lake's `events` to the manifest, after they were changed by other means. Raises
    PipelineError."""
    return _run(pipeline, "nothing")


def _run(
    pipeline: Pipeline, taking: date | Literal["all", "nothing"], may_be_empty: bool = False
) -> Preprocessed:
    began = time.perf_counter()
    # Every column that the configuration names is looked for before anything is written.
    delivery = open_delivery(pipeline, taking, may_be_empty)
    item_tables = open_item_tables(pipeline)
    pipeline.lake.hold(tables(pipeline.settings))
    given = {Pipeline: pipeline, Delivery: delivery, ItemTables: item_tables}
    values = make_all(STEPS, given, began)
    pipeline.lake.sweep()
    return _preprocessed(pipeline, values)


def _preprocessed(pipeline: Pipeline, values: Values) -> Preprocessed:
    figures: RunFigures = values[RunFigures]
    vocabularies: Vocabularies = values[Vocabularies]
    item_counts = vocabularies.item_counts
    return Preprocessed(
        manifest=values[Manifest],
        figures=figures.of_run(pipeline.settings, values[Seconds]).as_json(),
        item_examples=item_counts.examples if item_counts else {},
    )
