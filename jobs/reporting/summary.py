"""The end of a run on the console."""

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from jobs.evaluation.models import OURS
from jobs.reporting.records import Inputs
from jobs.reporting.sections import (
    HEADLINE,
    duration,
    durations,
    headings,
    interval,
    judgements,
    percent,
)
from pipeline.contracts.scores import Estimate, Evaluation


def summary(inputs: Inputs, path: Path) -> Group:
    """Data, time, main figures, and where the page lies."""
    train = inputs.statistics.train
    seconds = durations(inputs)
    lines = [
        f"{inputs.project.name}: {train.users:,} users, {inputs.statistics.nodes['item']:,} "
        f"items, {train.clicks:,} "
        f"training clicks, {sum(inputs.statistics.pairs.values()):,} pairs",
        f"{duration(sum(seconds.values()))} in all: "
        + ", ".join(f"{step} {duration(spent)}" for step, spent in seconds.items()),
    ]
    figures: list[Table | Text] = [_figures(inputs.evaluation)] if inputs.evaluation else []
    if inputs.training and not inputs.evaluation:
        figures.append(Text("nothing was held out, so nothing was judged: see [split]"))
    return Group(
        *map(Text, lines), *figures, *map(Text, _judgements(inputs)), Text(f"report: {path}")
    )


def _judgements(inputs: Inputs) -> list[str]:
    """How the score of the similarity map compares with the baselines."""
    found, ours = inputs.evaluation, f"{OURS} {inputs.project.evaluate.score}"
    if found is None or ours not in found.models:
        return []
    return [f"{ours}, {sentence}" for _, sentence in judgements(found.models[ours], found.k)]


def _figures(evaluation: Evaluation) -> Table:
    table = Table("model", title="per cent, with 95 % intervals", title_justify="left")
    for figure in HEADLINE:
        table.add_column(headings(evaluation.k)[figure], justify="right")
    for name, model in evaluation.models.items():
        table.add_row(Text(name), *(_with_interval(getattr(model, figure)) for figure in HEADLINE))
    return table


def _with_interval(figure: Estimate) -> str:
    found = interval(figure)
    return f"{percent(figure.value)} ({found})" if found else percent(figure.value)
