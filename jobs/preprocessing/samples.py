"""A look at what preprocessing made: where rows went, how many pairs each task has, and some of
them in readable names."""

from collections.abc import Mapping, Sequence
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


def funnel_text(
    funnel: dict[str, Any], examples: Mapping[str, Mapping[str, tuple[str, str]]] | None = None
) -> str:
    """How many raw rows became clicks, and a line for each reason why others did not: the `funnel`
    of statistics.json. `examples`: `views.item_examples`, of the rows of item tables that say
    nothing."""
    raw = funnel["raw rows"]
    lines = [f"{raw:,} raw rows, {funnel['clicks']:,} clicks"]
    for kind in ("rejected", "dropped"):
        lines += [
            f"  {kind}: {reason}: {rows:,} ({rows / raw:.1%})"
            for reason, rows in funnel[kind].items()
            if rows
        ]
    lines += [
        f"  {rows:,} events lost a field: {flaw}"
        for flaw, rows in funnel.get("flaws", {}).items()
        if rows
    ]
    lines += (
        [f"  {funnel['app events']:,} events tell of the app's opening or closing"]
        if funnel.get("app events")
        else []
    )
    lines += (
        ["  rejected rows are kept in the lake's table `rejects`"] if funnel["rejected"] else []
    )
    for table, counts in funnel.get("item tables", {}).items():
        lost = {reason: rows for reason, rows in counts.items() if rows and reason != "rows"}
        for reason, rows in lost.items():
            row, file = (examples or {}).get(table, {}).get(reason, ("", ""))
            example = f", for example {shortened(row)} in {unquote(file)}" if file else ""
            lines.append(f"  {table}: {reason}: {rows:,} of {counts['rows']:,} rows{example}")
    return "\n".join(lines)


def print_pairs(shards: Location, manifest: Manifest) -> None:
    """Prints the number of positive pairs and a few decoded pairs of each task."""
    table = Table("task", "pairs", "for example", title=f"training pairs of {manifest.name}")
    for name, found in manifest.streams.items():
        examples = [
            f"{centre} -> {context}" for centre, context in sample_pairs(shards, manifest, found[0])
        ]
        table.add_row(name, f"{found[0].pairs:,}", "\n".join(examples))
    Console(width=160).print(table)


def read_names(
    shards: Location, manifest: Manifest, view: str, rows: Sequence[int]
) -> dict[int, str]:
    """Title of the nodes in some rows of a view, the raw id where a node has none. Only the row
    groups that hold them are read."""
    listed = manifest.views[view].vocabulary
    found = read_table(
        shards / listed.path, columns=["row", "id", "title"], filters=[("row", "in", rows)]
    )
    return {node["row"]: node["title"] or node["id"] for node in found.to_pylist()}


def sample_pairs(shards: Location, manifest: Manifest, stream: Stream) -> list[tuple[str, str]]:
    """Some pairs of a stream, each from another row of its first row group, by name."""
    random = np.random.default_rng(manifest.seed)
    file = next(file for file in stream.files if file.pairs)
    rows = parquet(shards / file.path).read_row_group(0).to_pylist()
    chosen = [rows[i] for i in random.choice(len(rows), min(SAMPLES, len(rows)), replace=False)]
    centres, contexts = zip(*(_one_pair(row, stream.window, random) for row in chosen), strict=True)
    centre_names = read_names(shards, manifest, stream.centre_view, centres)
    context_names = read_names(shards, manifest, stream.context_view, contexts)
    return [
        (centre_names[centre], context_names[context])
        for centre, context in zip(centres, contexts, strict=True)
    ]


def _one_pair(
    row: dict[str, list[int]], window: int | None, random: np.random.Generator
) -> tuple[int, int]:
    """One pair of a row, of any encoding."""
    if window is None:
        return int(row["centre"]), int(random.choice(row["contexts"]))  # type: ignore[call-overload]
    nodes = row["nodes"]
    i = int(random.integers(len(nodes)))
    others = [j for j in range(max(0, i - window), min(len(nodes), i + window + 1)) if j != i]
    return nodes[i], nodes[int(random.choice(others))]
