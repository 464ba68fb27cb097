"""The page: one HTML file that needs nothing beside it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from jobs.baselines.popularity import POPULARITY
from jobs.common.evaluate import Evaluate
from jobs.evaluation.models import OURS
from jobs.reporting import charts, log, sections
from jobs.reporting.neighbours import Neighbourhood, neighbourhoods
from jobs.reporting.records import Inputs, Training
from pipeline.contracts.scores import Evaluation
from pipeline.contracts.training import StepRecord
from pipeline.storage.files import write_text

TEMPLATE = "page.html.jinja"
WIDEST = 5
"""Tasks in one row of charts."""


def write_page(path: Path, inputs: Inputs) -> None:
    """Writes the page whole or not at all. Raises ReportError or ManifestError where a map or the
    links cannot be read."""
    write_text(path, render(inputs, neighbourhoods(inputs) if inputs.training else []))


def render(inputs: Inputs, items: list[Neighbourhood]) -> str:
    """The page's text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(sections, name)
        for name in (
            "duration",
            "percent",
            "interval",
            "signed",
            "bounds",
            "verdict",
            "kind",
            "short",
        )
    }
    environment.filters["number"] = "{:,}".format
    page = environment.get_template(TEMPLATE)
    return page.render(**_contents(inputs), items=items, near=_near(items, inputs.project.evaluate))


def _contents(inputs: Inputs) -> dict[str, Any]:
    statistics, training = inputs.statistics, inputs.training
    seconds = sections.durations(inputs)
    return {
        "project": inputs.project,
        "statistics": statistics,
        "training": training,
        "export": inputs.export,
        "seconds": seconds,
        "longest": max(seconds.values()),
        "evaluation": inputs.evaluation
        and _evaluation(inputs.evaluation, f"{OURS} {inputs.project.evaluate.score}"),
        "tasks": {task: _course(task, training) for task in training.last.losses}
        if training
        else {},
        "value_view": next(
            (relation.view for relation in inputs.manifest.relations.values()), None
        ),
        "funnel": log.funnel(statistics, inputs.manifest),
        "ends": log.views(statistics, inputs.manifest),
        "told_of_items": list(log.items(statistics)),
        "pictures": log.pictures(inputs),
        "graphs": sections.graphs(statistics),
        "columns": _columns(len(training.last.losses)) if training else 0,
        "settings": sections.settings(inputs),
        "versions": sections.versions(inputs.manifest),
    }


def _evaluation(found: Evaluation, ours: str) -> dict[str, Any]:
    """The part on the held-out data; `ours` is the model that the similarity map is of."""
    named = sections.headings(found.k)
    drawn = {
        title: charts.interval_chart(
            [
                charts.Bar(name, sections.kind(name), getattr(model, figure))
                for name, model in found.models.items()
            ],
            f"{title} of every model in per cent, with 95 % intervals",
        )
        for figure, title in named.items()
    }
    return {
        "k": found.k,
        "cases": found.cases,
        "models": found.models,
        "config": found.config,
        "headings": named,
        "charts": {title: chart for title, chart in drawn.items() if chart},
        "comparisons": sections.comparisons(found),
        "given": any(sections.kind(name) == "given" for name in found.models),
        "below": sections.below(found, POPULARITY, "hit_rate"),
        "ours": ours,
        "judgements": list(sections.judgements(found.models[ours], found.k))
        if ours in found.models
        else [],
    }


def _course(task: str, training: Training) -> Markup:
    """Loss and sigma^2 of a task (the paper's Figure 5)."""

    def over_steps(field: str) -> list[float | None]:
        return [getattr(step, field).get(task) for step in training.steps]

    steps: list[StepRecord] = training.steps
    curves = {"loss": over_steps("losses"), "σ²": over_steps("sigma2")}
    return charts.course(
        [step.step for step in steps],
        curves,
        f"loss and sigma squared of task {task} over the steps",
    )


def _columns(tasks: int) -> int:
    """Charts beside each other: one column a task, in two rows where they would get too narrow."""
    return tasks if tasks <= WIDEST else (tasks + 1) // 2


def _near(items: list[Neighbourhood], settings: Evaluate) -> dict[str, dict[str, Any]]:
    """Score -> what it is for, neighbours shown, and how many different ones they are."""
    lists = {
        score: [name for item in items for name in item.near[score]]
        for score in (items[0].near if items else {})
    }
    return {
        score: {
            "meaning": sections.meaning(score, settings),
            "shown": len(names),
            "different": len(set(names)),
        }
        for score, names in lists.items()
    }
