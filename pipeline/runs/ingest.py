"""Raw rows -> `events` and `rejects`: of a whole log, or of what one day delivered.

A log with too many rejects is refused, and both tables are then as they were.
"""

from dataclasses import dataclass
from datetime import date
from typing import Any, Literal
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Source
from pipeline.errors import PipelineError
from pipeline.lake import Lake, Note
from pipeline.log import events as log_events
from pipeline.log.deliveries import mapped, of_day, source_of
from pipeline.log.events import BATCH, FLAW, RAW_ROW, REASON, shortened
from pipeline.log.headers import NoRowsError
from pipeline.log.source_paths import NoFileError
from pipeline.runs.pipeline import Pipeline
from pipeline.spark import cause
from pipeline.storage.files import write_text

STOPPED = "rejects_of_stopped_run"
"""Table of the rejects of a run that had too many."""
UNCHECKED = "_unchecked"
"""File of the lake that is there while a run over the whole log has not counted its rejects: the
version of `events` before it."""
EVENTS_BY, REJECTS_BY = ("date", BATCH), (BATCH,)
"""What the tables are partitioned by."""


@dataclass(frozen=True)
class Delivery:
    """What a run takes in."""

    taking: date | Literal["all", "nothing"]
    """What a day brought; all of the log, in the place of all there is; or nothing, where `events`
    were changed by other means."""
    may_be_empty: bool
    """A day may lack its files, and the rows that it brought before."""
    log: Source
    """The source with the path of the delivery."""
    rows: DataFrame | None
    """As `events.map_events` gives them; None: a day without any, or nothing is taken in."""

    @property
    def day(self) -> date | None:
        """The day that brought it; None: it is not of one day."""
        return self.taking if isinstance(self.taking, date) else None

    @property
    def whole(self) -> bool:
        """Whether every table is to be written whole."""
        return self.taking == "all"


@dataclass(frozen=True)
class Ingested:
    """`events` and `rejects` are up to date."""

    funnel: dict[str, Any] | None
    """Raw rows, rejects and flaws of a whole log, counted as it was written. None: they are to be
    counted of the tables."""


def open_delivery(
    pipeline: Pipeline, taking: date | Literal["all", "nothing"], may_be_empty: bool = False
) -> Delivery:
    """The delivery, of which no row is read yet. Raises PipelineError for a log that cannot be read
    as configured."""
    day = taking if isinstance(taking, date) else None
    log = source_of(pipeline.settings.source, day)
    rows = None if taking == "nothing" else _rows(pipeline, day, may_be_empty)
    return Delivery(taking, may_be_empty, log, rows)


def _rows(pipeline: Pipeline, day: date | None, may_be_empty: bool) -> DataFrame | None:
    """The delivery's rows as `events.map_events` gives them; None: a day without any."""
    log = pipeline.settings.source
    try:
        return mapped(pipeline.spark, log, day)
    except NoFileError as absent:
        if not may_be_empty or log.day is not None:
            raise of_day(absent, log, day) from None
        nothing: PipelineError = absent
    except NoRowsError as error:
        nothing = error
    # An empty day leaves empty tables as they are, but cannot make the first ones.
    if day is None or not pipeline.lake.exists("events"):
        raise nothing
    return None


def take_in(pipeline: Pipeline, delivery: Delivery) -> Ingested:
    """Raw rows -> `events` and `rejects`. Raises PipelineError where too many are rejected; the
    tables are then as they were."""
    lake = pipeline.lake
    if delivery.whole:
        assert delivery.rows is not None, "only a day may be without rows"
        return Ingested(_take_in_all(lake, delivery.log, delivery.rows))
    _refuse_unchecked(lake)
    if delivery.day is not None:
        _take_in_day(lake, delivery, delivery.day)
    return Ingested(funnel=None)


def read_events() -> Ingested:
    """The tables as they are: nothing is taken in."""
    return Ingested(funnel=None)


def _refuse_unchecked(lake: Lake) -> None:
    """Raises PipelineError where a run over the whole log left events and was stopped before it had
    counted their rejects."""
    before = _unchecked(lake)
    if before is not None and before != lake.newest("events"):
        raise PipelineError(
            "a run over the whole log was stopped before the rejects beside "
            f"{lake.root / 'events'} were counted; "
            "run preprocess without --date once, then this again"
        )


def _unchecked(lake: Lake) -> int | None:
    """The version of `events` before a run over the whole log that has not counted its rejects;
    None: there is no such run."""
    mark = lake.root / UNCHECKED
    return int(mark.read_text(encoding="utf-8")) if mark.exists() else None


def _take_in_all(lake: Lake, log: Source, rows: DataFrame) -> dict[str, Any]:
    """Writes both tables whole; returns the funnel down to the events.

    The events are written before the rejects are counted: a log is read once. The mark tells later
    runs where this one was killed in between.
    """
    unchecked = _unchecked(lake)
    before = lake.newest("events") if unchecked is None else unchecked
    mark = lake.root / UNCHECKED
    write_text(mark, str(before))
    counts = _write_events(lake, log, rows)
    rejects = log_events.rejected_rows(rows if counts["rejected"] else rows.limit(0))
    try:
        _check_rejects(lake, log, rejects, counts["rows"], counts["rejected"])
    except PipelineError as refused:
        _put_back(lake, before, refused)
        mark.unlink()
        raise
    table = lake.write("rejects", rejects, REJECTS_BY)
    mark.unlink()
    return {
        "raw rows": counts["rows"],
        "rejected": reasons(table) if counts["rejected"] else {},
        "flaws": {flaw: counts[flaw] for flaw in log_events.flaw_names(log)},
    }


def _write_events(lake: Lake, log: Source, rows: DataFrame) -> dict[str, int]:
    """Replaces `events`; returns the counts `rows`, `rejected`, and of the events that have each
    flaw."""
    is_event = F.col(REASON).isNull()
    counts = [F.count("*").alias("rows"), F.count(REASON).alias("rejected")]
    for flaw in log_events.flaw_names(log):
        has_flaw = is_event & (F.col(FLAW) == flaw)
        counts.append(F.count(F.when(has_flaw, True)).alias(flaw))
    observation = Observation("raw rows")
    judged = log_events.mapped_fields(rows, FLAW, BATCH).observe(observation, *counts)
    # Where the log does not tell which day brought a row, it is the row's own.
    dated = judged.withColumn(BATCH, F.coalesce(BATCH, "date"))
    lake.write("events", dated.where(is_event).drop(REASON), EVENTS_BY)
    return observation.get


def _put_back(lake: Lake, before: int, refused: PipelineError) -> None:
    """Makes the events again what they were. Whatever hinders that is told after what was refused,
    in a PipelineError."""
    try:
        if before < 0:
            lake.remove("events")
        else:
            lake.restore("events", before)
    except Exception as error:
        raise PipelineError(
            f"{refused} but {lake.root / 'events'}, which cannot be put back to its "
            f"version {before}: {cause(error)}; "
            "no day is taken in before preprocess has run once without --date"
        ) from error


def _take_in_day(lake: Lake, delivery: Delivery, day: date) -> None:
    """The rows wait beside the lake until they are counted: a day is small, and one with too many
    rejects must not come in."""
    of_this_day = f"{BATCH} = DATE'{day}'"
    if delivery.rows is None:
        _pass_over(lake, delivery, day)
        events, rejects = (lake.read(name).limit(0) for name in ("events", "rejects"))
    else:
        rows = _counted_rows(lake, delivery, delivery.rows, day)
        rejects = log_events.rejected_rows(rows)
        events = (
            log_events.mapped_fields(rows, FLAW, BATCH).where(F.col(REASON).isNull()).drop(REASON)
        )
    lake.write("rejects", rejects, REJECTS_BY, of_this_day)
    lake.write("events", events, EVENTS_BY, of_this_day, Note(changed=(str(day),)))


def _counted_rows(lake: Lake, delivery: Delivery, rows: DataFrame, day: date) -> DataFrame:
    """The rows of a day, once they are counted and may come in. Raises PipelineError."""
    # The text of a row is kept of rejects alone.
    text = F.when(F.col(REASON).isNotNull(), F.col(RAW_ROW))
    waiting = lake.scratch("day", rows.withColumn(RAW_ROW, text))
    counts = [F.count("*").alias("rows"), F.count(REASON).alias("rejected")]
    counted = waiting.agg(*counts).collect()[0]
    if counted["rows"]:
        rejects = log_events.rejected_rows(waiting)
        _check_rejects(lake, delivery.log, rejects, counted["rows"], counted["rejected"])
    else:
        _pass_over(lake, delivery, day)
    return waiting


def _pass_over(lake: Lake, delivery: Delivery, day: date) -> None:
    """Says that a day brought nothing. Raises PipelineError where the lake has events of it and it
    may not be empty."""
    path = delivery.log.path
    older = 0
    if lake.exists("events"):
        older = lake.read("events").where(F.col(BATCH) == F.lit(day)).count()
    if older and not delivery.may_be_empty:
        raise PipelineError(
            f"source.path '{path}' holds no row of {day}, of which the lake has "
            f"{older} events; correct the log or [source], "
            "or add --empty-day if the day brought nothing and they are to go. Nothing has "
            "changed"
        )
    go = f"; its {older} events go" if older else ""
    print(f"{path} holds no row of {day}{go}", flush=True)


def _check_rejects(lake: Lake, log: Source, rejects: DataFrame, rows: int, rejected: int) -> None:
    """Raises PipelineError where no row is an event, or too many are none."""
    if rows > rejected and rejected <= log.max_rejected_share * rows:
        return
    why = "none"
    if rejected:
        why = _reasons_with_example(lake.write(STOPPED, rejects))
    if rows == rejected:
        raise PipelineError(
            f"source.path '{log.path}' holds no event: {rows} rows, rejected: {why}. "
            "Nothing has changed"
        )
    raise PipelineError(
        f"{rejected} of {rows} rows ({rejected / rows:.1%}) of source.path '{log.path}' are "
        f"rejected: {why}; that is more than "
        f"source.max_rejected_share = {log.max_rejected_share}. Look at "
        f"{lake.root / STOPPED}; mend the log or [source], "
        "or raise the limit. Nothing has changed"
    )


def reasons(rejects: DataFrame) -> dict[str, int]:
    """Reason -> rows."""
    counted = rejects.groupBy(REASON).count().orderBy(REASON)
    return {row[REASON]: row["count"] for row in counted.collect()}


def _reasons_with_example(rejects: DataFrame) -> str:
    """The counts of `reasons`, and a row of the most frequent one with its file; of a CSV or JSON
    file Spark does not say which line."""
    count: Column = F.count("*").alias("count")
    example = F.min(F.struct("source_file", RAW_ROW)).alias("example")
    groups = rejects.groupBy(REASON).agg(count, example).collect()
    groups.sort(key=lambda group: str(group[REASON]))
    counts = ", ".join(f"{group[REASON]}: {group['count']}" for group in groups)
    most = max(groups, key=lambda group: (group["count"], group[REASON]))
    file, row = most["example"]
    return f"{counts} (for example {shortened(row)} in {unquote(file)}: {most[REASON]})"
