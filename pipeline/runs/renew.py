"""`events` -> `clean`: the clicks and their sessions, of which as little is written as has changed.

A delivery changes the histories of the users it tells of and of no others. Theirs are judged and
cut into sessions anew, whole. Then those dates of `clean` are written again on which they differ: a
late event joins two sessions of an older date, a day's first click ends the stay that began the
night before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks import clean
from pipeline.clicks.sessions import with_sessions
from pipeline.clicks.split import with_part
from pipeline.config import PipelineConfig, Source, fingerprint
from pipeline.errors import PipelineError
from pipeline.lake import GoneError, Lake, Note, dates_in, observed, older_versions
from pipeline.log import events as log_events
from pipeline.log.app_events import is_app_event, with_app_times
from pipeline.log.events import BATCH, FLAW
from pipeline.runs.ingest import Delivery, Ingested, reasons
from pipeline.runs.pipeline import Pipeline

CLEAN_BY = ("date",)
"""What the table is partitioned by."""
KNOWN_STAY, CLICKS = "events with a known stay", "clicks"
COUNTED_OF_EVENTS = (*clean.REASONS, KNOWN_STAY, CLICKS)
"""What is counted of judged events."""


@dataclass(frozen=True)
class Clicks:
    """`clean` is up to date."""

    frame: DataFrame
    """`clean`, with the part of the split that each click belongs to."""
    whole: bool
    """Whether all that follows is to be made whole; otherwise of the dates that changed."""
    funnel: dict[str, Any]
    """How many raw rows became clicks, and why others did not; empty where older clicks are read
    again."""

    @property
    def counts(self) -> dict[str, int]:
        """What was counted of judged events, for the note of the statistics."""
        clicks, known_stay = self.funnel[CLICKS], self.funnel[KNOWN_STAY]
        return {**self.funnel["dropped"], CLICKS: clicks, KNOWN_STAY: known_stay}


def renew(pipeline: Pipeline, delivery: Delivery, ingested: Ingested) -> Clicks:
    """`events` -> `clean`, of which as little is written as has changed. Raises PipelineError where
    no click is left."""
    lake, settings = pipeline.lake, pipeline.settings
    renewal = _Renewal(lake, settings, lake.version("events"))
    days, note = None, lake.note("clean")
    if not delivery.whole:
        days = lake.changed_since("clean", "events", renewal.rules)
    if note is None or days is None:
        clicks, counts = renewal.all_of_it()
    else:
        clicks, counts = renewal.what_changed(note, days)
    funnel = _funnel(lake, delivery.log, renewal.events, ingested)
    dropped = {reason: counts[reason] for reason in clean.REASONS}
    funnel["dropped"] = dropped
    funnel[CLICKS] = counts[CLICKS]
    funnel[KNOWN_STAY] = counts[KNOWN_STAY]
    if not counts[CLICKS]:
        raise PipelineError(
            f"no click is left of the events, dropped: {dropped}; check [clean] and event_types"
        )
    with_parts = with_part(clicks, settings.split)
    return Clicks(with_parts, delivery.whole, funnel)


def read_clicks(pipeline: Pipeline) -> Clicks:
    """The clicks as they are; what follows from them is made whole."""
    clicks = with_part(pipeline.lake.read("clean"), pipeline.settings.split)
    return Clicks(clicks, whole=True, funnel={})


def _funnel(lake: Lake, log: Source, events: DataFrame, ingested: Ingested) -> dict[str, Any]:
    """The funnel down to the events of the whole lake."""
    if ingested.funnel is not None:
        return {**ingested.funnel, "app events": _app_events(events, log)}
    rejected = reasons(lake.read("rejects"))
    by_flaw = events.groupBy(FLAW).count().collect()
    # Most events have none, which is a group too.
    flaws = {row[FLAW]: row["count"] for row in by_flaw}
    raw_rows = sum(flaws.values()) + sum(rejected.values())
    return {
        "raw rows": raw_rows,
        "rejected": rejected,
        "flaws": {flaw: flaws.get(flaw, 0) for flaw in log_events.flaw_names(log)},
        "app events": _app_events(events, log),
    }


def _app_events(events: DataFrame, log: Source) -> int:
    if not (log.open_types or log.close_types):
        return 0
    of_app = is_app_event(F.col("event_type"), log)
    return events.where(of_app).count()


@dataclass(frozen=True)
class _Renewal:
    """Makes `clean` of one version of the events. Each way returns the clicks and the counts of
    COUNTED_OF_EVENTS over all events."""

    lake: Lake
    settings: PipelineConfig
    version: int

    @property
    def events(self) -> DataFrame:
        """The events as they were when this run began to clean them."""
        return self.lake.read("events", self.version)

    @property
    def rules(self) -> str:
        """Stands for the settings by which events become clicks."""
        settings = self.settings
        log = settings.source
        types = (log.event_types, log.open_types, log.close_types)
        columns = log.columns.model_dump(exclude_none=True)
        fields = sorted([*columns, *log.attributes])
        clean_rules = settings.clean.model_dump()
        session_rules = settings.sessions.model_dump()
        return fingerprint([types, fields, clean_rules, session_rules, settings.seed])

    def all_of_it(self) -> tuple[DataFrame, dict[str, int]]:
        """Writes the whole table."""
        observation = Observation("judged events")
        judged = self._judge(self.events)
        sessions = self._sessions(judged.observe(observation, *_counts()))
        # Its note holds no counts, which are known only when all is written.
        note = self._note(None, {})
        clicks = self.lake.write("clean", sessions, CLEAN_BY, note=note)
        return clicks, observed(observation, COUNTED_OF_EVENTS)

    def what_changed(self, note: Note, days: list[str]) -> tuple[DataFrame, dict[str, int]]:
        """Writes the dates that differ after the deliveries of some days changed; `note`: of the
        table as it is."""
        try:
            with older_versions():
                earlier = note.counts or self._count_again(note)
                if not days:
                    return self.lake.read("clean"), earlier
                return self._histories(note, earlier, days)
        except GoneError:
            print(
                "the events that `clean` was made from were vacuumed: all of it is made anew",
                flush=True,
            )
            return self.all_of_it()

    def _count_again(self, note: Note) -> dict[str, int]:
        """The counts of a `clean` whose note has none: from the statistics made of it, or where
        that run did not come so far, anew."""
        statistics = self.lake.note("statistics")
        if statistics is not None and statistics.counts:
            # A delivery may change the counts and no click, so both must have seen the same events.
            inputs = statistics.inputs
            same_events = inputs.get("events") == note.inputs["events"]
            if same_events and self.lake.changed("clean", inputs["clean"]) == []:
                return statistics.counts
        judged = self._judge(self._events_before(note))
        return _counted(judged)

    def _histories(
        self, note: Note, earlier: Mapping[str, int], days: list[str]
    ) -> tuple[DataFrame, dict[str, int]]:
        """Renews `clean` where the histories of the users differ whose events came, went or changed
        with the deliveries of some days."""
        before, now = self._events_before(note), self.events
        deliveries = map(date.fromisoformat, days)
        delivered = F.col(BATCH).isin(*deliveries)
        changed = differing(before.where(delivered), now.where(delivered), ["user_id"])
        users = self.lake.scratch("users", changed)
        if users.isEmpty():
            return self.lake.read("clean"), dict(earlier)
        observation = Observation("judged events")
        judged = self._judge(_of(now, users))
        sessions = self._sessions(judged.observe(observation, *_counts()))
        renewed = self.lake.scratch("renewed", sessions)
        judged_before = self._judge(_of(before, users))
        old = _counted(judged_before)
        new = observed(observation, COUNTED_OF_EVENTS)
        counts = {name: earlier[name] - old[name] + new[name] for name in COUNTED_OF_EVENTS}
        return self._write_dates(users, renewed, counts), counts

    def _write_dates(
        self, users: DataFrame, renewed: DataFrame, counts: dict[str, int]
    ) -> DataFrame:
        """Writes the dates on which the renewed clicks of some users are not those of the table."""
        clicks = self.lake.read("clean")
        different = differing(_of(clicks, users), renewed, ["user_id", "date"])
        rows = different.select("date").distinct().collect()
        dates = sorted(row["date"] for row in rows)
        if not dates:
            return clicks
        on_dates = F.col("date").isin(*dates)
        # A date is replaced whole, so other users' clicks of it go along.
        others = clicks.where(on_dates).join(users, "user_id", "left_anti")
        together = others.unionByName(renewed.where(on_dates), allowMissingColumns=True)
        note = self._note(dates, counts)
        return self.lake.write("clean", together, CLEAN_BY, dates_in(dates), note)

    def _events_before(self, note: Note) -> DataFrame:
        """The events that `clean` was made from."""
        version = self.lake.like("events", note.inputs["events"])
        return self.lake.read("events", version)

    def _judge(self, events: DataFrame) -> DataFrame:
        settings = self.settings
        log = settings.source
        timed = with_app_times(events.drop(BATCH, FLAW), log)
        return clean.judge_events(timed, settings.clean, log.event_types, settings.seed)

    def _sessions(self, judged: DataFrame) -> DataFrame:
        return with_sessions(clean.clicks(judged), self.settings.sessions, self.settings.seed)

    def _note(self, dates: list[date] | None, counts: dict[str, int]) -> Note:
        changed = None if dates is None else tuple(map(str, dates))
        inputs = {"events": self.version}
        return Note(inputs=inputs, settings=self.rules, changed=changed, counts=counts)


def _counts() -> list[Column]:
    """The columns of COUNTED_OF_EVENTS."""
    dropped = F.col(clean.DROPPED)
    holds = {reason: dropped == reason for reason in clean.REASONS}
    holds[KNOWN_STAY] = F.col("stay_seconds").isNotNull()
    holds[CLICKS] = dropped.isNull()
    return [F.count(F.when(condition, True)).alias(name) for name, condition in holds.items()]


def _counted(judged: DataFrame) -> dict[str, int]:
    """The counts of judged events."""
    counts = judged.agg(*_counts()).collect()[0]
    return dict(counts.asDict())


def _of(frame: DataFrame, users: DataFrame) -> DataFrame:
    return frame.join(users, "user_id", "left_semi")


def differing(one: DataFrame, other: DataFrame, key: list[str]) -> DataFrame:
    """The values of the key's columns for which two frames do not hold the same rows, told by a sum
    of hashes of them."""
    columns = sorted({*one.columns} | {*other.columns})
    one_hash = _hashes(one, columns, key).withColumnRenamed("hash", "one")
    other_hash = _hashes(other, columns, key).withColumnRenamed("hash", "other")
    both = one_hash.join(other_hash, key, "full_outer")
    return both.where(~F.col("one").eqNullSafe(F.col("other"))).select(*key)


def _hashes(frame: DataFrame, columns: list[str], key: list[str]) -> DataFrame:
    # A log may have got or lost a column from one day to the next.
    missing = [name for name in columns if name not in frame.columns]
    filled = frame.withColumns({name: F.lit(None) for name in missing})
    return filled.groupBy(*key).agg(_hash(columns).alias("hash"))


def _hash(columns: list[str]) -> Column:
    """Of many rows, whatever their order."""
    # The hash passes over nulls, so where they are is told beside it.
    nulls = [F.isnull(name) for name in columns]
    hash_ = F.xxhash64(*columns, *nulls)
    # A sum of 64-bit numbers needs a wider type.
    return F.sum(hash_.cast("decimal(20,0)"))
