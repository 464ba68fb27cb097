"""Reading a click log as its configuration describes it: raw rows -> events, and rejects with the
reason.

Every raw row becomes one of both. What makes a row no event is a `reason`; what is wrong with a row
that is an event all the same, a stay that cannot be or cannot be read, is a `flaw`: that field is
null.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import (
    DataType,
    DateType,
    NumericType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from pipeline.config import Files, Source, Time
from pipeline.errors import PipelineError
from pipeline.log import columns
from pipeline.log.app_events import is_app_event
from pipeline.log.columns import as_text, is_compound, missing, quoted, type_of
from pipeline.log.readers import MALFORMED, SOURCE_FILE
from pipeline.spark import cause

REASON, FLAW, ROW, BATCH = "reason", "flaw", "row", "batch"
IDS = ("user_id", "item_id")
TIME_COLUMNS = ("timestamp", "app_open", "app_close")
NUMBER_COLUMNS = ("stay_seconds", "value")
BOUNDED = ("stay_seconds", *TIME_COLUMNS[1:])
FLAWED = (*BOUNDED, "value")
"""Fields without which a row is an event all the same, and those of them that have bounds."""
UNCLOSED = (
    'malformed row, a quote is not closed: line breaks in fields need options.multiLine = "true"'
)
"""Why a row is no event that ends within a quoted field. The next line, its other half, is an event
where it has all fields: a field that ends in a quote may be one that CSV quotes as it should, and
Spark's reader does not say."""
_SHOWN = 160
"""Characters of a raw row or a value that people are shown."""
_READ = "m2grl_read_"
_CLOCK_SKEW = timedelta(days=1)
"""How far a log's clock may be ahead of this machine's."""
_FACTORS = {"seconds": 1_000_000, "milliseconds": 1000, "microseconds": 1}
_NOT_UTF8 = "\ufffd"
"""What a reader puts in the place of bytes that are no UTF-8."""
_ZONE = (
    r"\d:\d{2}(:\d{2}([.,]\d+)?)?\s*"
    r"(Z|(?![AaPp][Mm]$)[A-Za-z]{2,}(/[A-Za-z_]+)*|[+-]\d{1,2}(:?\d{2})?)$"
)
"""How a written time ends that names its zone or offset."""
_ZONE_LETTERS = r"[VzOXxZ](?=(?:[^']*'[^']*')*[^']*$)"
"""Letters of a Spark datetime pattern, outside quotes, that stand for a zone or offset."""
_FAR = ("0001-01-03 00:00:00", "9999-12-29 00:00:00")
"""Times beyond these may leave what Spark can shift to another zone."""


Answer = tuple[Column, Column | str]
"""A condition and the text that stands for it."""


@dataclass(frozen=True)
class Field:
    """A configured column: as the source has it, its type there, and as the events have it."""

    raw: Column
    type_: DataType
    typed: Column

    @property
    def unread(self) -> Column:
        """Whether the source says something that cannot be read."""
        return self.typed.isNull() & self.raw.isNotNull() & (F.trim(self.raw.cast("string")) != "")


def map_events(
    raw: DataFrame, source: Source, now: datetime | None = None, batch: Column | None = None
) -> DataFrame:
    """Raw rows of `read` -> the fields of an event, one column each; `reason`: why the row cannot
    be an event, else null; `flaw`: which field of an event cannot be and is null for that, else
    null; `batch`: the day that brought the row, null where nobody says; `row`: the raw row as text;
    and the file.

    Ids are strings, an empty one is none; times are UTC timestamps. `now` stands for this moment.
    Raises PipelineError naming the option of a wrong column.
    """
    _check_pattern(raw, source.time)
    fields = {
        name: _field(raw, name, text, source)
        for name, text in source.columns.model_dump(exclude_none=True).items()
    }
    attributes = {
        name: _attribute(raw, name, text, source) for name, text in source.attributes.items()
    }
    # Read once in a frame of their own, because each is asked several times below.
    staged = raw.select("*", *(field.typed.alias(_READ + name) for name, field in fields.items()))
    fields = {name: replace(field, typed=F.col(_READ + name)) for name, field in fields.items()}
    first, last = (
        source.time.earliest,
        source.time.latest or (now or datetime.now(UTC)) + _CLOCK_SKEW,
    )
    events = {
        name: _possible(name, field.typed, source, (first, last)) for name, field in fields.items()
    } | attributes
    if source.open_types or source.close_types:
        events["item_id"] = F.when(~is_app_event(events["event_type"], source), events["item_id"])
    reason = _first(_reasons(raw, fields, events, source))
    flaw = _first(_flaws(fields, events))
    day = F.lit(None).cast("date") if batch is None else batch
    told = [
        reason.alias(REASON),
        flaw.alias(FLAW),
        day.alias(BATCH),
        _row(raw).alias(ROW),
        F.col(SOURCE_FILE),
    ]
    return staged.select(*(column.alias(name) for name, column in events.items()), *told)


def completed(raw: DataFrame, source: Source, what: str) -> DataFrame:
    """Raw rows with the columns that optional fields and attributes name and that no file of a
    delivery has, all null. Prints each; `what` says which delivery it is."""
    fields = source.columns.model_dump(exclude_none=True, exclude={*IDS, "timestamp"})
    texts = {f"columns.{name}": text for name, text in fields.items()}
    texts |= {f"attributes.{name}": text for name, text in source.attributes.items()}
    for option, text in texts.items():
        while (parts := missing(raw, text)) and parts[0] not in raw.columns:
            print(
                (
                    f"{what} has no column {'.'.join(parts)} (source.{option} = '{text}'): it is "
                    "unknown there"
                ),
                flush=True,
            )
            type_ = "map<string," * (len(parts) - 1) + "string" + ">" * (len(parts) - 1)
            raw = raw.withColumn(parts[0], F.lit(None).cast(type_))
    return raw


def judged(mapped: DataFrame, *others: str) -> DataFrame:
    """The fields of `map_events`, the UTC date, `reason` and the `others` asked for (FLAW, BATCH);
    without the raw row's text, which is costly and only rejects need."""
    fields = [
        name for name in mapped.columns if name not in (REASON, FLAW, BATCH, ROW, SOURCE_FILE)
    ]
    return mapped.select(*fields, F.to_date("timestamp").alias("date"), REASON, *others)


def rejects(mapped: DataFrame) -> DataFrame:
    """The rows of `map_events` that are no events: the raw row as text, the reason, the file, the
    day that brought it."""
    return mapped.where(F.col(REASON).isNotNull()).select(
        ROW, REASON, F.col(SOURCE_FILE).alias("source_file"), BATCH
    )


def shortened(text: str) -> str:
    """A raw row or a value as people are shown it."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def expression(frame: DataFrame, text: str, option: str, files: Files) -> Column:
    """A configured column or SQL expression over a table of `read`. Raises PipelineError where the
    table has no such column."""
    return columns.expression(frame, text, option, files.path, (MALFORMED, SOURCE_FILE))


def identifier(column: Column, type_: DataType, source: Source) -> Column:
    """An id as a string, as written; null where it means "none"."""
    text = as_text(column, type_, source.whole_numbers)
    none = F.trim(text) == "" if isinstance(type_, StringType) else F.lit(False)
    return F.when(~(none | text.isin(*source.null_ids) if source.null_ids else none), text)


def _field(raw: DataFrame, name: str, text: str, source: Source) -> Field:
    option = f"source.columns.{name}"
    column = expression(raw, text, option, source)
    type_ = type_of(raw, column)
    _check_type(option, name, type_, source.time)
    return Field(column, type_, _typed(name, column, type_, source))


def _attribute(raw: DataFrame, name: str, text: str, source: Source) -> Column:
    option = f"source.attributes.{name}"
    column = expression(raw, text, option, source)
    type_ = type_of(raw, column)
    if is_compound(type_):
        raise PipelineError(
            f"{option} is a {type_.simpleString()}; an array of values belongs in "
            "[[source.items]], of the same path"
        )
    return as_text(column, type_, source.whole_numbers)


def _typed(name: str, column: Column, type_: DataType, source: Source) -> Column:
    if name in TIME_COLUMNS:
        return to_timestamp(column, type_.typeName(), source.time)
    if name in NUMBER_COLUMNS:
        return column.try_cast("double")
    if name in IDS:
        return identifier(column, type_, source)
    return F.nullif(as_text(column, type_, source.whole_numbers), F.lit(""))


def _possible(name: str, typed: Column, source: Source, times: tuple[datetime, datetime]) -> Column:
    """A field as events have it: null where its value cannot be."""
    if name in TIME_COLUMNS:
        return F.when((typed >= F.lit(times[0])) & (typed < F.lit(times[1])), typed)
    if name == "stay_seconds":
        return F.when(typed.between(0, source.longest_stay_seconds), typed)
    return F.when(~F.isnan(typed), typed) if name == "value" else typed


def _reasons(
    raw: DataFrame, fields: dict[str, Field], events: dict[str, Column], source: Source
) -> Iterator[Answer]:
    """Why a row is no event, in the order in which it is asked."""
    malformed = F.col(MALFORMED).isNotNull() if MALFORMED in raw.columns else F.lit(False)
    if source.format == "csv" and source.option("multiLine", "false").lower() != "true":
        quotes = F.length(MALFORMED) - F.length(
            F.replace(F.col(MALFORMED), F.lit(source.option("quote", '"')), F.lit(""))
        )
        yield malformed & (quotes % 2 == 1), UNCLOSED
    yield malformed, "malformed row"
    optional = (
        is_app_event(events["event_type"], source)
        if source.open_types or source.close_types
        else F.lit(False)
    )
    yield events["user_id"].isNull(), "no user_id"
    yield events["item_id"].isNull() & ~optional, "no item_id"
    for name in (name for name in IDS if isinstance(fields[name].type_, StringType)):
        yield _is_mangled(events[name], source), f"{name} is no UTF-8"
    time = fields["timestamp"]
    why = (
        F.when(time.unread, "unreadable timestamp")
        .when(time.typed.isNull(), "no timestamp")
        .otherwise("timestamp out of range")
    )
    yield events["timestamp"].isNull(), why


def _flaws(fields: dict[str, Field], events: dict[str, Column]) -> Iterator[Answer]:
    """What is wrong with an event, so that the field is null."""
    for name in (name for name in FLAWED if name in fields):
        yield fields[name].unread, f"unreadable {name}"
    for name in (name for name in BOUNDED if name in fields):
        typed = fields[name].typed
        known = typed.isNotNull() & ~F.isnan(typed) if name in NUMBER_COLUMNS else typed.isNotNull()
        yield known & events[name].isNull(), f"{name} out of range"


def flaw_names(source: Source) -> list[str]:
    """All that can be wrong with an event of this source."""
    given = source.columns.model_dump(exclude_none=True)
    return [f"unreadable {name}" for name in FLAWED if name in given] + [
        f"{name} out of range" for name in BOUNDED if name in given
    ]


def _first(answers: Iterator[Answer]) -> Column:
    """The text of the first condition that holds, null where none does."""
    found = F.lit(None).cast("string")
    for condition, text in reversed(list(answers)):
        found = F.when(condition, text).otherwise(found)
    return found


def _is_mangled(text: Column, source: Source) -> Column:
    """Whether an id's bytes are no UTF-8. The readers of CSV and JSON have replaced them; other ids
    could no longer be told from it."""
    replaced = text.contains(_NOT_UTF8)
    return replaced if source.format in ("csv", "json") else replaced | ~F.is_valid_utf8(text)


def _row(raw: DataFrame) -> Column:
    own = [F.col(quoted(name)) for name in raw.columns if name not in (SOURCE_FILE, MALFORMED)]
    row = F.to_json(F.struct(*own))
    return F.coalesce(MALFORMED, row) if MALFORMED in raw.columns else row


def _check_type(option: str, name: str, type_: DataType, time: Time) -> None:
    """Raises PipelineError for a column that cannot be meant."""
    if is_compound(type_):
        raise PipelineError(
            f"{option} is a {type_.simpleString()}: name one value of it, such as column.field "
            "or column[0]"
        )
    if name not in TIME_COLUMNS:
        return
    is_time = isinstance(type_, TimestampType | TimestampNTZType | DateType)
    if is_time and time.unit != "timestamp":
        raise PipelineError(
            f"{option} is a {type_.simpleString()}, not a number or text as source.time.unit = "
            f"'{time.unit}' says"
        )
    if isinstance(type_, NumericType) and time.unit == "timestamp":
        units = "seconds, milliseconds, microseconds or nanoseconds"
        raise PipelineError(
            f"{option} is a {type_.simpleString()}: set source.time.unit to {units}"
        )


def _check_pattern(raw: DataFrame, time: Time) -> None:
    """Raises PipelineError for a pattern that is none. The frame of one literal starts no job."""
    if time.unit != "pattern":
        return
    try:
        raw.sparkSession.range(1).select(
            F.try_to_timestamp(F.lit("?"), F.lit(time.pattern))
        ).collect()
    except (PySparkException, Py4JError) as error:
        raise PipelineError(
            f"source.time.pattern = '{time.pattern}' is no datetime pattern of Spark: "
            f"{cause(error)}"
        ) from None


def to_timestamp(column: Column, type_name: str, time: Time) -> Column:
    """A written time as a UTC timestamp; null where it cannot be read. `type_name` is Spark's type
    of the column."""
    if time.unit not in ("timestamp", "pattern"):
        return F.timestamp_micros(_micros(column, type_name, time.unit))
    text = column.cast("string")
    read = (
        F.try_to_timestamp(text, F.lit(time.pattern))
        if time.unit == "pattern"
        else _cast_to_timestamp(column, type_name)
    )
    if time.zone == "UTC" or type_name == "timestamp":
        return read
    if time.unit == "pattern":
        names_zone = F.lit(re.search(_ZONE_LETTERS, time.pattern) is not None)
    else:
        names_zone = F.lit(False) if type_name == "timestamp_ntz" else text.rlike(_ZONE)
    return F.when(names_zone | ~read.between(*_FAR), read).otherwise(
        F.to_utc_timestamp(read, time.zone)
    )


def _micros(column: Column, type_name: str, unit: str) -> Column:
    """A Unix time as whole microseconds; null where it is no number or too large for them."""
    if type_name in ("byte", "short", "integer", "long"):
        number = column.cast("bigint")
        return (
            F.call_function("div", number, F.lit(1000))
            if unit == "nanoseconds"
            else F.try_multiply(number, F.lit(_FACTORS[unit]))
        )
    decimal = column.try_cast("decimal(38,6)")
    scaled = (
        F.try_divide(decimal, F.lit(1000))
        if unit == "nanoseconds"
        else F.try_multiply(decimal, F.lit(_FACTORS[unit]))
    )
    return scaled.try_cast("bigint")


def _cast_to_timestamp(column: Column, type_name: str) -> Column:
    """A column as a timestamp; a text only where it has a date, because Spark takes a time of day
    alone for one of today."""
    read = column.try_cast("timestamp")
    if type_name != "string":
        return read
    colon, dash = F.instr(column, ":"), F.instr(column, "-")
    return F.when((colon == 0) | ((dash > 0) & (dash < colon)), read)
