"""The pipeline from a raw log to training shards, each step one table on disk."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Literal, TypeVar

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION
from pipeline.clicks.split import TRAIN, with_part
from pipeline.config import ITEM_VIEW, PipelineConfig, Relation, View, fingerprint
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import (
    MANIFEST,
    Manifest,
    RelationShards,
    ShardFile,
    Stream,
    ViewShards,
)
from pipeline.errors import PipelineError
from pipeline.figures import histograms, statistics
from pipeline.graphs import sequences, views, vocabulary, walks
from pipeline.graphs.edges import directed_edges, item_links
from pipeline.lake import GoneError, Lake, Note, dates_in, older_versions
from pipeline.log import item_tables
from pipeline.runs.intake import Intake
from pipeline.shards import cases, streams
from pipeline.shards.writer import write_stream, write_vocabulary
from pipeline.spark import side_by_side
from pipeline.storage.files import remove_folder, write_text

STEPS = 9
SESSIONS_BY = ITEM_DAYS_BY = ("date",)
"""What the tables are partitioned by."""


@dataclass(frozen=True)
class Identity:
    """What made an output: kept in the manifest."""

    config: dict[str, Any]
    config_hash: str
    code_version: str


Made = TypeVar("Made")


def tables(settings: PipelineConfig) -> list[str]:
    """The lake's tables from which a set of shards follows."""
    names = [
        "events",
        "rejects",
        "clean",
        "sessions",
        *(["items"] if settings.source.items else []),
    ]
    names += [f"vocabulary/{name}" for name in settings.views]
    return [
        *names,
        *(f"edges/{name}" for name in settings.views),
        *(f"links/{name}" for name in settings.relations),
    ]


def checksums(manifest: Manifest) -> dict[str, list[str]]:
    """Vocabularies and streams -> SHA-256 of their files, whose names differ each time."""
    found = {
        f"vocabulary/{name}": [view.vocabulary.sha256] for name, view in manifest.views.items()
    }
    streams = {
        f"{name}/{stream.encoding}": stream
        for name, several in manifest.streams.items()
        for stream in several
    }
    return found | {
        name: [file.sha256 for file in stream.files] for name, stream in streams.items()
    }


class Pipeline:
    """One run. Each method is a step; `run` tells their order."""

    def __init__(
        self,
        spark: SparkSession,
        settings: PipelineConfig,
        output: Output,
        identity: Identity,
        versions: Mapping[str, int] | None = None,
    ) -> None:
        """`versions`: of the lake's tables, for a pipeline that only rebuilds what followed from
        them."""
        self.spark, self.settings, self.output, self.identity = spark, settings, output, identity
        self.lake = Lake(spark, output.lake, settings.lake.partition_by_date, versions)
        self.figures: dict[str, Any] = {"name": settings.name, "seed": settings.seed}
        self.item_examples: dict[str, dict[str, tuple[str, str]]] = {}
        """`item_tables.item_examples` of a run."""
        self._began = time.perf_counter()
        self._step = 0
        self._anew = True
        self._items: DataFrame | None = None
        self._known: dict[str, dict[str, int]] = {}
        """View -> `nodes` of its vocabulary that are in use, and the `clicks` on them."""
        self._limits: dict[str, dict[str, dict[str, int]]] = {}
        """View -> what each limit left out of it."""

    def run(self, day: date | None = None, may_be_empty: bool = False) -> Manifest:
        """From the raw log to the manifest, which is written last: the whole log in the place of
        all there is, or what one day brought, which may then be nothing, in the place of what it
        brought before. Raises PipelineError."""
        return self._follow(
            Intake(self.spark, self.settings, self.lake, day or "all", may_be_empty)
        )

    def update(self) -> Manifest:
        """From the lake's `events` to the manifest, after they were changed by other means. Raises
        PipelineError."""
        return self._follow(Intake(self.spark, self.settings, self.lake, "nothing"))

    def rebuild(self, manifest: Manifest, output: Output) -> Manifest:
        """Writes the shards and held-out cases of an older manifest again, elsewhere, from the
        versions of the tables that it names, or from newer ones of the same rows, which the new
        manifest then names.

        Raises PipelineError where the manifest is another project's, or its shards are now others,
        and GoneError where the versions were vacuumed; no manifest is written then.
        """
        if manifest.name != self.settings.name:
            raise PipelineError(
                f"the manifest is of project '{manifest.name}', the configuration of "
                f"'{self.settings.name}'; name those of one project"
            )
        config = PipelineConfig.model_validate(manifest.config)
        identity = Identity(manifest.config, manifest.config_hash, manifest.code_version)
        versions = {
            table: self.lake.like(table, version) for table, version in manifest.inputs.items()
        }
        with older_versions():
            again = Pipeline(self.spark, config, output, identity, versions)._write_again()
        older, now = checksums(manifest), checksums(again)
        others = ", ".join(sorted(name for name in older | now if older.get(name) != now.get(name)))
        if others:
            raise PipelineError(
                f"{output.shards} is not to the byte what the manifest lists: {others} differ. "
                "That was written by version "
                f"{manifest.code_version} of the code, this is {self.identity.code_version}; "
                "rebuild with that one, on the lake it had"
            )
        again.write(output.shards)
        return again

    def _write_again(self) -> Manifest:
        """All that `rebuild` writes but the manifest, which it returns."""
        lake, settings = self.lake, self.settings
        clicks = with_part(lake.read("clean"), settings.split)
        self._items = lake.read("items") if settings.source.items else None
        seen, vocabularies = (
            self._seen(clicks),
            {name: lake.read(f"vocabulary/{name}") for name in settings.views},
        )
        values = self._values(seen)
        occurrences = self._occurrences(clicks, seen, values, self._several(values), vocabularies)
        sessions = lake.scratch("sessions", sequences.sessions(occurrences, settings.views))
        self.figures["links"] = {
            name: statistics.weighted(lake.read(f"links/{name}")) for name in settings.relations
        }
        self._forget()
        manifest = self._shards(sessions, occurrences, vocabularies)
        cases.write_cases(self.output.heldout, clicks)
        lake.sweep()
        return manifest

    def _follow(self, intake: Intake) -> Manifest:
        self._anew = intake.anew
        read = item_tables.item_observations(self.settings.source)
        items = item_tables.item_table(self.spark, self.settings.source, read)
        self.lake.hold(tables(self.settings))
        # Every column that the configuration names is there: only now is anything written.
        with self._timed("events"):
            intake.take_in()
        with self._timed("clicks and sessions"):
            clicks = with_part(intake.clean(), self.settings.split)
            self.figures["funnel"] = intake.funnel
        self._forget()
        with self._timed("vocabularies"):
            self._items = None if items is None else self.lake.write("items", items)
            self.figures["funnel"]["item tables"], self.item_examples = (
                item_tables.item_rows(read),
                item_tables.item_examples(read),
            )
            values, occurrences, vocabularies = self._vocabularies(clicks)
        with self._timed("sequences"):
            sessions = self.lake.scratch(
                "sessions", sequences.sessions(occurrences, self.settings.views)
            )
        with self._timed("sessions, edges, links"):
            self._graphs(sessions, values, vocabularies)
        with self._timed("shards"):
            manifest = self._shards(sessions, occurrences, vocabularies)
        with self._timed("held-out cases"):
            cases.write_cases(self.output.heldout, clicks)
        with self._timed("statistics"):
            self._statistics(clicks, sessions, vocabularies, manifest, intake.counts)
        with self._timed("manifest"):
            # Of a writer that no lock kept away, on a store: what it wrote since would be pinned as
            # ours, and our shards are gone.
            self.lake.check_alone()
            write_text(self.output.statistics, json.dumps(self.figures, indent=2) + "\n")
            # Kept first: once published, the next run may remove it.
            manifest.keep(self.output.manifests)
            manifest.write(self.output.shards)
        self.lake.sweep()
        return manifest

    def _forget(self) -> None:
        """Older shards and cases are no longer whole once others take their place."""
        for folder in (self.output.shards, self.output.heldout):
            (folder / MANIFEST).unlink(missing_ok=True)
            remove_folder(folder)
        self.output.statistics.unlink(missing_ok=True)

    def _vocabularies(
        self, clicks: DataFrame
    ) -> tuple[dict[str, DataFrame], DataFrame, dict[str, DataFrame]]:
        """`vocabulary/<view>`; returns the values of each value view, the clicks with rows, the
        vocabularies."""
        settings = self.settings
        seen = self._seen(clicks)
        if self._items is not None:
            self.figures["funnel"]["items"] = item_tables.item_coverage(self._items, seen)
        values = self._values(seen)
        on_events = {
            name: view
            for name, view in settings.views.items()
            if view.attribute in settings.source.attributes
        }
        self.figures["items whose value changed"] = {
            name: views.changed_items(seen, view) for name, view in on_events.items()
        }
        several = self._several(values)
        train = clicks.where(F.col("part") == TRAIN)

        def counted(name: str, view: View) -> DataFrame:
            if name == ITEM_VIEW:
                return vocabulary.count_items(seen)
            if name in several:
                return vocabulary.count_drawn(
                    views.with_node(train, values[name], name, view, settings.seed), name
                )
            return vocabulary.count_values(seen, values[name])

        vocabularies = self._by_view(
            lambda name, view: self._vocabulary(counted(name, view), name, view)
        )
        return values, self._occurrences(clicks, seen, values, several, vocabularies), vocabularies

    def _by_view(self, make: Callable[[str, View], Made]) -> dict[str, Made]:
        """What is made for each view, side by side."""
        return side_by_side(
            self.spark,
            {name: partial(make, name, view) for name, view in self.settings.views.items()},
        )

    def _seen(self, clicks: DataFrame) -> DataFrame:
        """`views.items_of_clicks` of the training part; where days come one by one, by `item_days`:
        only days that changed are counted."""
        used = {view.attribute for view in self.settings.views.values()}
        attributes = [name for name in self.settings.source.attributes if name in used]
        train = clicks.where(F.col("part") == TRAIN)
        # The last items of a user are others after each click: with this split, no day keeps its
        # training part.
        by_day = not self._anew and self.settings.split.kind != "last_items"
        found = (
            views.over_days(self._item_days(train, attributes))
            if by_day
            else views.items_of_clicks(train, attributes)
        )
        seen = self.lake.scratch("seen", found)
        if seen.isEmpty():
            raise PipelineError(
                "[split] leaves no click to train on; check `cut` and the times of the log"
            )
        return seen

    def _item_days(self, train: DataFrame, attributes: list[str]) -> DataFrame:
        """`item_days`, of the dates on which `clean` has changed since it was last written."""
        rules = fingerprint([attributes, self.settings.split.model_dump()])
        changed = self.lake.changed_since("item_days", "clean", rules)
        note = Note(
            inputs={"clean": self.lake.version("clean")},
            settings=rules,
            changed=None if changed is None else tuple(changed),
        )
        if changed is None:
            return self.lake.write(
                "item_days", views.items_of_days(train, attributes), ITEM_DAYS_BY, note=note
            )
        days = list(map(date.fromisoformat, changed))
        if days:
            some = views.items_of_days(train.where(F.col("date").isin(*days)), attributes)
            self.lake.write("item_days", some, ITEM_DAYS_BY, dates_in(days), note)
        return self.lake.read("item_days")

    def _values(self, seen: DataFrame) -> dict[str, DataFrame]:
        """The values that items have in each value view."""
        attributes = self.settings.source.attributes
        return {
            name: self.lake.scratch(
                f"values_{name}",
                views.item_values(seen, self._items, view, view.attribute in attributes),
            )
            for name, view in self.settings.views.items()
            if name != ITEM_VIEW
        }

    def _several(self, values: dict[str, DataFrame]) -> list[str]:
        """The views in which an occurrence draws one of its item's values."""
        return [
            name
            for name, found in values.items()
            if self.settings.views[name].several == "draw" and views.has_several(found)
        ]

    def _occurrences(
        self,
        clicks: DataFrame,
        seen: DataFrame,
        values: dict[str, DataFrame],
        several: list[str],
        vocabularies: dict[str, DataFrame],
    ) -> DataFrame:
        """The clicks with the rows of their nodes."""
        rows = self.lake.scratch(
            "rows", vocabulary.rows_of_items(seen, values, several, vocabularies)
        )
        return vocabulary.with_rows(clicks, rows, self.settings.views, self.settings.seed)

    def _vocabulary(self, counted: DataFrame, name: str, view: View) -> DataFrame:
        table = f"vocabulary/{name}"
        all_ = self.lake.scratch(f"counted_{name}", counted)

        def kept(what: str) -> vocabulary.Keep:
            return lambda frame: self.lake.scratch(f"{what}_{name}", frame)

        ranked = vocabulary.rank(
            vocabulary.often_enough(all_, view.minimum_count), view.top, kept("ranked")
        )
        every = (
            vocabulary.append(self.lake.read(table), ranked, kept("new"))
            if self.lake.exists(table)
            else ranked
        )
        in_use = F.count(F.when(F.col("count") > 0, True))
        nodes, seen = self.lake.write_counted(table, every, nodes=in_use, clicks=F.sum("count"))
        self._known[name], self._limits[name] = (
            seen,
            vocabulary.limits(all_, view.minimum_count, seen),
        )
        if not seen["nodes"]:
            raise PipelineError(
                f"view '{name}' has no node: check views.{name}.minimum_count, null_values and "
                "the attribute's column"
            )
        return nodes

    def _sessions(self, sessions: DataFrame) -> None:
        """`sessions`, of the dates that changed."""
        table = sequences.session_table(sessions)
        known = self.lake.note("sessions")
        changed = None if self._anew else self.lake.changed_since("sessions", "clean", "")
        days = (
            None
            if changed is None or known is None
            else self._starts(known.inputs["clean"], changed)
        )
        note = Note(
            inputs={"clean": self.lake.version("clean")},
            changed=None if days is None else tuple(map(str, days)),
        )
        if days is None:
            self.lake.write("sessions", table, SESSIONS_BY, note=note)
        elif days:
            self.lake.write(
                "sessions",
                table.where(F.col("date").isin(*days)),
                SESSIONS_BY,
                dates_in(days),
                note,
            )

    def _starts(self, version: int, dates: list[str]) -> list[date] | None:
        """The dates on which sessions begin, or began in an older version of `clean`, that have
        clicks of some dates; None: that version was vacuumed."""
        try:
            with older_versions():
                before = self.lake.read("clean", self.lake.like("clean", version))
                clicks = before.unionByName(self.lake.read("clean"), allowMissingColumns=True)
                some = clicks.where(F.col("date").isin(*map(date.fromisoformat, dates)))
                found = some.select(F.to_date("session_start").alias("start")).distinct().collect()
        except GoneError:
            return None
        return sorted(row["start"] for row in found)

    def _graphs(
        self, sessions: DataFrame, values: dict[str, DataFrame], vocabularies: dict[str, DataFrame]
    ) -> None:
        """`sessions`, `edges/<view>` and `links/<relation>`, side by side."""

        def edges(name: str) -> dict[str, int]:
            return self._weighted(
                f"edges/{name}", directed_edges(sessions, name, vocabularies[name])
            )

        def links(name: str) -> dict[str, int]:
            view = self.settings.relations[name].view
            return self._weighted(
                f"links/{name}",
                item_links(values[view], vocabularies[ITEM_VIEW], vocabularies[view]),
            )

        work: dict[str, Callable[[], dict[str, int] | None]] = {
            "sessions": partial(self._sessions, sessions)
        }
        work |= {f"edges/{name}": partial(edges, name) for name in self.settings.views}
        work |= {f"links/{name}": partial(links, name) for name in self.settings.relations}
        done = side_by_side(self.spark, work)
        self.figures["nodes"] = {name: self._known[name]["nodes"] for name in self.settings.views}
        self.figures["nodes left out"] = {
            name: {limit: found["nodes"] for limit, found in self._limits[name].items()}
            for name in self.settings.views
        }
        self.figures["edges"] = {name: done[f"edges/{name}"] for name in self.settings.views}
        self.figures["links"] = {name: done[f"links/{name}"] for name in self.settings.relations}

    def _weighted(self, table: str, frame: DataFrame) -> dict[str, int]:
        """Writes edges or links; returns how many there are, and their total weight."""
        return self.lake.write_counted(table, frame, distinct=F.count("*"), weight=F.sum("weight"))[
            1
        ]

    def _shards(
        self, sessions: DataFrame, occurrences: DataFrame, vocabularies: dict[str, DataFrame]
    ) -> Manifest:
        """Streams and vocabularies of every view and relation; returns the manifest, not yet
        written."""
        titles = item_tables.titles(self._items)
        named = None if titles is None else titles.withColumnRenamed("item_id", "id")

        def view(name: str, _: View) -> ViewShards:
            version = self.lake.version(f"vocabulary/{name}")
            nodes = write_vocabulary(
                self.output.shards,
                name,
                vocabularies[name],
                named if name == ITEM_VIEW else None,
                version,
            )
            return ViewShards(
                vocabulary=nodes,
                streams=tuple(self._view_streams(sessions, name, vocabularies[name])),
            )

        written = self._by_view(view)
        linked = {
            name: partial(self._relation, occurrences, vocabularies, name, found)
            for name, found in self.settings.relations.items()
        }
        manifest = self._manifest(written, side_by_side(self.spark, linked))
        empty = [name for name, pairs in statistics.pairs_of_streams(manifest).items() if not pairs]
        if empty:
            raise PipelineError(
                f"no training pairs for {', '.join(empty)}: no sequence shows two nodes, or no "
                "item has a value; check [views]"
            )
        return manifest

    def _view_streams(self, sessions: DataFrame, name: str, nodes: DataFrame) -> Iterator[Stream]:
        """The streams of a view: its sequences in the encodings asked for; the edges of a graph as
        pairs alone, which they are."""
        view, settings = self.settings.views[name], self.settings
        if view.sequences == "edges":
            rows = walks.edge_rows(self.lake.read(f"edges/{name}"), nodes, view.directed)
            yield self._pairs(name, rows, ["centre", "piece"], "edges")
            return
        if view.sequences == "walks":
            drawn = walks.walks(
                self.lake.read(f"edges/{name}"), nodes, view, settings.seed, name, self.lake.scratch
            )
            rows, key = self.lake.scratch(f"walks_{name}", drawn), ["walk_id"]
        else:
            rows, key = streams.windows(sessions, name), list(SESSION)
        window = settings.shards.window
        for encoding in settings.shards.encodings:
            if encoding == "windows":
                files = self._stream(f"{name}/windows", rows, key, ["nodes"], window)
                yield Stream(
                    encoding=encoding,
                    source=view.sequences,
                    centre_view=name,
                    context_view=name,
                    window=window,
                    files=files,
                )
            else:
                yield self._pairs(
                    name, streams.pairs(rows, key, window), [*key, "position"], view.sequences
                )

    def _pairs(
        self,
        view: str,
        rows: DataFrame,
        key: list[str],
        origin: Literal["sessions", "walks", "edges"],
    ) -> Stream:
        files = self._stream(f"{view}/pairs", rows, key, ["centre", "contexts"], None)
        return Stream(
            encoding="pairs",
            source=origin,
            centre_view=view,
            context_view=view,
            window=None,
            files=files,
        )

    def _relation(
        self,
        occurrences: DataFrame,
        vocabularies: dict[str, DataFrame],
        name: str,
        relation: Relation,
    ) -> RelationShards:
        linked = self.lake.read(f"links/{name}")
        rows, key = (
            streams.link_rows(linked, vocabularies[ITEM_VIEW], vocabularies[relation.view]),
            ["item_id"],
        )
        if relation.rows == "clicks":
            rows, key = streams.click_rows(occurrences, rows), [*SESSION, sequences.POSITION]
        files = self._stream(f"{name}/pairs", rows, key, ["centre", "contexts"], None)
        stream = Stream(
            encoding="pairs",
            source=relation.rows,
            centre_view=ITEM_VIEW,
            context_view=relation.view,
            window=None,
            files=files,
        )
        return RelationShards(
            view=relation.view, links=self.figures["links"][name]["distinct"], streams=(stream,)
        )

    def _stream(
        self, name: str, rows: DataFrame, key: list[str], columns: list[str], window: int | None
    ) -> tuple[ShardFile, ...]:
        limits = self.settings.shards
        shuffled = streams.shuffled(rows, key, columns, limits.files, self.settings.seed)
        return write_stream(self.output.shards, name, shuffled, limits.row_group_rows, window)

    def _statistics(
        self,
        clicks: DataFrame,
        sessions: DataFrame,
        vocabularies: dict[str, DataFrame],
        manifest: Manifest,
        counts: dict[str, int],
    ) -> None:
        """What is counted once all tables are there; `statistics`."""
        graphs_ = {
            name: (self.lake.read(f"edges/{name}"), nodes) for name, nodes in vocabularies.items()
        }
        counted = list(histograms.quantities(self.lake.read("clean"), sessions, graphs_))
        known = {name: seen["clicks"] for name, seen in self._known.items()}
        left_out = {
            name: {limit: found["clicks"] for limit, found in limits.items()}
            for name, limits in self._limits.items()
        }
        work = {
            "parts": partial(statistics.parts_of_split, clicks, sessions),
            "sequences": partial(statistics.funnel_of_views, sessions, known, left_out),
            statistics.HISTOGRAMS: partial(histograms.measure, counted),
        }
        self.figures |= {
            "pairs": statistics.pairs_of_streams(manifest),
            **side_by_side(self.spark, work),
        }
        note = Note(
            inputs={table: self.lake.version(table) for table in ("events", "clean")}, counts=counts
        )
        self.lake.write(
            statistics.TABLE, statistics.long_table(self.spark, self.figures), note=note
        )

    def _manifest(
        self, written: dict[str, ViewShards], relations: dict[str, RelationShards]
    ) -> Manifest:
        settings, identity = self.settings, self.identity
        return Manifest(
            name=settings.name,
            seed=settings.seed,
            window=settings.shards.window,
            views=written,
            relations=relations,
            config=identity.config,
            config_hash=identity.config_hash,
            code_version=identity.code_version,
            inputs={table: self.lake.version(table) for table in tables(settings)},
        )

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        """Says which step begins, and how long it took."""
        self._step += 1
        began = time.perf_counter()
        print(f"[{self._step}/{STEPS}] {step} ...", flush=True)
        yield
        now = time.perf_counter()
        print(
            (
                f"[{self._step}/{STEPS}] {step}: {now - began:.1f} s ({now - self._began:.0f} s in "
                "all)"
            ),
            flush=True,
        )
        self.figures.setdefault("seconds", {})[step] = round(now - began, 1)
