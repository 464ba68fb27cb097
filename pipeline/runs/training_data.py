"""Sequences and graphs -> what is trained on and what is held out: shards and cases."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pyspark.sql import DataFrame

from pipeline.clicks.sessions import SESSION
from pipeline.config import ITEM_VIEW, Relation, View
from pipeline.contracts.shards import Manifest, RelationShards, ShardFile, Stream, ViewShards
from pipeline.errors import PipelineError
from pipeline.figures import statistics
from pipeline.graphs import sequences, walks
from pipeline.log import item_tables
from pipeline.runs.graphs import Graphs, NodeSequences
from pipeline.runs.nodes import Vocabularies, for_each_view, forget
from pipeline.runs.pipeline import Pipeline, tables
from pipeline.runs.renew import Clicks
from pipeline.shards import cases, streams
from pipeline.shards.writer import write_stream, write_vocabulary
from pipeline.spark import side_by_side

Origin = Literal["sessions", "walks", "edges", "links", "clicks"]
"""What the rows of a stream come from."""


def write_shards(
    pipeline: Pipeline, vocabularies: Vocabularies, node_sequences: NodeSequences, graphs: Graphs
) -> Manifest:
    """Streams and vocabularies of every view and relation; returns the manifest, not yet written.
    Raises PipelineError where a task has no pair."""
    # Of a run that read all before, this is the first that writes.
    forget(pipeline.output)
    shards = _Shards(pipeline, vocabularies, node_sequences.sessions, graphs)
    view_shards = for_each_view(pipeline, shards.of_view)
    work = {
        name: partial(shards.of_relation, name, relation)
        for name, relation in pipeline.settings.relations.items()
    }
    relation_shards = side_by_side(pipeline.spark, work)
    manifest = _manifest(pipeline, view_shards, relation_shards)
    pairs = statistics.pairs_of_streams(manifest)
    empty = [task for task, count in pairs.items() if not count]
    if empty:
        raise PipelineError(
            f"no training pairs for {', '.join(empty)}: no sequence shows two nodes, or no "
            "item has a value; check [views]"
        )
    return manifest


def write_held_out(pipeline: Pipeline, clicks: Clicks) -> None:
    """The cases of the parts that nothing is learned from."""
    cases.write_cases(pipeline.output.heldout, clicks.frame)


def _manifest(
    pipeline: Pipeline,
    view_shards: dict[str, ViewShards],
    relation_shards: dict[str, RelationShards],
) -> Manifest:
    settings, identity, lake = pipeline.settings, pipeline.identity, pipeline.lake
    return Manifest(
        name=settings.name,
        seed=settings.seed,
        window=settings.shards.window,
        views=view_shards,
        relations=relation_shards,
        config=identity.config,
        config_hash=identity.config_hash,
        code_version=identity.code_version,
        inputs={table: lake.version(table) for table in tables(settings)},
    )


@dataclass(frozen=True)
class _Shards:
    """Writes the files of one view or relation."""

    pipeline: Pipeline
    vocabularies: Vocabularies
    sessions: DataFrame
    graphs: Graphs

    def of_view(self, name: str, view: View) -> ViewShards:
        """The vocabulary of a view and its streams."""
        titles = None
        if name == ITEM_VIEW:
            titles = item_tables.titles(self.vocabularies.items)
        if titles is not None:
            titles = titles.withColumnRenamed("item_id", "id")
        version = self.pipeline.lake.version(f"vocabulary/{name}")
        shards, nodes = self.pipeline.output.shards, self.vocabularies.nodes[name]
        file = write_vocabulary(shards, name, nodes, titles, version)
        return ViewShards(vocabulary=file, streams=tuple(self._view_streams(name, view)))

    def _view_streams(self, name: str, view: View) -> Iterator[Stream]:
        """The streams of a view: its sequences in the encodings asked for; the edges of a graph as
        pairs alone, which they are."""
        if view.sequences == "edges":
            nodes = self.vocabularies.nodes[name]
            rows = walks.edge_rows(self._edges(name), nodes, view.directed)
            yield self._pairs(name, (name, name), "edges", rows, ["centre", "piece"])
            return
        if view.sequences == "walks":
            rows, key = self._walks(name, view), ["walk_id"]
        else:
            rows, key = streams.windows(self.sessions, name), list(SESSION)
        limits = self.pipeline.settings.shards
        for encoding in limits.encodings:
            if encoding == "windows":
                yield self._windows(name, view, rows, key)
            else:
                pairs = streams.pairs(rows, key, limits.window)
                yield self._pairs(name, (name, name), view.sequences, pairs, [*key, "position"])

    def _edges(self, view: str) -> DataFrame:
        return self.pipeline.lake.read(f"edges/{view}")

    def _walks(self, name: str, view: View) -> DataFrame:
        lake, seed = self.pipeline.lake, self.pipeline.settings.seed
        edges, nodes = self._edges(name), self.vocabularies.nodes[name]
        drawn = walks.walks(edges, nodes, view, seed, name, lake.scratch)
        # Drawn once for all encodings.
        return lake.scratch(f"walks_{name}", drawn)

    def _windows(self, name: str, view: View, rows: DataFrame, key: list[str]) -> Stream:
        window = self.pipeline.settings.shards.window
        return Stream(
            encoding="windows",
            source=view.sequences,
            centre_view=name,
            context_view=name,
            window=window,
            files=self._files(f"{name}/windows", rows, key, ["nodes"], window),
        )

    def of_relation(self, name: str, relation: Relation) -> RelationShards:
        """The links of a relation as pairs: a row an item, or a row a click on it."""
        links, nodes = self.pipeline.lake.read(f"links/{name}"), self.vocabularies.nodes
        rows = streams.link_rows(links, nodes[ITEM_VIEW], nodes[relation.view])
        key = ["item_id"]
        if relation.rows == "clicks":
            rows = streams.click_rows(self.vocabularies.occurrences, rows)
            key = [*SESSION, sequences.POSITION]
        stream = self._pairs(name, (ITEM_VIEW, relation.view), relation.rows, rows, key)
        count = self.graphs.links[name]["distinct"]
        return RelationShards(view=relation.view, links=count, streams=(stream,))

    def _pairs(
        self, task: str, views_: tuple[str, str], origin: Origin, rows: DataFrame, key: list[str]
    ) -> Stream:
        """`task`: a view or a relation. `views_`: those of the centres and of their contexts."""
        centre_view, context_view = views_
        return Stream(
            encoding="pairs",
            source=origin,
            centre_view=centre_view,
            context_view=context_view,
            window=None,
            files=self._files(f"{task}/pairs", rows, key, ["centre", "contexts"], None),
        )

    def _files(
        self, name: str, rows: DataFrame, key: list[str], columns: list[str], window: int | None
    ) -> tuple[ShardFile, ...]:
        limits, seed = self.pipeline.settings.shards, self.pipeline.settings.seed
        shuffled = streams.shuffled(rows, key, columns, limits.files, seed)
        shards = self.pipeline.output.shards
        return write_stream(shards, name, shuffled, limits.row_group_rows, window)
