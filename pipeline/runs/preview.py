"""A look at a sample of a log before any of it is processed: `preprocess.py --check`. Nothing is
written."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, Observation, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import TimestampType

from pipeline.config import DAY_IN_PATH, PipelineConfig, Source
from pipeline.graphs import views
from pipeline.log import deliveries, item_tables
from pipeline.log.events import BATCH, FLAW, RAW_ROW, REASON
from pipeline.log.readers import SOURCE_FILE

VALUES = 10
"""Values of an item's attribute that are looked at, the heaviest first."""


@dataclass(frozen=True)
class Rows:
    """Rows of one reason or flaw, and one of them as the source has it."""

    name: str
    rows: int
    example: str
    file: str


@dataclass(frozen=True)
class ItemRows:
    """All rows of an item table, and those of them that say nothing of any item."""

    option: str
    rows: int
    rejected: tuple[Rows, ...]


@dataclass(frozen=True)
class Field:
    """What the events of the sample say in one field."""

    name: str
    unknown: int
    distinct: int
    bounds: tuple[Any, Any] | None
    """The least and the greatest time or number; None for texts, or where all are unknown."""
    common: tuple[str, int] | None
    """The most frequent text, and how many events have it."""


@dataclass(frozen=True)
class Attribute:
    """What is known of an attribute: of the events, or of the sampled items in the item tables."""

    name: str
    of: str
    """events or items"""
    asked: int
    known: int
    distinct: int
    common: tuple[tuple[str, int], ...]
    """The most frequent values, and how many have them."""


@dataclass(frozen=True)
class EventType:
    """An event type of the sample; None: the log does not say."""

    name: str | None
    events: int
    use: str
    """click, no click, app opens, app closes"""


@dataclass(frozen=True)
class Check:
    """What a sample shows."""

    rows: int
    columns: tuple[str, ...]
    """Fields and attributes that the configuration maps, and `batch` where it tells the day that
    brought a row."""
    events: tuple[Row, ...]
    rejected: tuple[Rows, ...]
    flaws: tuple[Rows, ...]
    fields: tuple[Field, ...]
    event_types: tuple[EventType, ...]
    attributes: tuple[Attribute, ...]
    items: int
    """Different items of the sample's events,"""
    known_items: int | None
    """and how many of them the item tables know; None: there are no such tables."""
    item_tables: tuple[ItemRows, ...]
    """Empty where no event of the sample has an item: the tables are then not read."""

    @property
    def rejected_rows(self) -> int:
        """Rows of the sample that are no events."""
        return self.rows - len(self.events)


def check(
    spark: SparkSession, settings: PipelineConfig, rows: int, day: date | None = None
) -> Check:
    """Reads the first `rows` rows of a log, or of what a day brought, as the configuration
    describes it, and all of the item tables, of which it keeps what they say of the items there.
    Times are UTC, without a zone.

    Raises PipelineError where the configuration does not fit the tables.
    """
    log = settings.source
    mapped = deliveries.mapped(spark, log, day)
    seen = item_tables.item_observations(log)
    table = item_tables.item_table(spark, log, seen)
    tells_day = log.day is not None or DAY_IN_PATH.search(log.path) is not None
    beside = (
        REASON,
        FLAW,
        RAW_ROW,
        SOURCE_FILE,
        *(() if tells_day else (BATCH,)),
    )
    columns = tuple(name for name in mapped.columns if name not in beside)
    # A timestamp would be collected in this machine's zone.
    times = {
        field.name: F.col(field.name).cast("timestamp_ntz")
        for field in mapped.schema
        if isinstance(field.dataType, TimestampType)
    }
    sample = mapped.limit(rows).withColumns(times).collect()
    events = tuple(row for row in sample if row[REASON] is None)
    items = {row["item_id"] for row in events if row["item_id"] is not None}
    known = None if table is None else _known_values(table, items)
    return Check(
        rows=len(sample),
        columns=columns,
        events=events,
        rejected=_groups(sample, REASON),
        flaws=_groups(events, FLAW),
        fields=tuple(_field(name, events) for name in columns),
        event_types=_event_types(events, log) if log.columns.event_type else (),
        attributes=(*_of_events(events, settings), *_of_items(known or [], len(items), settings)),
        items=len(items),
        known_items=None if known is None else len({row["item_id"] for row in known}),
        item_tables=_item_tables(seen) if items else (),
    )


def _known_values(table: DataFrame, items: Iterable[str]) -> list[Row]:
    """item_id, attribute (null: the title), values of the sampled items that a table knows."""
    sampled = table.sparkSession.createDataFrame(
        [(item,) for item in sorted(items)], "item_id string"
    )
    found = table.join(F.broadcast(sampled), "item_id", "left_semi").groupBy("item_id", "attribute")
    return found.agg(F.slice(views.heaviest_first()["value"], 1, VALUES).alias("values")).collect()


def _item_tables(seen: Mapping[str, Observation]) -> tuple[ItemRows, ...]:
    counts, examples = item_tables.item_rows(seen), item_tables.item_examples(seen)
    rejected = {
        name: tuple(Rows(why, counts[name][why], *example) for why, example in found.items())
        for name, found in examples.items()
    }
    return tuple(ItemRows(name, counts[name]["rows"], rejected[name]) for name in seen)


def _groups(rows: Iterable[Row], column: str) -> tuple[Rows, ...]:
    """The rows that have a value in a column, by value, the most frequent first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row[column] is not None:
            found.setdefault(row[column], []).append(row)
    groups = (
        Rows(name, len(each), each[0][RAW_ROW], each[0][SOURCE_FILE])
        for name, each in found.items()
    )
    return tuple(sorted(groups, key=lambda group: (-group.rows, group.name)))


def _field(name: str, events: Sequence[Row]) -> Field:
    known = [row[name] for row in events if row[name] is not None]
    counted, is_text = Counter(known), any(isinstance(value, str) for value in known)
    common = min(counted.items(), key=lambda pair: (-pair[1], pair[0])) if is_text else None
    return Field(
        name,
        len(events) - len(known),
        len(counted),
        (min(known), max(known)) if known and not is_text else None,
        common,
    )


def _event_types(events: Sequence[Row], log: Source) -> tuple[EventType, ...]:
    counted = Counter(row["event_type"] for row in events).most_common()
    return tuple(EventType(name, count, _use(name, log)) for name, count in counted)


def _use(event_type: str | None, log: Source) -> str:
    """What becomes of events of a type."""
    if event_type in log.open_types:
        return "app opens"
    if event_type in log.close_types:
        return "app closes"
    return "click" if not log.event_types or event_type in log.event_types else "no click"


def _of_events(events: Sequence[Row], settings: PipelineConfig) -> list[Attribute]:
    return [
        _attribute(name, "events", len(events), [[row[name]] for row in events], settings)
        for name in settings.source.attributes
    ]


def _of_items(known: Sequence[Row], items: int, settings: PipelineConfig) -> list[Attribute]:
    names = dict.fromkeys(name for table in settings.source.items for name in table.attributes)
    return [
        _attribute(
            name,
            "items",
            items,
            [row["values"] for row in known if row["attribute"] == name],
            settings,
        )
        for name in names
    ]


def _attribute(
    name: str, of: str, asked: int, said: Sequence[Sequence[str | None]], settings: PipelineConfig
) -> Attribute:
    """Of the values that each event or item has; a value that every view of the attribute takes for
    unknown is so."""
    unknown = _unknown(name, settings)
    values = [
        [value for value in each if value is not None and value not in unknown] for each in said
    ]
    counted: Mapping[str, int] = Counter(value for each in values for value in each)
    common = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:VALUES]
    return Attribute(
        name, of, asked, sum(bool(each) for each in values), len(counted), tuple(common)
    )


def _unknown(attribute: str, settings: PipelineConfig) -> set[str]:
    told = [
        set(view.null_values) for view in settings.views.values() if view.attribute == attribute
    ]
    return set.intersection(*told) if told else set()
