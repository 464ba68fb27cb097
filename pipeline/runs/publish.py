"""What a run counted, and the manifest that makes its shards whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.config import PipelineConfig
from pipeline.contracts.shards import Manifest
from pipeline.figures import histograms, statistics
from pipeline.lake import Note
from pipeline.runs.graphs import Graphs, NodeSequences
from pipeline.runs.nodes import ItemCounts, NodeCounts, Vocabularies
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.renew import Clicks
from pipeline.runs.step import Seconds
from pipeline.spark import side_by_side
from pipeline.storage.files import write_text


@dataclass(frozen=True)
class RunFigures:
    """What goes to statistics.json."""

    counts: Mapping[str, Any]
    """All but the name of the project, its seed, and how long the steps took."""

    def as_json(self, settings: PipelineConfig, seconds: Seconds) -> dict[str, Any]:
        """The file's keys in their order."""
        return {
            "name": settings.name,
            "seed": settings.seed,
            "seconds": dict(seconds.of_steps),
            **self.counts,
        }


def count_all(
    pipeline: Pipeline,
    clicks: Clicks,
    vocabularies: Vocabularies,
    node_sequences: NodeSequences,
    graphs: Graphs,
    manifest: Manifest,
) -> RunFigures:
    """What is counted once all tables are there; writes `statistics`."""
    assert vocabularies.item_counts is not None, "only what is made is counted"
    counts = {
        **_counts_of_items(clicks, vocabularies.item_counts),
        **_counts_of_graphs(vocabularies.node_counts, graphs),
        "pairs": statistics.pairs(manifest),
        **_counts_of_sessions(pipeline, clicks, vocabularies, node_sequences),
    }
    lake = pipeline.lake
    inputs = {table: lake.version(table) for table in ("events", "clean")}
    note = Note(inputs=inputs, counts=clicks.counts)
    lake.write(statistics.TABLE, statistics.table(pipeline.spark, counts), note=note)
    return RunFigures(counts)


def publish(pipeline: Pipeline, manifest: Manifest, figures: RunFigures, seconds: Seconds) -> None:
    """Writes statistics.json and the manifest, last of all. Raises PipelineError where another run
    has written the lake meanwhile."""
    # Of a writer that no lock kept away, on a store: what it wrote since would be pinned as ours,
    # and our shards are gone.
    pipeline.lake.check_alone()
    output = pipeline.output
    figures_json = figures.as_json(pipeline.settings, seconds)
    write_text(output.statistics, json.dumps(figures_json, indent=2) + "\n")
    # Kept first: once published, the next run may remove it.
    manifest.keep(output.manifests)
    manifest.write(output.shards)


def _counts_of_items(clicks: Clicks, items: ItemCounts) -> dict[str, Any]:
    funnel = clicks.funnel | {"item tables": items.tables}
    if items.coverage is not None:
        funnel["items"] = items.coverage
    return {"funnel": funnel, "items whose value changed": items.changed}


def _counts_of_graphs(nodes: Mapping[str, NodeCounts], graphs: Graphs) -> dict[str, Any]:
    return {
        "nodes": {view: counts.in_use["nodes"] for view, counts in nodes.items()},
        "nodes left out": {view: _left_out(counts, "nodes") for view, counts in nodes.items()},
        "edges": graphs.edges,
        "links": graphs.links,
    }


def _counts_of_sessions(
    pipeline: Pipeline, clicks: Clicks, vocabularies: Vocabularies, node_sequences: NodeSequences
) -> dict[str, Any]:
    """Parts of the split, the funnel of each view and the histograms, side by side."""
    lake, sessions = pipeline.lake, node_sequences.sessions
    view_graphs = {
        view: (lake.read(f"edges/{view}"), nodes) for view, nodes in vocabularies.nodes.items()
    }
    quantities = list(histograms.quantities(lake.read("clean"), sessions, view_graphs))
    nodes = vocabularies.node_counts
    in_use = {view: counts.in_use["clicks"] for view, counts in nodes.items()}
    left_out = {view: _left_out(counts, "clicks") for view, counts in nodes.items()}
    work = {
        "parts": partial(statistics.parts, clicks.frame, sessions),
        "sequences": partial(statistics.funnel_of_views, sessions, in_use, left_out),
        statistics.HISTOGRAMS: partial(histograms.measure, quantities),
    }
    return side_by_side(pipeline.spark, work)


def _left_out(counts: NodeCounts, what: str) -> dict[str, int]:
    """Limit -> the nodes, or clicks, that it leaves out."""
    return {limit: found[what] for limit, found in counts.left_out.items()}
