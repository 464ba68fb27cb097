"""The pipeline from a raw log to training shards, each step one table on disk."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline import cases, clean, graphs, sequences, source, statistics, views, vocabulary
from pipeline.config import ITEM_VIEW, PipelineConfig, Relation, View
from pipeline.files import write_text
from pipeline.manifest import MANIFEST, Manifest, RelationShards, ShardFile, Stream, ViewShards
from pipeline.sessions import session_table, with_sessions
from pipeline.shards import write_stream, write_vocabulary
from pipeline.spark import Lake, PipelineError
from pipeline.split import TRAIN, with_part

STEPS = 8


@dataclass(frozen=True)
class Output:
    """Where the pipeline writes."""

    lake: Path
    shards: Path
    heldout: Path
    statistics: Path


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
        self.lake = Lake(spark, output.lake)
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
        with self._timed("clean"):
            self._clean()
        with self._timed("sessions"):
            clicks = self._sessions()
        with self._timed("held-out cases"):
            cases.write_cases(self.output.heldout, clicks)
        with self._timed("vocabularies"):
            self._items = None if items is None else self.lake.scratch("items", items)
            values, occurrences, vocabularies = self._vocabularies(clicks)
        with self._timed("edges and links"):
            self._graphs(occurrences, values, vocabularies)
        with self._timed("shards"):
            manifest = self._shards(occurrences, vocabularies)
        with self._timed("manifest"):
            self.figures |= {"pairs": statistics.pairs(manifest), "parts": statistics.parts(clicks)}
            write_text(self.output.statistics, json.dumps(self.figures, indent=2) + "\n")
            manifest.write(self.output.shards)
        self.lake.sweep()
        return manifest

    def _forget(self) -> None:
        """Older shards and cases are no longer whole once their inputs change."""
        for folder in (self.output.shards, self.output.heldout):
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        self.output.statistics.unlink(missing_ok=True)

    def _events(self, mapped: DataFrame) -> None:
        """Raw rows -> `events` and `rejects`."""
        log = self.settings.source
        seen = Observation("raw rows")
        counted = source.judged(mapped).observe(seen, F.count("*").alias("rows"), F.count(source.REASON).alias("rejected"))
        self.lake.write("events", counted.where(F.col(source.REASON).isNull()).drop(source.REASON))
        rejected = self.lake.write("rejects", source.rejects(mapped if seen.get["rejected"] else mapped.limit(0)))
        reasons = {row[source.REASON]: row["count"] for row in rejected.groupBy(source.REASON).count().orderBy(source.REASON).collect()}
        self.figures["funnel"] = {"raw rows": seen.get["rows"], "rejected": reasons}
        if seen.get["rows"] == seen.get["rejected"]:
            raise PipelineError(f"source.path '{log.path}' holds no event: {seen.get['rows']} rows, rejected: {reasons or 'none'}")

    def _clean(self) -> None:
        """`events` -> `clean`."""
        settings = self.settings
        judged = clean.judge(self.lake.read("events"), settings.clean, settings.source.event_types, settings.seed)
        dropped = F.col(clean.DROPPED)
        seen = Observation("judged events")
        counts = [F.count(F.when(dropped == reason, True)).alias(reason) for reason in clean.REASONS]
        counts += [F.count("stay_seconds").alias("known stay"), F.count(F.when(dropped.isNull(), True)).alias("clicks")]
        self.lake.write("clean", clean.clicks(judged.observe(seen, *counts)))
        self.figures["funnel"] |= {"dropped": {reason: seen.get[reason] for reason in clean.REASONS}, "clicks": seen.get["clicks"]}
        self.figures["funnel"]["events with a known stay"] = seen.get["known stay"]
        if not seen.get["clicks"]:
            raise PipelineError(
                f"no click is left of the events, dropped: {self.figures['funnel']['dropped']}; check [clean] and event_types"
            )

    def _sessions(self) -> DataFrame:
        """`clean` -> `sessions`; returns the clicks with their session and part of the split."""
        settings = self.settings
        sessioned = with_sessions(self.lake.read("clean"), settings.sessions, settings.seed)
        clicks = self.lake.scratch("clicks", with_part(sessioned, settings.split))
        self.lake.write("sessions", session_table(clicks))
        if clicks.where(F.col("part") == TRAIN).isEmpty():
            raise PipelineError(f"[split] leaves no click to train on: {statistics.parts(clicks)}")
        return clicks

    def _vocabularies(self, clicks: DataFrame) -> tuple[dict[str, DataFrame], DataFrame, dict[str, DataFrame]]:
        """`vocabulary/<view>`; returns the values of each value view, the training clicks with nodes and rows, the vocabularies."""
        settings = self.settings
        value_views = {name: view for name, view in settings.views.items() if name != ITEM_VIEW}
        values = {
            name: self.lake.scratch(
                f"values_{name}", views.item_values(clicks, self._items, view, view.attribute in settings.source.attributes)
            )
            for name, view in value_views.items()
        }
        train = clicks.where(F.col("part") == TRAIN)
        noded = self.lake.scratch("noded", views.with_nodes(train, values, settings.views, settings.seed))
        vocabularies = {name: self._vocabulary(noded, name, view) for name, view in settings.views.items()}
        rowed = vocabulary.with_previous(vocabulary.with_rows(noded, vocabularies), settings.views)
        return values, self.lake.scratch("occurrences", rowed), vocabularies

    def _vocabulary(self, noded: DataFrame, name: str, view: View) -> DataFrame:
        table = f"vocabulary/{name}"
        counted = self.lake.scratch(f"counted_{name}", vocabulary.count_nodes(noded, name, view))
        ranked = vocabulary.rank(counted, view.top)
        nodes = self.lake.write(table, vocabulary.append(self.lake.read(table), ranked) if self.lake.exists(table) else ranked)
        if vocabulary.in_use(nodes).isEmpty():
            raise PipelineError(f"view '{name}' has no node: check views.{name}.minimum_count, null_values and the attribute's column")
        return nodes

    def _graphs(self, occurrences: DataFrame, values: dict[str, DataFrame], vocabularies: dict[str, DataFrame]) -> None:
        """`edges/<view>` and `links/<relation>`."""
        settings = self.settings
        self.figures["nodes"] = {name: vocabulary.in_use(frame).count() for name, frame in vocabularies.items()}
        edges = {name: self.lake.write(f"edges/{name}", graphs.edges(occurrences, name, vocabularies[name])) for name in settings.views}
        self.figures["edges"] = {name: statistics.weighted(frame) for name, frame in edges.items()}
        self.figures["links"] = {}
        for name, relation in settings.relations.items():
            linked = graphs.links(values[relation.view], vocabularies[ITEM_VIEW], vocabularies[relation.view])
            self.figures["links"][name] = statistics.weighted(self.lake.write(f"links/{name}", linked))

    def _shards(self, occurrences: DataFrame, vocabularies: dict[str, DataFrame]) -> Manifest:
        """Streams and vocabularies of every view and relation; returns the manifest, not yet written."""
        settings, written = self.settings, {}
        titles = views.titles(self._items)
        named = None if titles is None else titles.withColumnRenamed("item_id", "id")
        sessions = self.lake.scratch("sessions", sequences.sessions(occurrences, list(settings.views)))
        for name in settings.views:
            version = self.lake.version(f"vocabulary/{name}")
            nodes = write_vocabulary(self.output.shards, name, vocabularies[name], named if name == ITEM_VIEW else None, version)
            written[name] = ViewShards(vocabulary=nodes, streams=tuple(self._view_streams(sessions, name)))
        relations = {name: self._relation(occurrences, vocabularies, name, relation) for name, relation in settings.relations.items()}
        manifest = self._manifest(written, relations)
        empty = [name for name, pairs in statistics.pairs(manifest).items() if not pairs]
        if empty:
            raise PipelineError(
                f"no training pairs for {', '.join(empty)}: no session shows two nodes, or no item has a value; check [views]"
            )
        return manifest

    def _view_streams(self, sessions: DataFrame, view: str) -> Iterator[Stream]:
        limits = self.settings.shards
        nodes = sequences.windows(sessions, view)
        for encoding in limits.encodings:
            if encoding == "windows":
                files = self._stream(f"{view}/windows", nodes, ["user_id", "session_id"], ["nodes"], limits.window)
            else:
                rows, key = sequences.pairs(nodes, limits.window), ["user_id", "session_id", "position"]
                files = self._stream(f"{view}/pairs", rows, key, ["centre", "contexts"], None)
            window = limits.window if encoding == "windows" else None
            yield Stream(encoding=encoding, source="sessions", centre_view=view, context_view=view, window=window, files=files)

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
