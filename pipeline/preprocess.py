"""The pipeline from a raw log to training shards, each step one table on disk."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline import cases, clean, graphs, histograms, sequences, source, statistics, views, vocabulary, walks
from pipeline.app_events import is_app_event, with_app_times
from pipeline.config import ITEM_VIEW, PipelineConfig, Relation, View
from pipeline.files import remove_folder, write_text
from pipeline.manifest import MANIFEST, Manifest, RelationShards, ShardFile, Stream, ViewShards
from pipeline.places import Place
from pipeline.sessions import with_sessions
from pipeline.shards import write_stream, write_vocabulary
from pipeline.spark import Lake, PipelineError
from pipeline.split import TRAIN, with_part

STEPS = 9


@dataclass(frozen=True)
class Output:
    """Where the pipeline writes."""

    lake: Place
    shards: Place
    heldout: Place
    statistics: Place


@dataclass(frozen=True)
class Identity:
    """What made an output: kept in the manifest."""

    config: dict[str, Any]
    config_hash: str
    code_version: str


class Pipeline:
    """One run. Each method is a step; `run` tells their order."""

    def __init__(self, spark: SparkSession, settings: PipelineConfig, output: Output, identity: Identity) -> None:
        self.spark, self.settings, self.output, self.identity = spark, settings, output, identity
        self.lake = Lake(spark, output.lake, settings.lake.partition_by_date)
        self.figures: dict[str, Any] = {"name": settings.name, "seed": settings.seed}
        self._began = time.perf_counter()
        self._step = 0
        self._items: DataFrame | None = None

    def run(self) -> Manifest:
        """From the raw log to the manifest, which is written last. Raises PipelineError."""
        mapped = source.map_events(source.read(self.spark, self.settings.source), self.settings.source)
        items = views.item_table(self.spark, self.settings.source)
        # Every column that the configuration names is there: only now is older output given up.
        self._forget()
        with self._timed("events"):
            self._events(mapped)
        with self._timed("clicks and sessions"):
            clicks = self._clean()
        with self._timed("vocabularies"):
            self._items = None if items is None else self.lake.scratch("items", items)
            values, occurrences, vocabularies = self._vocabularies(clicks)
        with self._timed("sequences"):
            sessions = self._sessions(occurrences)
        with self._timed("edges and links"):
            self._graphs(sessions, values, vocabularies)
        with self._timed("shards"):
            manifest = self._shards(sessions, occurrences, vocabularies)
        with self._timed("held-out cases"):
            cases.write_cases(self.output.heldout, clicks)
        with self._timed("statistics"):
            self._statistics(clicks, sessions, vocabularies, manifest)
        with self._timed("manifest"):
            write_text(self.output.statistics, json.dumps(self.figures, indent=2) + "\n")
            manifest.write(self.output.shards)
        self.lake.sweep()
        return manifest

    def _forget(self) -> None:
        """Older shards and cases are no longer whole once their inputs change."""
        for folder in (self.output.shards, self.output.heldout):
            (folder / MANIFEST).unlink(missing_ok=True)
            remove_folder(folder)
        self.output.statistics.unlink(missing_ok=True)

    def _events(self, mapped: DataFrame) -> None:
        """Raw rows -> `events` and `rejects`."""
        log = self.settings.source
        flaws = source.flaw_names(log)
        seen = Observation("raw rows")
        counts = [F.count("*").alias("rows"), F.count(source.REASON).alias("rejected")]
        counts += [F.count(F.when(F.col(source.FLAW) == flaw, True)).alias(flaw) for flaw in flaws]
        counted = source.judged(mapped, source.FLAW).observe(seen, *counts)
        self.lake.write("events", counted.where(F.col(source.REASON).isNull()).drop(source.REASON, source.FLAW), by_date=True)
        rows, rejected = seen.get["rows"], seen.get["rejected"]
        table = self.lake.write("rejects", source.rejects(mapped if rejected else mapped.limit(0)))
        reasons = {row[source.REASON]: row["count"] for row in table.groupBy(source.REASON).count().orderBy(source.REASON).collect()}
        self.figures["funnel"] = {"raw rows": rows, "rejected": reasons, "flaws": {flaw: seen.get[flaw] for flaw in flaws}}
        if rows == rejected:
            raise PipelineError(f"source.path '{log.path}' holds no event: {rows} rows, rejected: {reasons or 'none'}")
        if rejected > log.max_rejected_share * rows:
            raise PipelineError(
                f"{rejected} of {rows} rows ({rejected / rows:.1%}) of source.path '{log.path}' are rejected: {reasons}; that is more than "
                f"source.max_rejected_share = {log.max_rejected_share}. Look at {self.lake.root / 'rejects'}; mend the log or [source], "
                "or raise the limit"
            )

    def _clean(self) -> DataFrame:
        """`events` -> `clean`; returns the clicks with their part of the split."""
        settings = self.settings
        log, events = settings.source, self.lake.read("events")
        tells_of_app = bool(log.open_types or log.close_types)
        self.figures["funnel"]["app events"] = events.where(is_app_event(F.col("event_type"), log)).count() if tells_of_app else 0
        judged = clean.judge(with_app_times(events, log), settings.clean, log.event_types, settings.seed)
        dropped = F.col(clean.DROPPED)
        seen = Observation("judged events")
        counts = [F.count(F.when(dropped == reason, True)).alias(reason) for reason in clean.REASONS]
        counts += [F.count("stay_seconds").alias("known stay"), F.count(F.when(dropped.isNull(), True)).alias("clicks")]
        kept = clean.clicks(judged.observe(seen, *counts))
        clicks = self.lake.write("clean", with_sessions(kept, settings.sessions, settings.seed), by_date=True)
        self.figures["funnel"] |= {"dropped": {reason: seen.get[reason] for reason in clean.REASONS}, "clicks": seen.get["clicks"]}
        self.figures["funnel"]["events with a known stay"] = seen.get["known stay"]
        if not seen.get["clicks"]:
            raise PipelineError(
                f"no click is left of the events, dropped: {self.figures['funnel']['dropped']}; check [clean] and event_types"
            )
        return with_part(clicks, settings.split)

    def _vocabularies(self, clicks: DataFrame) -> tuple[dict[str, DataFrame], DataFrame, dict[str, DataFrame]]:
        """`vocabulary/<view>`; returns the values of each value view, the clicks with rows, the vocabularies."""
        settings, attributes = self.settings, self.settings.source.attributes
        value_views = {name: view for name, view in settings.views.items() if name != ITEM_VIEW}
        train = clicks.where(F.col("part") == TRAIN)
        seen = self.lake.scratch("seen", views.seen_items(train, [name for name in attributes if self._is_used(name)]))
        if seen.isEmpty():
            raise PipelineError("[split] leaves no click to train on; check `cut` and the times of the log")
        values = {
            name: self.lake.scratch(f"values_{name}", views.item_values(seen, self._items, view, view.attribute in attributes))
            for name, view in value_views.items()
        }
        self.figures["items whose value changed"] = {
            name: views.changed_items(seen, view) for name, view in value_views.items() if view.attribute in attributes
        }
        several = [name for name, view in value_views.items() if view.several == "draw" and views.has_several(values[name])]
        vocabularies = {}
        for name, view in settings.views.items():
            if name == ITEM_VIEW:
                counted = vocabulary.count_items(seen, view)
            elif name in several:
                counted = vocabulary.count_drawn(views.with_node(train, values[name], name, view, settings.seed), name, view)
            else:
                counted = vocabulary.count_values(seen, values[name], view)
            vocabularies[name] = self._vocabulary(counted, name, view)
        rows = self.lake.scratch("rows", vocabulary.rows_of_items(seen, values, several, vocabularies))
        return values, vocabulary.with_rows(clicks, rows, settings.views, settings.seed), vocabularies

    def _is_used(self, attribute: str) -> bool:
        return any(view.attribute == attribute for view in self.settings.views.values())

    def _vocabulary(self, counted: DataFrame, name: str, view: View) -> DataFrame:
        table = f"vocabulary/{name}"
        ranked = vocabulary.rank(self.lake.scratch(f"counted_{name}", counted), view.top)
        nodes = self.lake.write(table, vocabulary.append(self.lake.read(table), ranked) if self.lake.exists(table) else ranked)
        if vocabulary.in_use(nodes).isEmpty():
            raise PipelineError(f"view '{name}' has no node: check views.{name}.minimum_count, null_values and the attribute's column")
        return nodes

    def _sessions(self, occurrences: DataFrame) -> DataFrame:
        """`sessions`; returns them with the nodes of each view."""
        sessions = self.lake.scratch("sessions", sequences.sessions(occurrences, self.settings.views))
        table = sessions.select("user_id", "session_id", "start", "end", F.to_date("start").alias("date"), "item_ids")
        self.lake.write("sessions", table, by_date=True)
        return sessions

    def _graphs(self, sessions: DataFrame, values: dict[str, DataFrame], vocabularies: dict[str, DataFrame]) -> None:
        """`edges/<view>` and `links/<relation>`."""
        settings = self.settings
        self.figures["nodes"] = {name: vocabulary.in_use(frame).count() for name, frame in vocabularies.items()}
        edges = {name: self.lake.write(f"edges/{name}", graphs.edges(sessions, name, vocabularies[name])) for name in settings.views}
        self.figures["edges"] = {name: statistics.weighted(frame) for name, frame in edges.items()}
        self.figures["links"] = {}
        for name, relation in settings.relations.items():
            linked = graphs.links(values[relation.view], vocabularies[ITEM_VIEW], vocabularies[relation.view])
            self.figures["links"][name] = statistics.weighted(self.lake.write(f"links/{name}", linked))

    def _shards(self, sessions: DataFrame, occurrences: DataFrame, vocabularies: dict[str, DataFrame]) -> Manifest:
        """Streams and vocabularies of every view and relation; returns the manifest, not yet written."""
        settings, written = self.settings, {}
        titles = views.titles(self._items)
        named = None if titles is None else titles.withColumnRenamed("item_id", "id")
        for name in settings.views:
            version = self.lake.version(f"vocabulary/{name}")
            nodes = write_vocabulary(self.output.shards, name, vocabularies[name], named if name == ITEM_VIEW else None, version)
            written[name] = ViewShards(vocabulary=nodes, streams=tuple(self._view_streams(sessions, name, vocabularies[name])))
        relations = {name: self._relation(occurrences, vocabularies, name, relation) for name, relation in settings.relations.items()}
        manifest = self._manifest(written, relations)
        empty = [name for name, pairs in statistics.pairs(manifest).items() if not pairs]
        if empty:
            raise PipelineError(
                f"no training pairs for {', '.join(empty)}: no sequence shows two nodes, or no item has a value; check [views]"
            )
        return manifest

    def _view_streams(self, sessions: DataFrame, name: str, nodes: DataFrame) -> Iterator[Stream]:
        """The streams of a view: its sequences in the encodings asked for; the edges of a graph as pairs alone, which they are."""
        view, settings = self.settings.views[name], self.settings
        if view.sequences == "edges":
            rows = walks.edge_rows(self.lake.read(f"edges/{name}"), nodes, view.directed)
            yield self._pairs(name, rows, ["centre", "piece"], "edges")
            return
        if view.sequences == "walks":
            drawn = walks.walks(self.lake.read(f"edges/{name}"), nodes, view, settings.seed, name, self.lake.scratch)
            rows, key = self.lake.scratch(f"walks_{name}", drawn), ["walk_id"]
        else:
            rows, key = sequences.windows(sessions, name), list(sequences.KEY)
        window = settings.shards.window
        for encoding in settings.shards.encodings:
            if encoding == "windows":
                files = self._stream(f"{name}/windows", rows, key, ["nodes"], window)
                yield Stream(encoding=encoding, source=view.sequences, centre_view=name, context_view=name, window=window, files=files)
            else:
                yield self._pairs(name, sequences.pairs(rows, key, window), [*key, "position"], view.sequences)

    def _pairs(self, view: str, rows: DataFrame, key: list[str], origin: Literal["sessions", "walks", "edges"]) -> Stream:
        files = self._stream(f"{view}/pairs", rows, key, ["centre", "contexts"], None)
        return Stream(encoding="pairs", source=origin, centre_view=view, context_view=view, window=None, files=files)

    def _relation(self, occurrences: DataFrame, vocabularies: dict[str, DataFrame], name: str, relation: Relation) -> RelationShards:
        linked = self.lake.read(f"links/{name}")
        rows, key = sequences.link_rows(linked, vocabularies[ITEM_VIEW], vocabularies[relation.view]), ["item_id"]
        if relation.rows == "clicks":
            rows, key = sequences.click_rows(occurrences, rows), ["user_id", "session_id", "position"]
        files = self._stream(f"{name}/pairs", rows, key, ["centre", "contexts"], None)
        stream = Stream(encoding="pairs", source=relation.rows, centre_view=ITEM_VIEW, context_view=relation.view, window=None, files=files)
        return RelationShards(view=relation.view, links=self.figures["links"][name]["distinct"], streams=(stream,))

    def _stream(self, name: str, rows: DataFrame, key: list[str], columns: list[str], window: int | None) -> tuple[ShardFile, ...]:
        limits = self.settings.shards
        shuffled = sequences.shuffled(rows, key, columns, limits.files, self.settings.seed)
        return write_stream(self.output.shards, name, shuffled, limits.row_group_rows, window)

    def _statistics(self, clicks: DataFrame, sessions: DataFrame, vocabularies: dict[str, DataFrame], manifest: Manifest) -> None:
        """What is counted once all tables are there; `statistics`."""
        graphs_ = {name: (self.lake.read(f"edges/{name}"), nodes) for name, nodes in vocabularies.items()}
        counted = list(histograms.quantities(self.lake.read("clean"), sessions, graphs_))
        self.figures |= {
            "pairs": statistics.pairs(manifest),
            "parts": statistics.parts(clicks, sessions),
            "sequences": statistics.funnel_of_views(sessions, vocabularies),
            statistics.HISTOGRAMS: histograms.measure(counted),
        }
        self.lake.write(statistics.TABLE, statistics.table(self.spark, self.figures))

    def _manifest(self, written: dict[str, ViewShards], relations: dict[str, RelationShards]) -> Manifest:
        settings, identity = self.settings, self.identity
        tables = ["events", "rejects", "clean", "sessions", *(f"vocabulary/{name}" for name in settings.views)]
        tables += [*(f"edges/{name}" for name in settings.views), *(f"links/{name}" for name in settings.relations)]
        return Manifest(
            name=settings.name,
            seed=settings.seed,
            window=settings.shards.window,
            views=written,
            relations=relations,
            config=identity.config,
            config_hash=identity.config_hash,
            code_version=identity.code_version,
            inputs={table: self.lake.version(table) for table in tables},
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        """Says which step begins, and how long it took."""
        self._step += 1
        began = time.perf_counter()
        print(f"[{self._step}/{STEPS}] {step} ...", flush=True)
        yield
        now = time.perf_counter()
        print(f"[{self._step}/{STEPS}] {step}: {now - began:.1f} s ({now - self._began:.0f} s in all)", flush=True)
        self.figures.setdefault("seconds", {})[step] = round(now - began, 1)
