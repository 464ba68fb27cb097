"""What the page says: tables and sentences, all derived from the records."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jobs.baselines.rivals import BASELINES
from jobs.common.evaluate import Evaluate, Score
from jobs.evaluation.metrics.registry import NEXT_FIGURES, USER_FIGURES
from jobs.evaluation.models import OURS
from jobs.reporting.records import Inputs
from pipeline.contracts.scores import Estimate, Evaluation, ModelScores
from pipeline.contracts.shards import Manifest
from pipeline.contracts.statistics import Statistics

FIGURES = (*USER_FIGURES, *NEXT_FIGURES)
PACKAGES = ("pyspark", "delta-spark", "torch", "horovod", "numpy", "pyarrow", "faiss-cpu")
"""Packages whose version can change a result."""
HEADLINE = ("hit_rate", *NEXT_FIGURES)
"""Figures that the top of the page and the console tell."""
Standing = Literal["above", "below", "level", "no interval"]
SAID: dict[Standing, str] = {
    "above": "above {}",
    "below": "below {}",
    "level": "not distinguishable from {} (the interval holds zero)",
    "no interval": "compared with {} without an interval",
}


@dataclass(frozen=True)
class GraphRow:
    """A line of the paper's Table 1."""

    name: str
    nodes: int | None
    left_out: int | None
    """Nodes below `minimum_count` or beyond `top`."""
    distinct: int
    weight: int
    pairs: int


@dataclass(frozen=True)
class Comparison:
    """How a model differs from a baseline."""

    model: str
    against: str
    figures: dict[str, Estimate]


def headings(k: int) -> dict[str, str]:
    """Figure -> its name in tables."""
    user = (f"HitRate@{k}", f"Recall@{k}", f"Precision@{k}", f"F1@{k}")
    return dict(zip(FIGURES, (*user, f"Next item HR@{k}", f"Next item HR@{k}, rare"), strict=True))


def kind(name: str) -> str:
    """What a model is: one of this project's, a baseline, or given to the evaluation."""
    return "baseline" if name in BASELINES else "model" if name.startswith(f"{OURS} ") else "given"


def verdict(difference: Estimate) -> Standing:
    """What a paired interval says about a difference."""
    if difference.low is None or difference.high is None:
        return "no interval"
    return "above" if difference.low > 0 else "below" if difference.high < 0 else "level"


def comparisons(evaluation: Evaluation) -> list[Comparison]:
    """Of all models but the baselines."""
    models = {name: model for name, model in evaluation.models.items() if kind(name) != "baseline"}
    return [
        Comparison(name, other, figures)
        for name, model in models.items()
        for other, figures in model.difference.items()
    ]


def judgements(model: ModelScores, k: int) -> Iterator[tuple[Standing, str]]:
    """A sentence for each headline figure and baseline on how a model compares: what the paired
    interval says, and no more."""
    for figure in HEADLINE:
        for other, figures in model.difference.items():
            found = figures[figure]
            if found.value is not None:
                said = SAID[verdict(found)].format(other)
                yield (
                    verdict(found),
                    (
                        f"{headings(k)[figure]}: {said}, {signed(found.value)} points "
                        f"{bounds(found)}"
                    ).rstrip(),
                )


def below(evaluation: Evaluation, other: str, figure: str) -> list[str]:
    """Models whose figure is shown to lie below a baseline's."""
    return [
        row.model
        for row in comparisons(evaluation)
        if row.against == other and verdict(row.figures[figure]) == "below"
    ]


def graphs(statistics: Statistics) -> list[GraphRow]:
    """The paper's Table 1: views first, then relations."""
    views = [
        GraphRow(
            name,
            statistics.nodes[name],
            _left_out(statistics, name),
            edges.distinct,
            edges.weight,
            statistics.pairs[name],
        )
        for name, edges in statistics.edges.items()
    ]
    relations = [
        GraphRow(name, None, None, link.distinct, link.weight, statistics.pairs[name])
        for name, link in statistics.links.items()
    ]
    return views + relations


def _left_out(statistics: Statistics, view: str) -> int | None:
    return sum(statistics.left_out[view].values()) if view in statistics.left_out else None


def durations(inputs: Inputs) -> dict[str, float]:
    """Seconds of each step that keeps a record of them."""
    steps = dict(inputs.statistics.seconds)
    if inputs.training:
        steps["train"] = inputs.training.seconds
    if inputs.evaluation:
        steps["evaluate"] = sum(model.seconds for model in inputs.evaluation.models.values())
    return steps


def settings(inputs: Inputs) -> dict[str, dict[str, str]]:
    """Where settings come from -> option -> value, as the command line writes them."""
    end = inputs.training and inputs.training.end
    trained = {"train": end.config, "seed": end.seed, "ranks": end.ranks} if end else {}
    sections = {
        "Pipeline, as kept with the shards": inputs.manifest.config,
        "Training, as kept at its end": trained,
        "Evaluation, as kept with its figures": {"evaluate": inputs.evaluation.config}
        if inputs.evaluation
        else {},
    }
    return {title: found for title, values in sections.items() if (found := dict(_flat(values)))}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def versions(manifest: Manifest) -> dict[str, str]:
    """What the results depend on besides data and settings: code, packages and machine."""
    found = {"code of the pipeline": manifest.code_version, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = (
        f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{memory:.0f} GiB of memory"
    )
    return found | {"machine that wrote this page": machine}


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 59.95:  # what is longer would be rounded to 60.0
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def percent(share: float | None) -> str:
    """A share of 1 in per cent, without the sign."""
    # An empty cell shows a dash.
    return "–" if share is None else f"{100 * share:.2f}"  # noqa: RUF001


def short(value: float | None) -> str:
    """A loss or sigma^2; a dash where the task had no pair or no weight."""
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001  (the dash of an empty cell)


def interval(figure: Estimate) -> str:
    """The bounds of a share in per cent; empty where there are none."""
    return (
        ""
        if figure.low is None or figure.high is None
        else f"{percent(figure.low)} to {percent(figure.high)}"
    )


def signed(difference: float | None) -> str:
    """A difference in points."""
    return percent(None) if difference is None else f"{100 * difference:+.2f}"


def bounds(difference: Estimate) -> str:
    """The bounds of a difference in points; empty where there are none."""
    return (
        ""
        if difference.low is None or difference.high is None
        else f"[{signed(difference.low)}, {signed(difference.high)}]"
    )


def meaning(score: Score, settings: Evaluate) -> str:
    """What a score compares, and what it is for."""
    if score == "conditional":
        prior = (
            f", with {settings.conditional_exponent:g} · log of its clicks"
            if settings.conditional_exponent
            else ""
        )
        return (
            f"estimates how likely a click on the neighbour is after one on the item{prior}: "
            "made to recommend, and kind to bestsellers."
        )
    if score == "cosine":
        length = settings.cosine_count_exponent
        prior = (
            f"times the neighbour's clicks to the power {length:g}"
            if length
            else "however often the items are clicked"
        )
        return (
            f"compares the directions of the two input vectors, {prior}: made to find items "
            "that are alike."
        )
    return (
        "is the inner product of the two input vectors as they are, the paper's score; long "
        "vectors come first."
    )
