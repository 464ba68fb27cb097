"""A look at what preprocessing made: where rows went, how many pairs each task has, and some of
them in readable names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.contracts.shards import Manifest, Stream
from pipeline.log.events import shortened
from pipeline.storage.locations import Location, parquet, read_table

SAMPLES = 3
"""Pairs shown of each task."""
Examples = Mapping[str, tuple[str, str]]
"""Reason -> a row of an item table and its file."""


def funnel_text(funnel: Mapping[str, Any], examples: Mapping[str, Examples] | None = None) -> str:
    """How many raw rows became clicks, and a line for each reason why others did not: the `funnel`
    of statistics.json. `examples`: `views.item_examples`, of the rows of item tables that say
    nothing."""
    raw, clicks, app_events = funnel["raw rows"], funnel["clicks"], funnel.get("app events")
    lines = [f"{raw:,} raw rows, {clicks:,} clicks"]
    for kind in ("rejected", "dropped"):
        for reason, rows in _above_zero(funnel[kind]).items():
            lines.append(f"  {kind}: {reason}: {rows:,} ({rows / raw:.1%})")
    for flaw, rows in _above_zero(funnel.get("flaws", {})).items():
        lines.append(f"  {rows:,} events lost a field: {flaw}")
    if app_events:
        lines.append(f"  {app_events:,} events tell of the app's opening or closing")
    if funnel["rejected"]:
        lines.append("  rejected rows are kept in the lake's table `rejects`")
    for table, counts in funnel.get("item tables", {}).items():
        of_table = (examples or {}).get(table, {})
        lines += _item_table_lines(table, counts, of_table)
    return "\n".join(lines)


def _above_zero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _item_table_lines(table: str, counts: Mapping[str, int], examples: Examples) -> Iterator[str]:
    """A line for each reason why rows of an item table say nothing."""
    all_rows = counts["rows"]
    for reason, rows in _above_zero(counts).items():
        if reason != "rows":
            row, file = examples.get(reason, ("", ""))
            example = f", for example {shortened(row)} in {unquote(file)}" if file else ""
            yield f"  {table}: {reason}: {rows:,} of {all_rows:,} rows{example}"


def print_pairs(shards: Location, manifest: Manifest) -> None:
    """Prints the number of positive pairs and a few decoded pairs of each task."""
    table = Table("task", "pairs", "for example", title=f"training pairs of {manifest.name}")
    for task, streams in manifest.streams.items():
        # The same pairs in every encoding.
        stream = streams[0]
        pairs = sample_pairs(shards, manifest, stream)
        examples = [f"{centre} -> {context}" for centre, context in pairs]
        table.add_row(task, f"{stream.pairs:,}", "\n".join(examples))
    Console(width=160).print(table)


def read_names(
    shards: Location, manifest: Manifest, view: str, rows: Sequence[int]
) -> dict[int, str]:
    """Title of the nodes in some rows of a view, the raw id where a node has none. Only the row
    groups that hold them are read."""
    path = shards / manifest.views[view].vocabulary.path
    table = read_table(path, columns=["row", "id", "title"], filters=[("row", "in", rows)])
    return {node["row"]: node["title"] or node["id"] for node in table.to_pylist()}


def sample_pairs(shards: Location, manifest: Manifest, stream: Stream) -> list[tuple[str, str]]:
    """Some pairs of a stream, each from another row of its first row group, by name."""
    random = np.random.default_rng(manifest.seed)
    file = next(file for file in stream.files if file.pairs)
    rows = parquet(shards / file.path).read_row_group(0).to_pylist()
    size = min(SAMPLES, len(rows))
    chosen = random.choice(len(rows), size, replace=False)
    pairs = [_one_pair(rows[i], stream.window, random) for i in chosen]
    centres, contexts = zip(*pairs, strict=True)
    centre_names = read_names(shards, manifest, stream.centre_view, centres)
    context_names = read_names(shards, manifest, stream.context_view, contexts)
    return [(centre_names[centre], context_names[context]) for centre, context in pairs]


def _one_pair(
    row: dict[str, list[int]], window: int | None, random: np.random.Generator
) -> tuple[int, int]:
    """One pair of a row, of any encoding."""
    if window is None:
        context = random.choice(row["contexts"])
        return int(row["centre"]), int(context)  # type: ignore[call-overload]
    nodes = row["nodes"]
    i = int(random.integers(len(nodes)))
    first, last = max(0, i - window), min(len(nodes) - 1, i + window)
    others = [j for j in range(first, last + 1) if j != i]
    return nodes[i], nodes[int(random.choice(others))]
