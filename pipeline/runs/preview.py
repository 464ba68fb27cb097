"""A look at a sample of a log before any of it is processed: `preprocess.py --check`. Nothing is
written."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import Column, DataFrame, Observation, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)
from pyspark.sql.types import TimestampType

from pipeline.config import DAY_IN_PATH, PipelineConfig, Source
from pipeline.graphs import views
from pipeline.log import deliveries, item_tables
from pipeline.log.events import BATCH, FLAW, RAW_ROW, REASON
from pipeline.log.readers import SOURCE_FILE

MOST_FREQUENT = 10
"""Values of an item's attribute that are looked at, the heaviest first."""


@dataclass(frozen=True)
class RowGroup:
    """RowGroup of one reason or flaw, and one of them as the source has it."""

    name: str
    rows: int
    example: str
    file: str


@dataclass(frozen=True)
class ItemRows:
    """All rows of an item table, and those of them that say nothing of any item."""

    option: str
    rows: int
    rejected: tuple[RowGroup, ...]


@dataclass(frozen=True)
class FieldSummary:
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
    rejected: tuple[RowGroup, ...]
    flaws: tuple[RowGroup, ...]
    fields: tuple[FieldSummary, ...]
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
        """RowGroup of the sample that are no events."""
        return self.rows - len(self.events)


def read_sample(
    spark: SparkSession, settings: PipelineConfig, rows: int, day: date | None = None
) -> Check:
    """Reads the first `rows` rows of a log, or of what a day brought, as the configuration
    describes it, and all of the item tables, of which it keeps what they say of the items there.
    Times are UTC, without a zone.

    Raises PipelineError where the configuration does not fit the tables.
    """
    log = settings.source
    mapped = deliveries.mapped(spark, log, day)
    observations = item_tables.item_observations(log)
    table = item_tables.item_table(spark, log, observations)
    columns = _columns(mapped, log)
    sample = mapped.limit(rows).withColumns(_without_zone(mapped)).collect()
    events = tuple(row for row in sample if row[REASON] is None)
    items = {event["item_id"] for event in events if event["item_id"] is not None}
    values = None if table is None else _known_values(table, items)
    known_items = {row["item_id"] for row in values or []}
    of_events = _of_events(events, settings)
    of_items = _of_items(values or [], len(items), settings)
    return Check(
        rows=len(sample),
        columns=columns,
        events=events,
        rejected=_groups(sample, REASON),
        flaws=_groups(events, FLAW),
        fields=tuple(_field(name, events) for name in columns),
        event_types=_event_types(events, log) if log.columns.event_type else (),
        attributes=(*of_events, *of_items),
        items=len(items),
        known_items=None if values is None else len(known_items),
        item_tables=_item_tables(observations) if items else (),
    )


def _columns(mapped: DataFrame, log: Source) -> tuple[str, ...]:
    """Fields and attributes; the day that brought a row where the log tells it."""
    beside = {REASON, FLAW, RAW_ROW, SOURCE_FILE}
    tells_day = log.day is not None or DAY_IN_PATH.search(log.path) is not None
    if not tells_day:
        beside.add(BATCH)
    return tuple(name for name in mapped.columns if name not in beside)


def _without_zone(mapped: DataFrame) -> dict[str, Column]:
    """The times. A timestamp would be collected in this machine's zone."""
    fields = [field.name for field in mapped.schema if isinstance(field.dataType, TimestampType)]
    return {name: F.col(name).cast("timestamp_ntz") for name in fields}


def _known_values(table: DataFrame, items: Iterable[str]) -> list[Row]:
    """item_id, attribute (null: the title), values of the sampled items that a table knows."""
    ids = [(item,) for item in sorted(items)]
    sampled = table.sparkSession.createDataFrame(ids, "item_id string")
    of_sample = table.join(F.broadcast(sampled), "item_id", "left_semi")
    heaviest = F.slice(views.heaviest_first()["value"], 1, MOST_FREQUENT).alias("values")
    return of_sample.groupBy("item_id", "attribute").agg(heaviest).collect()


def _item_tables(observations: Mapping[str, Observation]) -> tuple[ItemRows, ...]:
    counts, examples = item_tables.item_rows(observations), item_tables.item_examples(observations)
    tables = []
    for option, of_table in counts.items():
        rejected = [
            RowGroup(reason, of_table[reason], *example)
            for reason, example in examples[option].items()
        ]
        tables.append(ItemRows(option, of_table["rows"], tuple(rejected)))
    return tuple(tables)


def _groups(rows: Iterable[Row], column: str) -> tuple[RowGroup, ...]:
    """The rows that have a value in a column, by value, the most frequent first."""
    by_value: dict[str, list[Row]] = {}
    for row in rows:
        if row[column] is not None:
            by_value.setdefault(row[column], []).append(row)
    groups = []
    for value, members in by_value.items():
        first = members[0]
        groups.append(RowGroup(value, len(members), first[RAW_ROW], first[SOURCE_FILE]))
    return tuple(sorted(groups, key=lambda group: (-group.rows, group.name)))


def _field(name: str, events: Sequence[Row]) -> FieldSummary:
    values = [row[name] for row in events if row[name] is not None]
    counted, is_text = Counter(values), any(isinstance(value, str) for value in values)
    has_bounds = bool(values) and not is_text
    return FieldSummary(
        name,
        unknown=len(events) - len(values),
        distinct=len(counted),
        bounds=(min(values), max(values)) if has_bounds else None,
        common=_most_frequent_first(counted)[0] if is_text else None,
    )


def _most_frequent_first(counted: Mapping[str, int]) -> list[tuple[str, int]]:
    """Values and counts; equals by value."""
    return sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))


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
    attributes = []
    for name in settings.source.attributes:
        values = [[event[name]] for event in events]
        attributes.append(_attribute(name, "events", len(events), values, settings))
    return attributes


def _of_items(known: Sequence[Row], items: int, settings: PipelineConfig) -> list[Attribute]:
    names = dict.fromkeys(name for table in settings.source.items for name in table.attributes)
    attributes = []
    for name in names:
        values = [row["values"] for row in known if row["attribute"] == name]
        attributes.append(_attribute(name, "items", items, values, settings))
    return attributes


def _attribute(
    name: str, of: str, asked: int, said: Sequence[Sequence[str | None]], settings: PipelineConfig
) -> Attribute:
    """Of the values that each event or item has; a value that every view of the attribute takes for
    unknown is so."""
    unknown = _unknown(name, settings)
    values = [
        [value for value in each if value is not None and value not in unknown] for each in said
    ]
    counted = Counter(value for each in values for value in each)
    return Attribute(
        name,
        of,
        asked,
        known=sum(bool(each) for each in values),
        distinct=len(counted),
        common=tuple(_most_frequent_first(counted)[:MOST_FREQUENT]),
    )


def _unknown(attribute: str, settings: PipelineConfig) -> set[str]:
    null_values = [
        set(view.null_values) for view in settings.views.values() if view.attribute == attribute
    ]
    return set.intersection(*null_values) if null_values else set()
