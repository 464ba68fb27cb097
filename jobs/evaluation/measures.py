"""Figures of the judged models with bootstrap intervals, all from sums over users."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.evaluation.cases import NextCases, UserCases
from jobs.evaluation.protocols import next_hits, recommend, user_hits
from jobs.similarity.catalogue import Catalogue, Ints
from jobs.similarity.maps import NONE, ItemMap

Sums = npt.NDArray[np.float64]
Figures = dict[str, Sums]
USER_FIGURES = ("hit_rate", "recall", "precision", "f1")
NEXT_FIGURES = ("next_all", "next_rare")
TOP_SHARE = 0.01
"""The most clicked items whose share of the recommendations is reported."""


@dataclass(frozen=True)
class Counted:
    """What a model did, before any average."""

    by_user: Sums
    """[users, 4] of the user protocol: 1, hit, recall, precision."""
    by_clicker: Sums
    """[users with a case, 4] of the next-item protocol: cases, hits, rare cases, rare hits."""
    ceiling: float | None
    coverage: float | None
    top1_share: float | None


def count(
    similar: ItemMap,
    users: UserCases,
    following: NextCases,
    catalogue: Catalogue,
    k: int,
    rare_clicks: int,
) -> Counted:
    """Puts all cases to a model.

    Per user: HitRate 1 where P_u and G_u meet, recall |P_u and G_u| / |G_u|, precision |P_u and
    G_u| / K (K also where P_u is shorter). A next-item case is rare where its target has 1 to
    `rare_clicks` - 1 clicks before the cut.
    """
    chosen = recommend(similar, users, k)
    hits = user_hits(chosen, users)
    by_user = np.column_stack(
        [np.ones(users.users), hits > 0, hits / users.truth_sizes(), hits / k]
    ).astype(np.float64)
    hit, rare = next_hits(similar, following, k), is_rare(following, catalogue, rare_clicks)
    columns = (np.ones(len(hit)), hit, rare, rare & hit)
    by_clicker = np.column_stack(
        [np.bincount(following.user, column) for column in columns]
    ).astype(np.float64)
    return Counted(
        by_user,
        by_clicker,
        ceiling(similar, following),
        coverage(chosen, catalogue),
        top1_share(chosen, catalogue),
    )


def is_rare(following: NextCases, catalogue: Catalogue, rare_clicks: int) -> npt.NDArray[np.bool_]:
    """[cases] whether the target was seen before the cut, but less often than `rare_clicks`."""
    clicks = catalogue.clicks[following.target]
    return (clicks > 0) & (clicks < rare_clicks)


def ceiling(similar: ItemMap, following: NextCases) -> float | None:
    """Share of the next-item cases that the model could hit: it knows the trigger, and the target
    stands in some list of its."""
    return _share(
        (similar.list_of[following.trigger] != NONE) & similar.candidates()[following.target]
    )


def coverage(chosen: Ints, catalogue: Catalogue) -> float | None:
    """Share of the vocabulary that is recommended to at least one user; none without users."""
    return _share(np.isin(np.arange(catalogue.vocabulary), chosen)) if len(chosen) else None


def top1_share(chosen: Ints, catalogue: Catalogue) -> float | None:
    """Share of all recommendations that go to the 1 % of the vocabulary (rounded up) with the
    highest counts, ties by row."""
    top = np.argsort(-catalogue.counts[: catalogue.vocabulary], kind="stable")[
        : int(np.ceil(TOP_SHARE * catalogue.vocabulary))
    ]
    return _share(np.isin(chosen[chosen != NONE], top))


def _share(true: npt.NDArray[np.bool_]) -> float | None:
    """Share of the cases that are true; none where there is no case."""
    return float(true.mean()) if true.size else None


def figures(sums: Sums) -> Figures:
    """Figures from sums [..., 8] over users of the columns of `Counted`; F1 is of the average
    precision and recall.

    A figure without cases is nan.
    """
    users, hits, recalls, precisions, cases, next_hit, rare, rare_hit = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = recalls / users, precisions / users
        f1 = np.where(recall + precision == 0, 0.0, 2 * recall * precision / (recall + precision))
        values = (hits / users, recall, precision, f1, next_hit / cases, rare_hit / rare)
    return dict(zip((*USER_FIGURES, *NEXT_FIGURES), values, strict=True))


def bootstrap_sums(by_user: Sums, samples: int, seed: int) -> Sums:
    """Column sums of `samples` draws of as many users as there are, with replacement: [samples,
    columns].

    The same seed draws the same users, so models judged on the same users are compared in pairs.
    """
    random, users = np.random.default_rng(seed), len(by_user)
    drawn = np.zeros((samples, by_user.shape[1]))
    for sample in range(samples if users else 0):
        drawn[sample] = np.bincount(random.integers(users, size=users), minlength=users) @ by_user
    return drawn


def judge(
    counted: Mapping[str, Counted], samples: int, seed: int, against: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Per model its figures, and how they differ from those of the models named in `against`, with
    paired 95 % intervals.

    Users are drawn, for the next item too: the clicks of one user are no independent cases. A
    percentile interval.
    """
    point = {
        name: figures(np.concatenate([model.by_user.sum(axis=0), model.by_clicker.sum(axis=0)]))
        for name, model in counted.items()
    }
    drawn = _drawn_figures(counted, samples, seed)
    judged: dict[str, dict[str, Any]] = {}
    for name, model in counted.items():
        judged[name] = {
            figure: _interval(value, drawn[name][figure]) for figure, value in point[name].items()
        }
        judged[name] |= {
            "ceiling": model.ceiling,
            "coverage": model.coverage,
            "top1_share": model.top1_share,
        }
        judged[name]["difference"] = {
            other: _difference(point[name], point[other], drawn[name], drawn[other])
            for other in against
            if other != name
        }
    return judged


def _difference(
    mine: Figures, other: Figures, mine_drawn: Figures, other_drawn: Figures
) -> dict[str, Any]:
    return {
        figure: _interval(mine[figure] - other[figure], mine_drawn[figure] - other_drawn[figure])
        for figure in mine
    }


def _drawn_figures(counted: Mapping[str, Counted], samples: int, seed: int) -> dict[str, Figures]:
    """Each model's figures in every bootstrap sample."""
    users = bootstrap_sums(np.hstack([model.by_user for model in counted.values()]), samples, seed)
    clickers = bootstrap_sums(
        np.hstack([model.by_clicker for model in counted.values()]), samples, seed
    )
    parts = zip(
        counted,
        np.split(users, len(counted), axis=1),
        np.split(clickers, len(counted), axis=1),
        strict=True,
    )
    return {
        name: figures(np.hstack([of_users, of_clickers])) for name, of_users, of_clickers in parts
    }


def _interval(value: Any, drawn: Sums) -> dict[str, float | None]:
    """A figure with its interval, for JSON: null where no case defines it, or nothing was drawn."""
    known = drawn[np.isfinite(drawn)]
    low, high = (
        (float(bound) for bound in np.quantile(known, [0.025, 0.975]))
        if len(known)
        else (None, None)
    )
    return {"value": float(value) if np.isfinite(value) else None, "low": low, "high": high}
