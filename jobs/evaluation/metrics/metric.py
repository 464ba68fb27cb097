"""What a metric is: a figure of terms summed over users, or a share of a whole outcome."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from jobs.common.arrays import BoolArray, Float64Array
from jobs.evaluation.outcome import ModelOutcome

Unit = Literal["user", "clicker"]
"""Over whom terms are summed, and who is drawn in a bootstrap: the users of the user protocol, or
those with a next-item case."""
Terms = dict[str, npt.NDArray[Any]]
"""Name -> [units] what each unit adds to a sum. Terms of one name are the same in all metrics."""
Sums = Mapping[str, Float64Array]
"""Name -> [...] sums of a term over users: one of all, or one of each bootstrap sample."""


class SummedMetric(Protocol):
    """A figure of sums over users, which a bootstrap gives an interval."""

    @property
    def name(self) -> str:
        """Its key in evaluation.json."""
        ...

    @property
    def unit(self) -> Unit:
        """Over whom it sums."""
        ...

    def terms(self, outcome: ModelOutcome) -> Terms:
        """What each unit adds."""
        ...

    def figure(self, sums: Sums) -> Float64Array:
        """The figure [...] of sums [...]; nan where no case defines it."""
        ...


class WholeMetric(Protocol):
    """A figure of an outcome as a whole, without an interval."""

    @property
    def name(self) -> str:
        """Its key in evaluation.json."""
        ...

    def value(self, outcome: ModelOutcome) -> float | None:
        """A share of 1; none where no case defines it."""
        ...


def number_of_users(outcome: ModelOutcome) -> Terms:
    """A term of 1 for each user of the user protocol."""
    return {"users": np.ones(outcome.users.users)}


def share(true: BoolArray) -> float | None:
    """Share of the cases that are true; none where there is no case."""
    return float(true.mean()) if true.size else None
