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


def print_check(found: Check, settings: PipelineConfig) -> None:
    """Prints all tables of a sample."""
    console = Console()
    for part in parts(found, settings):
        console.print(part, highlight=False)


def parts(found: Check, settings: PipelineConfig) -> Iterator[RenderableType]:
    """The tables and lines, in the order in which they are shown."""
    log = settings.source
    yield Text(f"{settings.name}: the first {found.rows:,} rows of {log.path}; nothing is written")
    yield from _events(found)
    yield (
        _reasons("rejected: rows that are no events", found.rejected, found.rows)
        if found.rejected
        else Text("no row is rejected")
    )
    if found.rejected_rows > log.max_rejected_share * found.rows:
        limit = f"source.max_rejected_share = {log.max_rejected_share:.2%}"
        yield Text(
            f"{_share(found.rejected_rows, found.rows)} of the sample is rejected, more than "
            f"{limit}: a run of such rows would stop"
        )
    if found.flaws:
        yield _reasons("flaws: events that lose a field which cannot be", found.flaws, found.rows)
    if found.events:
        yield _fields(found)
        if found.event_types:
            yield _event_types(found)
        yield from map(_attribute, found.attributes)
        if found.known_items is not None:
            yield Text(
                f"the item tables know {found.known_items:,} of the {found.items:,} items in "
                "the sample"
            )
        for table in (table for table in found.item_tables if table.rejected):
            yield _reasons(
                (
                    f"{table.option}: of all its {table.rows:,} rows, those that say nothing of "
                    "any "
                    "item"
                ),
                table.rejected,
                table.rows,
            )


def _events(found: Check) -> Iterator[Group]:
    """The first events, some columns at a time, so that none is squeezed."""
    for at in range(0, len(found.columns) if found.events else 0, BESIDE):
        names = found.columns[at : at + BESIDE]
        table = Table("")
        for name in names:
            table.add_column(name, overflow="fold")
        for number, row in enumerate(found.events[:SHOWN], 1):
            table.add_row(str(number), *(_text(row[name]) for name in names))
        yield _titled(
            f"the first events as they are read, columns {at + 1} to {at + len(names)}", table
        )


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


def _fields(found: Check) -> Group:
    shown = Table("field", "unknown", "different", "values")
    shown.columns[1].justify = shown.columns[2].justify = "right"
    shown.columns[3].overflow = "fold"
    for field in found.fields:
        shown.add_row(
            Text(field.name),
            _share(field.unknown, len(found.events)),
            f"{field.distinct:,}",
            _values(field, len(found.events)),
        )
    return _titled("fields of the events", shown)


def _values(field: FieldSummary, events: int) -> Text:
    if field.bounds is not None:
        return Text(" to ").join(map(_text, field.bounds))
    if field.common is not None:
        value, count = field.common
        return Text.assemble("most often ", _text(value), f" ({_share(count, events)})")
    return _text(None)


def _event_types(found: Check) -> Group:
    table = Table("type")
    for name in ("events", "share"):
        table.add_column(name, justify="right")
    table.add_column("use")
    for each in found.event_types:
        table.add_row(
            _text(each.name), f"{each.events:,}", _share(each.events, len(found.events)), each.use
        )
    return _titled("event types", table)


def _attribute(found: Attribute) -> Group:
    unknown = (
        f"{_share(found.asked - found.known, found.asked)} of the {found.asked:,} {found.of} "
        "have none"
    )
    table = Table("value")
    for name in (found.of, "share"):
        table.add_column(name, justify="right")
    table.columns[0].overflow = "fold"
    for value, count in found.common:
        table.add_row(_text(value), f"{count:,}", _share(count, found.asked))
    return _titled(f"attribute {found.name}: {unknown}, {found.distinct:,} different values", table)


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
