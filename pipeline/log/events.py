"""Reading a click log as its configuration describes it: raw rows -> events, and rejects with the
reason.

Every raw row becomes one of both. What makes a row no event is a `reason`; what is wrong with a row
that is an event all the same, a stay that cannot be or cannot be read, is a `flaw`: that field is
null.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

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

from pipeline.config import Source, Time
from pipeline.errors import PipelineError
from pipeline.log.app_events import is_app_event
from pipeline.log.columns import as_text, identifier, is_compound, missing, quoted, type_of
from pipeline.log.readers import MALFORMED, SOURCE_FILE, source_column
from pipeline.log.times import check_pattern, to_timestamp

REASON, FLAW, RAW_ROW, BATCH = "reason", "flaw", "row", "batch"
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
_NOT_UTF8 = "\ufffd"
"""What a reader puts in the place of bytes that are no UTF-8."""

Answer = tuple[Column, Column | str]
"""A condition and the text that stands for it."""
Bounds = tuple[datetime, datetime]
"""The first time that can be, and the first that cannot be any more."""


@dataclass(frozen=True)
class SourceField:
    """A configured column: as the source has it, its type there, and as the events have it."""

    raw: Column
    type_: DataType
    typed: Column

    @property
    def unread(self) -> Column:
        """Whether the source says something that cannot be read."""
        is_blank = F.trim(self.raw.cast("string")) == ""
        return self.typed.isNull() & self.raw.isNotNull() & ~is_blank


def map_events(
    raw: DataFrame, source: Source, now: datetime | None = None, delivery: Column | None = None
) -> DataFrame:
    """Raw rows of `read_rows` -> the fields of an event, one column each, and beside them:

    - `reason`: why the row cannot be an event, else null;
    - `flaw`: which field of an event cannot be and is null for that, else null;
    - `batch`: the delivery that brought the row, null where nobody says;
    - `row`: the raw row as text; and its file.

    Ids are strings, an empty one is none; times are UTC timestamps. `now` stands for this moment.
    Raises PipelineError naming the option of a wrong column.
    """
    check_pattern(raw, source.time)
    columns = source.columns.model_dump(exclude_none=True)
    fields = {name: _source_field(raw, name, text, source) for name, text in columns.items()}
    attributes = {
        name: _attribute(raw, name, text, source) for name, text in source.attributes.items()
    }
    # Read once in a frame of their own, because each is asked several times below.
    staged = raw.select("*", *(field.typed.alias(_READ + name) for name, field in fields.items()))
    fields = {name: replace(field, typed=F.col(_READ + name)) for name, field in fields.items()}
    skewed_now = (now or datetime.now(UTC)) + _CLOCK_SKEW
    bounds = (source.time.earliest, source.time.latest or skewed_now)
    events = {name: _possible(name, field.typed, source, bounds) for name, field in fields.items()}
    events |= attributes
    if source.open_types or source.close_types:
        of_app = is_app_event(events["event_type"], source)
        events["item_id"] = F.when(~of_app, events["item_id"])
    reason = _first(_reasons(raw, fields, events, source))
    flaw = _first(_flaws(fields, events))
    unknown = F.lit(None).cast("date")
    brought = unknown if delivery is None else delivery
    return staged.select(
        *(column.alias(name) for name, column in events.items()),
        reason.alias(REASON),
        flaw.alias(FLAW),
        brought.alias(BATCH),
        _row_as_text(raw).alias(RAW_ROW),
        F.col(SOURCE_FILE),
    )


def completed(raw: DataFrame, source: Source, what: str) -> DataFrame:
    """Raw rows with the columns that optional fields and attributes name and that no file of a
    delivery has, all null. Prints each; `what` says which delivery it is."""
    optional = source.columns.model_dump(exclude_none=True, exclude={*IDS, "timestamp"})
    texts = {f"columns.{name}": text for name, text in optional.items()}
    texts |= {f"attributes.{name}": text for name, text in source.attributes.items()}
    for option, text in texts.items():
        # An expression may name several columns; each of them is told of once.
        while (parts := missing(raw, text)) and parts[0] not in raw.columns:
            column, where = ".".join(parts), f"source.{option} = '{text}'"
            print(f"{what} has no column {column} ({where}): it is unknown there", flush=True)
            # Maps, because the fields beside the missing one are not known.
            depth = len(parts) - 1
            type_ = "map<string," * depth + "string" + ">" * depth
            raw = raw.withColumn(parts[0], F.lit(None).cast(type_))
    return raw


def mapped_fields(mapped: DataFrame, *others: str) -> DataFrame:
    """The fields of `map_events`, the UTC date, `reason` and the `others` asked for (FLAW, BATCH);
    without the raw row's text, which is costly and only rejects need."""
    beside = (REASON, FLAW, BATCH, RAW_ROW, SOURCE_FILE)
    fields = [name for name in mapped.columns if name not in beside]
    date = F.to_date("timestamp").alias("date")
    return mapped.select(*fields, date, REASON, *others)


def rejected_rows(mapped: DataFrame) -> DataFrame:
    """The rows of `map_events` that are no events: the raw row as text, the reason, the file, the
    day that brought it."""
    rejected = mapped.where(F.col(REASON).isNotNull())
    return rejected.select(RAW_ROW, REASON, F.col(SOURCE_FILE).alias("source_file"), BATCH)


def shortened(text: str) -> str:
    """A raw row or a value as people are shown it."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _source_field(raw: DataFrame, name: str, text: str, source: Source) -> SourceField:
    option = f"source.columns.{name}"
    column = source_column(raw, text, option, source)
    type_ = type_of(raw, column)
    _check_type(option, name, type_, source.time)
    return SourceField(column, type_, _typed(name, column, type_, source))


def _attribute(raw: DataFrame, name: str, text: str, source: Source) -> Column:
    option = f"source.attributes.{name}"
    column = source_column(raw, text, option, source)
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


def _possible(name: str, typed: Column, source: Source, bounds: Bounds) -> Column:
    """A field as events have it: null where its value cannot be."""
    if name in TIME_COLUMNS:
        earliest, latest = map(F.lit, bounds)
        return F.when((typed >= earliest) & (typed < latest), typed)
    if name == "stay_seconds":
        return F.when(typed.between(0, source.longest_stay_seconds), typed)
    if name == "value":
        return F.when(~F.isnan(typed), typed)
    return typed


def _reasons(
    raw: DataFrame, fields: dict[str, SourceField], events: dict[str, Column], source: Source
) -> Iterator[Answer]:
    """Why a row is no event, in the order in which it is asked."""
    malformed = F.col(MALFORMED).isNotNull() if MALFORMED in raw.columns else F.lit(False)
    one_line_a_row = source.option("multiLine", "false").lower() != "true"
    if source.format == "csv" and one_line_a_row:
        quote = F.lit(source.option("quote", '"'))
        unquoted = F.replace(F.col(MALFORMED), quote, F.lit(""))
        quotes = F.length(MALFORMED) - F.length(unquoted)
        yield malformed & (quotes % 2 == 1), UNCLOSED
    yield malformed, "malformed row"
    yield events["user_id"].isNull(), "no user_id"
    needs_item = F.lit(True)
    if source.open_types or source.close_types:
        needs_item = ~is_app_event(events["event_type"], source)
    yield events["item_id"].isNull() & needs_item, "no item_id"
    for name in IDS:
        if isinstance(fields[name].type_, StringType):
            yield _is_mangled(events[name], source), f"{name} is no UTF-8"
    time = fields["timestamp"]
    why = F.when(time.unread, "unreadable timestamp").when(time.typed.isNull(), "no timestamp")
    yield events["timestamp"].isNull(), why.otherwise("timestamp out of range")


def _flaws(fields: dict[str, SourceField], events: dict[str, Column]) -> Iterator[Answer]:
    """What is wrong with an event, so that the field is null."""
    for name in FLAWED:
        if name in fields:
            yield fields[name].unread, f"unreadable {name}"
    for name in BOUNDED:
        if name in fields:
            typed = fields[name].typed
            is_read = typed.isNotNull()
            if name in NUMBER_COLUMNS:
                is_read = is_read & ~F.isnan(typed)
            yield is_read & events[name].isNull(), f"{name} out of range"


def flaw_names(source: Source) -> list[str]:
    """All that can be wrong with an event of this source."""
    columns = source.columns.model_dump(exclude_none=True)
    unreadable = [f"unreadable {name}" for name in FLAWED if name in columns]
    out_of_range = [f"{name} out of range" for name in BOUNDED if name in columns]
    return unreadable + out_of_range


def _first(answers: Iterator[Answer]) -> Column:
    """The text of the first condition that holds, null where none does."""
    answer = F.lit(None).cast("string")
    for condition, text in reversed(list(answers)):
        answer = F.when(condition, text).otherwise(answer)
    return answer


def _is_mangled(text: Column, source: Source) -> Column:
    """Whether an id's bytes are no UTF-8. The readers of CSV and JSON have replaced them; other ids
    could no longer be told from it."""
    replaced = text.contains(_NOT_UTF8)
    if source.format in ("csv", "json"):
        return replaced
    return replaced | ~F.is_valid_utf8(text)


def _row_as_text(raw: DataFrame) -> Column:
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
