"""From raw rows to clicks: `events`, `rejects` and `clean`, of a whole log or of one day's
delivery.

A delivery changes the histories of the users it tells of and of no others. Theirs are judged and
cut into sessions anew, whole, and those dates of `clean` are written again on which they differ: a
late event joins two sessions of an older date, a day's first click ends the stay that began the
night before.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks import clean
from pipeline.clicks.sessions import with_sessions
from pipeline.config import PipelineConfig, fingerprint
from pipeline.errors import PipelineError
from pipeline.lake import GoneError, Lake, Note, dates_in, observed, older_versions
from pipeline.log.app_events import is_app_event, with_app_times
from pipeline.log.deliveries import mapped, of_day, source_of
from pipeline.log.events import (
    BATCH,
    FLAW,
    RAW_ROW,
    REASON,
    flaw_names,
    mapped_fields,
    rejected_rows,
    shortened,
)
from pipeline.log.headers import NoRowsError
from pipeline.log.source_paths import NoFileError
from pipeline.spark import cause
from pipeline.storage.files import write_text

STOPPED = "rejects_of_stopped_run"
"""Table of the rejects of a run that had too many."""
UNCHECKED = "_unchecked"
"""File of the lake that is there while a run over the whole log has not counted its rejects: the
version of `events` before it."""
EVENTS_BY, REJECTS_BY, CLEAN_BY = ("date", BATCH), (BATCH,), ("date",)
"""What the tables are partitioned by."""
KNOWN_STAY, CLICKS = "events with a known stay", "clicks"


class Intake:
    """Brings `events`, `rejects` and `clean` up to date."""

    def __init__(
        self,
        spark: SparkSession,
        settings: PipelineConfig,
        lake: Lake,
        taking: date | Literal["all", "nothing"],
        may_be_empty: bool = False,
    ) -> None:
        """`taking`: the delivery of a day; all of the log, in the place of all there is; or
        nothing, where `events` were changed by other means. `may_be_empty`: a day may lack its
        files, and the rows that it brought before. Raises PipelineError for a log that cannot be
        read as configured."""
        self.spark, self.settings, self.lake, self.may_be_empty = (
            spark,
            settings,
            lake,
            may_be_empty,
        )
        self.day = taking if isinstance(taking, date) else None
        self.anew = taking == "all"
        """Whether every table is to be written whole."""
        self.log = source_of(settings.source, self.day)
        self.funnel: dict[str, Any] = {}
        self._version = -1
        self._mapped = None if taking == "nothing" else self._map()

    @property
    def counts(self) -> dict[str, int]:
        """What `clean` found, for the note of the statistics."""
        return {
            **self.funnel["dropped"],
            CLICKS: self.funnel[CLICKS],
            KNOWN_STAY: self.funnel[KNOWN_STAY],
        }

    @property
    def rules(self) -> str:
        """Stands for the settings by which events become clicks."""
        log = self.settings.source
        types = (log.event_types, log.open_types, log.close_types)
        told = sorted([*log.columns.model_dump(exclude_none=True), *log.attributes])
        return fingerprint(
            [
                types,
                told,
                self.settings.clean.model_dump(),
                self.settings.sessions.model_dump(),
                self.settings.seed,
            ]
        )

    def _map(self) -> DataFrame | None:
        """The delivery's rows as `events.map_events` has them; None: a day without any."""
        try:
            return mapped(self.spark, self.settings.source, self.day)
        except NoFileError as absent:
            if not self.may_be_empty or self.settings.source.day is not None:
                raise of_day(absent, self.settings.source, self.day) from None
            nothing: PipelineError = absent
        except NoRowsError as error:
            nothing = error
        if self.day is None or not self.lake.exists("events"):
            raise nothing
        return None

    def take_in(self) -> None:
        """Raw rows -> `events` and `rejects`. Raises PipelineError where too many are rejected; the
        tables are then as they were."""
        if self.anew:
            self._take_in_all()
            return
        self._refuse_unchecked()
        if self.day is not None:
            self._take_in_day(self.day)

    def _refuse_unchecked(self) -> None:
        """Raises PipelineError where a run over the whole log left events and was stopped before it
        had counted their rejects."""
        before = self._unchecked()
        if before is not None and before != self.lake.newest("events"):
            raise PipelineError(
                "a run over the whole log was stopped before the rejects beside "
                f"{self.lake.root / 'events'} were counted; "
                "run preprocess without --date once, then this again"
            )

    def _unchecked(self) -> int | None:
        """The version of `events` before a run over the whole log that has not counted its rejects;
        None: there is no such run."""
        mark = self.lake.root / UNCHECKED
        return int(mark.read_text(encoding="utf-8")) if mark.exists() else None

    def _take_in_all(self) -> None:
        assert self._mapped is not None, "only a day may be without rows"
        flaws, seen = flaw_names(self.log), Observation("raw rows")
        counts = [F.count("*").alias("rows"), F.count(REASON).alias("rejected")]
        counts += [
            F.count(F.when(F.col(REASON).isNull() & (F.col(FLAW) == flaw), True)).alias(flaw)
            for flaw in flaws
        ]
        mark, stopped = self.lake.root / UNCHECKED, self._unchecked()
        before = self.lake.newest("events") if stopped is None else stopped
        write_text(mark, str(before))
        rows = (
            mapped_fields(self._mapped, FLAW, BATCH)
            .observe(seen, *counts)
            .withColumn(BATCH, F.coalesce(BATCH, "date"))
        )
        self.lake.write("events", rows.where(F.col(REASON).isNull()).drop(REASON), EVENTS_BY)
        found = seen.get
        rejects = rejected_rows(self._mapped if found["rejected"] else self._mapped.limit(0))
        try:
            self._check_rejects(rejects, found["rows"], found["rejected"])
        except PipelineError as refused:
            self._put_back(before, refused)
            mark.unlink()
            raise
        table = self.lake.write("rejects", rejects, REJECTS_BY)
        mark.unlink()
        why = reasons(table) if found["rejected"] else {}
        self.funnel = {
            "raw rows": found["rows"],
            "rejected": why,
            "flaws": {flaw: found[flaw] for flaw in flaws},
        }

    def _put_back(self, before: int, refused: PipelineError) -> None:
        """Makes the events again what they were. Whatever hinders that is told after what was
        refused, in a PipelineError."""
        try:
            if before < 0:
                self.lake.remove("events")
            else:
                self.lake.restore("events", before)
        except Exception as error:
            raise PipelineError(
                f"{refused} but {self.lake.root / 'events'}, which cannot be put back to its "
                f"version {before}: {cause(error)}; "
                "no day is taken in before preprocess has run once without --date"
            ) from error

    def _take_in_day(self, day: date) -> None:
        """The rows wait beside the lake until they are counted: a day is small, and one with too
        many rejects must not come in."""
        where = f"{BATCH} = DATE'{day}'"
        if self._mapped is None:
            self._pass_over(day)
            events, rejects = (self.lake.read(name).limit(0) for name in ("events", "rejects"))
        else:
            only_rejects = F.when(F.col(REASON).isNotNull(), F.col(RAW_ROW))
            rows = self.lake.scratch("day", self._mapped.withColumn(RAW_ROW, only_rejects))
            seen = rows.agg(
                F.count("*").alias("rows"), F.count(REASON).alias("rejected")
            ).collect()[0]
            rejects = rejected_rows(rows)
            if seen["rows"]:
                self._check_rejects(rejects, seen["rows"], seen["rejected"])
            else:
                self._pass_over(day)
            events = mapped_fields(rows, FLAW, BATCH).where(F.col(REASON).isNull()).drop(REASON)
        self.lake.write("rejects", rejects, REJECTS_BY, where)
        self.lake.write("events", events, EVENTS_BY, where, Note(changed=(str(day),)))

    def _pass_over(self, day: date) -> None:
        """Says that a day brought nothing. Raises PipelineError where the lake has events of it and
        it may not be empty."""
        known = (
            self.lake.read("events").where(F.col(BATCH) == F.lit(day)).count()
            if self.lake.exists("events")
            else 0
        )
        if known and not self.may_be_empty:
            raise PipelineError(
                f"source.path '{self.log.path}' holds no row of {day}, of which the lake has "
                f"{known} events; correct the log or [source], "
                "or add --empty-day if the day brought nothing and they are to go. Nothing has "
                "changed"
            )
        print(
            f"{self.log.path} holds no row of {day}"
            + (f"; its {known} events go" if known else ""),
            flush=True,
        )

    def _check_rejects(self, rejects: DataFrame, rows: int, rejected: int) -> None:
        log = self.log
        if rows > rejected and rejected <= log.max_rejected_share * rows:
            return
        why = _reasons_with_example(self.lake.write(STOPPED, rejects)) if rejected else "none"
        if rows == rejected:
            raise PipelineError(
                f"source.path '{log.path}' holds no event: {rows} rows, rejected: {why}. "
                "Nothing has changed"
            )
        raise PipelineError(
            f"{rejected} of {rows} rows ({rejected / rows:.1%}) of source.path '{log.path}' are "
            f"rejected: {why}; that is more than "
            f"source.max_rejected_share = {log.max_rejected_share}. Look at "
            f"{self.lake.root / STOPPED}; mend the log or [source], "
            "or raise the limit. Nothing has changed"
        )

    def clean(self) -> DataFrame:
        """`events` -> `clean`, of which as little is written as has changed; returns it. Raises
        PipelineError where no click is left."""
        self._version = self.lake.version("events")
        note = self.lake.note("clean")
        days = None if self.anew else self.lake.changed_since("clean", "events", self.rules)
        if note is None or days is None:
            clicks, counts = self._clean_all()
        else:
            clicks, counts = self._clean_changed(note, days)
        if not self.anew:
            self.funnel = self._count_events()
        self.funnel |= {
            "dropped": {reason: counts[reason] for reason in clean.REASONS},
            CLICKS: counts[CLICKS],
        }
        self.funnel[KNOWN_STAY] = counts[KNOWN_STAY]
        if not counts[CLICKS]:
            raise PipelineError(
                f"no click is left of the events, dropped: {self.funnel['dropped']}; check "
                "[clean] and event_types"
            )
        return clicks

    def _clean_changed(self, note: Note, days: list[str]) -> tuple[DataFrame, dict[str, int]]:
        try:
            with older_versions():
                known = note.counts or self._count_again(note)
                return (
                    self._clean_histories(note, known, days)
                    if days
                    else (self.lake.read("clean"), known)
                )
        except GoneError:
            print(
                "the events that `clean` was made from were vacuumed: all of it is made anew",
                flush=True,
            )
            return self._clean_all()

    def _clean_all(self) -> tuple[DataFrame, dict[str, int]]:
        events, seen = self._events(), Observation("judged events")
        if self.anew:
            self.funnel["app events"] = self._app_events(events)
        clicks = self._sessions(self._judge(events).observe(seen, *_counts()))
        # Its note holds no counts, which are known only when all is written.
        return self.lake.write("clean", clicks, CLEAN_BY, note=self._note(None, {})), observed(
            seen, NAMES
        )

    def _count_again(self, note: Note) -> dict[str, int]:
        """The counts of a `clean` whose note has none: from the statistics made of it, or where
        that run did not come so far, anew."""
        told = self.lake.note("statistics")
        # A delivery may change the counts and no click, so both must have seen the same events.
        same = (
            told is not None and told.counts and told.inputs.get("events") == note.inputs["events"]
        )
        if told is not None and same and self.lake.changed("clean", told.inputs["clean"]) == []:
            return told.counts
        return _counted(self._judge(self._events_before(note)))

    def _clean_histories(
        self, note: Note, known: Mapping[str, int], days: list[str]
    ) -> tuple[DataFrame, dict[str, int]]:
        """Renews `clean` where the histories of the users differ whose events came, went or changed
        with the deliveries of some days."""
        before, now = self._events_before(note), self._events()
        some = F.col(BATCH).isin(*map(date.fromisoformat, days))
        users = self.lake.scratch(
            "users", differing(before.where(some), now.where(some), ["user_id"])
        )
        if users.isEmpty():
            return self.lake.read("clean"), dict(known)
        seen = Observation("judged events")
        judged = self._judge(_of(now, users)).observe(seen, *_counts())
        renewed, clicks = (
            self.lake.scratch("renewed", self._sessions(judged)),
            self.lake.read("clean"),
        )
        old, new = _counted(self._judge(_of(before, users))), observed(seen, NAMES)
        counts = {name: known[name] - old[name] + new[name] for name in NAMES}
        different = (
            differing(_of(clicks, users), renewed, ["user_id", "date"]).select("date").distinct()
        )
        dates = sorted(row["date"] for row in different.collect())
        if not dates:
            return clicks, counts
        there = F.col("date").isin(*dates)
        together = (
            clicks.where(there)
            .join(users, "user_id", "left_anti")
            .unionByName(renewed.where(there), allowMissingColumns=True)
        )
        return self.lake.write(
            "clean", together, CLEAN_BY, dates_in(dates), self._note(dates, counts)
        ), counts

    def _events(self) -> DataFrame:
        """The events as they were when this run began to clean them."""
        return self.lake.read("events", self._version)

    def _events_before(self, note: Note) -> DataFrame:
        """The events that `clean` was made from."""
        return self.lake.read("events", self.lake.like("events", note.inputs["events"]))

    def _judge(self, events: DataFrame) -> DataFrame:
        told = with_app_times(events.drop(BATCH, FLAW), self.settings.source)
        return clean.judge_events(
            told, self.settings.clean, self.settings.source.event_types, self.settings.seed
        )

    def _sessions(self, judged: DataFrame) -> DataFrame:
        return with_sessions(clean.clicks(judged), self.settings.sessions, self.settings.seed)

    def _note(self, dates: list[date] | None, counts: dict[str, int]) -> Note:
        changed = None if dates is None else tuple(map(str, dates))
        return Note(
            inputs={"events": self._version}, settings=self.rules, changed=changed, counts=counts
        )

    def _app_events(self, events: DataFrame) -> int:
        tells_of_app = bool(self.log.open_types or self.log.close_types)
        return (
            events.where(is_app_event(F.col("event_type"), self.log)).count() if tells_of_app else 0
        )

    def _count_events(self) -> dict[str, Any]:
        """The funnel down to the events of the whole lake."""
        events, rejected = self._events(), reasons(self.lake.read("rejects"))
        flaws = {row[FLAW]: row["count"] for row in events.groupBy(FLAW).count().collect()}
        return {
            "raw rows": sum(flaws.values()) + sum(rejected.values()),
            "rejected": rejected,
            "flaws": {flaw: flaws.get(flaw, 0) for flaw in flaw_names(self.log)},
            "app events": self._app_events(events),
        }


NAMES = (*clean.REASONS, KNOWN_STAY, CLICKS)
"""What is counted of judged events."""


def reasons(rejects: DataFrame) -> dict[str, int]:
    """Reason -> rows."""
    return {
        row[REASON]: row["count"]
        for row in rejects.groupBy(REASON).count().orderBy(REASON).collect()
    }


def _reasons_with_example(rejects: DataFrame) -> str:
    """The counts of `reasons`, and a row of the most frequent one with its file; of a CSV or JSON
    file Spark does not say which line."""
    found = (
        rejects.groupBy(REASON)
        .agg(F.count("*").alias("count"), F.min(F.struct("source_file", RAW_ROW)).alias("example"))
        .collect()
    )
    most = max(found, key=lambda row: (row["count"], row[REASON]))
    file, row = most["example"]
    counts = ", ".join(
        f"{each[REASON]}: {each['count']}"
        for each in sorted(found, key=lambda each: str(each[REASON]))
    )
    return f"{counts} (for example {shortened(row)} in {unquote(file)}: {most[REASON]})"


def _counts() -> list[Column]:
    """The columns of NAMES."""
    dropped = F.col(clean.DROPPED)
    found = [F.count(F.when(dropped == reason, True)).alias(reason) for reason in clean.REASONS]
    return [
        *found,
        F.count("stay_seconds").alias(KNOWN_STAY),
        F.count(F.when(dropped.isNull(), True)).alias(CLICKS),
    ]


def _counted(judged: DataFrame) -> dict[str, int]:
    """The counts of judged events."""
    return dict(judged.agg(*_counts()).collect()[0].asDict())


def _of(frame: DataFrame, users: DataFrame) -> DataFrame:
    return frame.join(users, "user_id", "left_semi")


def differing(one: DataFrame, other: DataFrame, key: list[str]) -> DataFrame:
    """The values of the key's columns for which two frames do not hold the same rows, told by a sum
    of hashes of them."""
    columns = sorted({*one.columns} | {*other.columns})
    hashes = [
        _with_all(frame, columns).groupBy(*key).agg(_hash(columns).alias("hash"))
        for frame in (one, other)
    ]
    both = hashes[0].join(hashes[1].withColumnRenamed("hash", "other"), key, "full_outer")
    return both.where(~F.col("hash").eqNullSafe(F.col("other"))).select(*key)


def _with_all(frame: DataFrame, columns: list[str]) -> DataFrame:
    """A log may have got or lost a column from one day to the next."""
    return frame.withColumns({name: F.lit(None) for name in columns if name not in frame.columns})


def _hash(columns: list[str]) -> Column:
    """Of many rows, whatever their order. The hash passes over nulls, so where they are is told
    beside it; a sum of 64-bit numbers needs a wider type."""
    return F.sum(F.xxhash64(*columns, *(F.isnull(name) for name in columns)).cast("decimal(20,0)"))
