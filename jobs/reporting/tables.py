"""The evaluation on the console."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.common.arrays import Int32Array
from jobs.evaluation.metrics.registry import NEXT_FIGURES, USER_FIGURES, WHOLE_FIGURES
from jobs.similarity.catalogue import Catalogue
from jobs.similarity.maps import NONE, ItemMap

CONSOLE_COLUMNS = 150
"""Columns where the console does not say how many it has (a file, a pipe)."""


def console() -> Console:
    """The console; wide enough for the table where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=CONSOLE_COLUMNS)


def figures_table(record: dict[str, Any]) -> Table:
    """Per cent, with 95 % intervals under the figures; the columns are explained in
    `jobs.evaluation.metrics`."""
    k, cases = record["k"], record["cases"]
    shown = Table(
        title=f"{record['project']}: {cases['users']} users, {cases['next']} next items, "
        f"{cases['next_rare']} of them rare, {cases['next_never_seen']} never seen before the cut; "
        f"{cases['left_out']} users are for validation and left out; per cent",
        show_lines=True,
    )
    shown.add_column("model")
    headings = (
        f"HR@{k}",
        f"Recall@{k}",
        f"Precision@{k}",
        f"F1@{k}",
        f"next HR@{k}",
        "rare",
        "ceiling",
        "coverage",
        "top 1 %",
    )
    for heading in headings:
        shown.add_column(heading, justify="right")
    shown.add_column("seconds", justify="right")
    for name, model in record["models"].items():
        figures = [_with_interval(model[figure]) for figure in (*USER_FIGURES, *NEXT_FIGURES)]
        shares = [
            "-" if model[share] is None else f"{100 * model[share]:.1f}" for share in WHOLE_FIGURES
        ]
        shown.add_row(name, *figures, *shares, f"{model['seconds']:.1f}")
    return shown


def differences_table(record: dict[str, Any]) -> Table:
    """Where a paired interval says that a model and a baseline differ."""
    shown = Table(title="Difference to a baseline in points, same users, 95 % interval")
    for heading in ("model", "against", f"HR@{record['k']}", f"next HR@{record['k']}", "rare"):
        shown.add_column(heading, justify="left" if heading in ("model", "against") else "right")
    for name, model in record["models"].items():
        for other, figures in model["difference"].items():
            shown.add_row(
                name, other, *(_signed(figures[figure]) for figure in ("hit_rate", *NEXT_FIGURES))
            )
    return shown


def neighbours_table(
    similar: ItemMap, catalogue: Catalogue, triggers: Int32Array, shown_items: int
) -> Table:
    """The first items of some triggers' lists, by title."""
    shown = Table(title="Nearest neighbours", show_lines=True)
    for heading in ("item", "clicks", "nearest, best first"):
        shown.add_column(heading, justify="right" if heading == "clicks" else "left")
    for trigger in triggers:
        place = similar.list_of[trigger]
        listed: list[int] = [] if place == NONE else similar.items[place, :shown_items].tolist()
        names = [escape(catalogue.name(item)) for item in listed if item != NONE]
        shown.add_row(
            escape(catalogue.name(int(trigger))),
            str(catalogue.counts[trigger]),
            "\n".join(names) or "-",
        )
    return shown


def _with_interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    text = f"{100 * figure['value']:.2f}"
    return (
        text
        if figure["low"] is None or figure["high"] is None
        else f"{text}\n{100 * figure['low']:.2f}-{100 * figure['high']:.2f}"
    )


def _signed(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    text = f"{100 * figure['value']:+.2f}"
    return (
        text
        if figure["low"] is None or figure["high"] is None
        else f"{text} [{100 * figure['low']:+.2f}, {100 * figure['high']:+.2f}]"
    )
