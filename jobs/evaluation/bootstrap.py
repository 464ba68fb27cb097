"""Figures of several models with bootstrap intervals, all from sums over users.

Users are drawn, for the next item too: the clicks of one user are no independent cases. Every model
meets the same draws, so that differences are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.common.arrays import Float64Array
from jobs.evaluation.metrics.metric import Sums, Terms, Unit
from jobs.evaluation.metrics.registry import SUMMED_METRICS, WHOLE_METRICS
from jobs.evaluation.outcome import ModelOutcome

UNITS: tuple[Unit, ...] = ("user", "clicker")
BOUNDS = (0.025, 0.975)
"""Quantiles of the drawn figures that bound a 95 % interval."""
Figures = dict[str, Float64Array]
"""Name of a metric -> one figure, or one of each bootstrap sample."""


@dataclass(frozen=True)
class Tally:
    """What a model did, user by user: all that figures and intervals need."""

    terms: Mapping[Unit, Terms]
    """Terms of the summed metrics, each [units]."""
    whole: Mapping[str, float | None]
    """Figures without an interval."""


def tally(outcome: ModelOutcome) -> Tally:
    """The terms and whole figures of all metrics."""
    terms: dict[Unit, Terms] = {unit: {} for unit in UNITS}
    for metric in SUMMED_METRICS:
        terms[metric.unit] |= metric.terms(outcome)
    return Tally(terms, {metric.name: metric.value(outcome) for metric in WHOLE_METRICS})


def judge_all(
    tallies: Mapping[str, Tally], samples: int, seed: int, against: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Per model its figures, and how they differ from those of the models named in `against`, with
    paired 95 % percentile intervals.

    For JSON: shares of 1, null where no case defines a figure or nothing was drawn.
    """
    point = {name: _point_figures(model) for name, model in tallies.items()}
    drawn = _drawn_figures(tallies, samples, seed)
    records: dict[str, dict[str, Any]] = {}
    for name, model in tallies.items():
        record = {
            figure: _interval(value, drawn[name][figure]) for figure, value in point[name].items()
        }
        differences = {
            other: _differences(point[name], point[other], drawn[name], drawn[other])
            for other in against
            if other != name
        }
        records[name] = {**record, **model.whole, "difference": differences}
    return records


def bootstrap_sums(by_user: Float64Array, samples: int, seed: int) -> Float64Array:
    """Column sums of `samples` draws of as many users as there are, with replacement: [users,
    columns] -> [samples, columns].

    The same seed draws the same users, so models judged on the same users are compared in pairs.
    """
    random, users = np.random.default_rng(seed), len(by_user)
    sums = np.zeros((samples, by_user.shape[1]))
    for sample in range(samples if users else 0):
        drawn_users = random.integers(users, size=users)
        times_drawn = np.bincount(drawn_users, minlength=users)
        sums[sample] = times_drawn @ by_user  # [users] @ [users, columns]
    return sums


def _figures(sums: Sums) -> Figures:
    # A figure without cases is 0 / 0: nan, which JSON tells as null.
    with np.errstate(invalid="ignore", divide="ignore"):
        return {metric.name: metric.figure(sums) for metric in SUMMED_METRICS}


def _point_figures(model: Tally) -> Figures:
    sums: dict[str, Float64Array] = {}
    for terms in model.terms.values():
        sums |= dict(zip(terms, _columns(terms).sum(axis=0), strict=True))
    return _figures(sums)


def _drawn_figures(tallies: Mapping[str, Tally], samples: int, seed: int) -> dict[str, Figures]:
    """Each model's figures in every bootstrap sample."""
    sums: dict[str, dict[str, Float64Array]] = {name: {} for name in tallies}
    for unit in UNITS:
        # All models side by side, so that each draw serves them all: [units, models * terms]
        tables = [_columns(model.terms[unit]) for model in tallies.values()]
        drawn = bootstrap_sums(np.hstack(tables), samples, seed)
        for (name, model), own in zip(
            tallies.items(), np.split(drawn, len(tallies), axis=1), strict=True
        ):
            # [samples, terms] -> name of a term -> [samples]
            sums[name] |= dict(zip(model.terms[unit], own.T, strict=True))
    return {name: _figures(own) for name, own in sums.items()}


def _columns(terms: Terms) -> Float64Array:
    """[units, terms]."""
    return np.column_stack(list(terms.values())).astype(np.float64)


def _differences(
    point: Figures, other_point: Figures, drawn: Figures, other_drawn: Figures
) -> dict[str, Any]:
    return {
        figure: _interval(point[figure] - other_point[figure], drawn[figure] - other_drawn[figure])
        for figure in point
    }


def _interval(value: Any, drawn: Float64Array) -> dict[str, float | None]:
    """A figure with its interval, for JSON: null where no case defines it, or nothing was drawn."""
    defined = drawn[np.isfinite(drawn)]
    low, high = None, None
    if len(defined):
        low, high = (float(bound) for bound in np.quantile(defined, BOUNDS))
    return {"value": float(value) if np.isfinite(value) else None, "low": low, "high": high}
