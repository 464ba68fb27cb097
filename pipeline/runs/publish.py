"""What a run counted, and the manifest that makes its shards whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pipeline.config import PipelineConfig
from pipeline.contracts.shards import Manifest
from pipeline.contracts.statistics import Statistics
from pipeline.figures import histograms, statistics
from pipeline.lake import Note
from pipeline.runs.graphs import Graphs, NodeSequences
from pipeline.runs.nodes import ItemCounts, NodeCounts, Vocabularies
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.renew import Clicks
from pipeline.runs.step import Seconds
from pipeline.spark import side_by_side


@dataclass(frozen=True)
class RunFigures:
    """What goes to statistics.json."""

    counts: Mapping[str, Any]
    """All but the name of the project, its seed, and how long the steps took."""

    def of_run(self, settings: PipelineConfig, seconds: Seconds) -> Statistics:
        """The record of the run that counted them."""
        return Statistics.model_validate(
            {
                "name": settings.name,
                "seed": settings.seed,
                "seconds": dict(seconds.of_steps),
                **self.counts,
            }
        )


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
    items, nodes = vocabularies.item_counts, vocabularies.node_counts
    counts = {
        "funnel": _funnel(clicks, items),
        "items whose value changed": items.changed,
        "nodes": {view: of_view.in_use["nodes"] for view, of_view in nodes.items()},
        "nodes left out": _left_out(nodes, "nodes"),
        "edges": graphs.edges,
        "links": graphs.links,
        "pairs": statistics.pairs_of_streams(manifest),
    }
    counts |= _count_sessions(pipeline, clicks, vocabularies, node_sequences)
    lake = pipeline.lake
    table = statistics.long_table(pipeline.spark, counts)
    inputs = {name: lake.version(name) for name in ("events", "clean")}
    # The next renewal takes up the counts of the clicks from here.
    note = Note(inputs=inputs, counts=clicks.counts)
    lake.write(statistics.TABLE, table, note=note)
    return RunFigures(counts)


def publish(pipeline: Pipeline, manifest: Manifest, figures: RunFigures, seconds: Seconds) -> None:
    """Writes statistics.json and the manifest, last of all. Raises PipelineError where another run
    has written the lake meanwhile."""
    # Of a writer that no lock kept away, on a store: what it wrote since would be pinned as ours,
    # and our shards are gone.
    pipeline.lake.check_alone()
    output = pipeline.output
    figures.of_run(pipeline.settings, seconds).write(output.statistics)
    # Kept first: once published, the next run may remove it.
    manifest.keep(output.manifests)
    manifest.write(output.shards)


def _funnel(clicks: Clicks, items: ItemCounts) -> dict[str, Any]:
    """From raw rows to clicks, and what item tables tell of them."""
    funnel = clicks.funnel | {"item tables": items.tables}
    if items.coverage is not None:
        funnel["items"] = items.coverage
    return funnel


def _count_sessions(
    pipeline: Pipeline, clicks: Clicks, vocabularies: Vocabularies, node_sequences: NodeSequences
) -> dict[str, Any]:
    """Parts of the split, the funnel of each view and the histograms, side by side."""
    lake, sessions = pipeline.lake, node_sequences.sessions
    view_graphs = {}
    for view, nodes in vocabularies.nodes.items():
        view_graphs[view] = (lake.read(f"edges/{view}"), nodes)
    quantities = list(histograms.quantities(lake.read("clean"), sessions, view_graphs))
    node_counts = vocabularies.node_counts
    in_use = {view: counts.in_use["clicks"] for view, counts in node_counts.items()}
    left_out = _left_out(node_counts, "clicks")
    work = {
        "parts": partial(statistics.parts_of_split, clicks.frame, sessions),
        "sequences": partial(statistics.funnel_of_views, sessions, in_use, left_out),
        statistics.HISTOGRAMS: partial(histograms.measure, quantities),
    }
    return side_by_side(pipeline.spark, work)


def _left_out(
    node_counts: Mapping[str, NodeCounts], what: Literal["nodes", "clicks"]
) -> dict[str, dict[str, int]]:
    """View -> limit -> the nodes, or clicks, that it leaves out."""
    left_out = {}
    for view, counts in node_counts.items():
        limits = counts.left_out.items()
        left_out[view] = {limit: of_limit[what] for limit, of_limit in limits}
    return left_out
