"""What `preprocess.py --check` shows of a sample: tables that fit 80 columns."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.config import PipelineConfig
from pipeline.log.events import shortened
from pipeline.runs.preview import Attribute, Check, FieldSummary, RowGroup

SHOWN, BESIDE = 10, 4
"""Events shown, and their columns beside each other."""


def print_check(check: Check, settings: PipelineConfig) -> None:
    """Prints all tables of a sample."""
    console = Console()
    for part in sample_parts(check, settings):
        console.print(part, highlight=False)


def sample_parts(check: Check, settings: PipelineConfig) -> Iterator[RenderableType]:
    """The tables and lines, in the order in which they are shown."""
    log = settings.source
    yield Text(f"{settings.name}: the first {check.rows:,} rows of {log.path}; nothing is written")
    yield from _events(check)
    yield from _rejects(check, log.max_rejected_share)
    if check.flaws:
        yield _reasons("flaws: events that lose a field which cannot be", check.flaws, check.rows)
    if check.events:
        yield _fields(check)
        if check.event_types:
            yield _event_types(check)
        yield from map(_attribute, check.attributes)
        yield from _item_tables(check)


def _events(check: Check) -> Iterator[Group]:
    """The first events, some columns at a time, so that none is squeezed."""
    if not check.events:
        return
    for begin in range(0, len(check.columns), BESIDE):
        names = check.columns[begin : begin + BESIDE]
        table = Table("")
        for name in names:
            table.add_column(name, overflow="fold")
        for number, event in enumerate(check.events[:SHOWN], 1):
            values = [_text(event[name]) for name in names]
            table.add_row(str(number), *values)
        columns = f"columns {begin + 1} to {begin + len(names)}"
        yield _titled(f"the first events as they are read, {columns}", table)


def _rejects(check: Check, max_share: float) -> Iterator[RenderableType]:
    if not check.rejected:
        yield Text("no row is rejected")
    else:
        yield _reasons("rejected: rows that are no events", check.rejected, check.rows)
    if check.rejected_rows > max_share * check.rows:
        share = _share(check.rejected_rows, check.rows)
        limit = f"source.max_rejected_share = {max_share:.2%}"
        yield Text(
            f"{share} of the sample is rejected, more than {limit}: a run of such rows would stop"
        )


def _item_tables(check: Check) -> Iterator[RenderableType]:
    if check.known_items is not None:
        yield Text(
            f"the item tables know {check.known_items:,} of the {check.items:,} items in the sample"
        )
    for table in check.item_tables:
        if table.rejected:
            title = (
                f"{table.option}: of all its {table.rows:,} rows, those that say nothing of any "
                "item"
            )
            yield _reasons(title, table.rejected, table.rows)


def _reasons(title: str, groups: Sequence[RowGroup], rows: int) -> Group:
    table = Table("reason", "for example, and its file")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.columns[1].overflow = "fold"
    table.columns[1].ratio = 1
    for group in groups:
        example = Text.assemble(_text(group.example), "\n", (group.file.rsplit("/", 1)[-1], "dim"))
        table.add_row(Text(group.name), example, f"{group.rows:,}", _share(group.rows, rows))
    return _titled(title, table)


def _fields(check: Check) -> Group:
    table, events = Table("field", "unknown", "different", "values"), len(check.events)
    table.columns[1].justify = table.columns[2].justify = "right"
    table.columns[3].overflow = "fold"
    for field in check.fields:
        unknown, distinct = _share(field.unknown, events), f"{field.distinct:,}"
        table.add_row(Text(field.name), unknown, distinct, _values(field, events))
    return _titled("fields of the events", table)


def _values(field: FieldSummary, events: int) -> Text:
    if field.bounds is not None:
        return Text(" to ").join(map(_text, field.bounds))
    if field.common is not None:
        value, count = field.common
        return Text.assemble("most often ", _text(value), f" ({_share(count, events)})")
    return _text(None)


def _event_types(check: Check) -> Group:
    table, events = Table("type"), len(check.events)
    for name in ("events", "share"):
        table.add_column(name, justify="right")
    table.add_column("use")
    for each in check.event_types:
        share = _share(each.events, events)
        table.add_row(_text(each.name), f"{each.events:,}", share, each.use)
    return _titled("event types", table)


def _attribute(attribute: Attribute) -> Group:
    asked, without = attribute.asked, attribute.asked - attribute.known
    table = Table("value")
    for name in (attribute.of, "share"):
        table.add_column(name, justify="right")
    table.columns[0].overflow = "fold"
    for value, count in attribute.common:
        table.add_row(_text(value), f"{count:,}", _share(count, asked))
    unknown = f"{_share(without, asked)} of the {asked:,} {attribute.of} have none"
    distinct = f"{attribute.distinct:,} different values"
    return _titled(f"attribute {attribute.name}: {unknown}, {distinct}", table)


def _titled(title: str, table: Table) -> Group:
    """A table below its title, which may be wider."""
    return Group(Text(f"\n{title}", style="bold"), table)


def _text(value: Any) -> Text:
    """A value as it is, cut where it is long; what is unknown is dim."""
    if value is None:
        return Text("unknown", style="dim")
    return Text(shortened(value.isoformat(" ") if isinstance(value, datetime) else str(value)))


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0.0%"
