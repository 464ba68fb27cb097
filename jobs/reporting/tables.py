"""The evaluation on the console."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.common.arrays import Int32Array
from jobs.evaluation.metrics.registry import NEXT_FIGURES, USER_FIGURES, WHOLE_FIGURES
from jobs.similarity.catalogue import Catalogue
from jobs.similarity.maps import NONE, ItemMap
from pipeline.contracts.scores import Estimate, Evaluation

CONSOLE_COLUMNS = 150
"""Columns where the console does not say how many it has (a file, a pipe)."""


def console() -> Console:
    """The console; wide enough for the table where it is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=CONSOLE_COLUMNS)


def figures_table(evaluation: Evaluation) -> Table:
    """Per cent, with 95 % intervals under the figures; the columns are explained in
    `jobs.evaluation.metrics`."""
    k, cases = evaluation.k, evaluation.cases
    shown = Table(
        title=f"{evaluation.project}: {cases.users} users, {cases.next} next items, "
        f"{cases.next_rare} of them rare, {cases.next_never_seen} never seen before the cut; "
        f"{cases.left_out} users are for validation and left out; per cent",
        show_lines=True,
    )
    shown.add_column("model")
    of_users = (f"HR@{k}", f"Recall@{k}", f"Precision@{k}", f"F1@{k}")
    of_next_items = (f"next HR@{k}", "rare")
    of_lists = ("ceiling", "coverage", "top 1 %")
    for heading in (*of_users, *of_next_items, *of_lists, "seconds"):
        shown.add_column(heading, justify="right")
    for name, model in evaluation.models.items():
        estimates = (getattr(model, figure) for figure in (*USER_FIGURES, *NEXT_FIGURES))
        shares = (getattr(model, share) for share in WHOLE_FIGURES)
        cells = [*map(_with_interval, estimates), *map(_share, shares)]
        shown.add_row(name, *cells, f"{model.seconds:.1f}")
    return shown


def differences_table(evaluation: Evaluation) -> Table:
    """Where a paired interval says that a model and a baseline differ."""
    k = evaluation.k
    shown = Table(title="Difference to a baseline in points, same users, 95 % interval")
    for heading in ("model", "against"):
        shown.add_column(heading)
    for heading in (f"HR@{k}", f"next HR@{k}", "rare"):
        shown.add_column(heading, justify="right")
    for name, model in evaluation.models.items():
        for other, estimates in model.difference.items():
            figures = (estimates[figure] for figure in ("hit_rate", *NEXT_FIGURES))
            shown.add_row(name, other, *map(_signed, figures))
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


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _with_interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    text = f"{100 * estimate.value:.2f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text}\n{100 * estimate.low:.2f}-{100 * estimate.high:.2f}"


def _signed(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    text = f"{100 * estimate.value:+.2f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{100 * estimate.low:+.2f}, {100 * estimate.high:+.2f}]"
