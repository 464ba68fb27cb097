"""The noise distribution P_n of negative sampling (paper eq. 3)."""

import numpy as np
import numpy.typing as npt

from trainer import draws


class Noise:
    """Draws rows of one view with probability proportional to count^exponent.

    Rows whose count is 0 (ids that stay in the vocabulary but were not clicked) are never drawn, unless the exponent is 0.
    """

    def __init__(self, counts: npt.NDArray[np.int64], exponent: float) -> None:
        weights = np.power(counts.astype(np.float64), exponent)
        if not len(weights) or weights.sum() <= 0:
            raise ValueError("a view without clicked nodes has no noise distribution")
        cumulative = np.cumsum(weights)
        self._cumulative = cumulative / cumulative[-1]
        self._cumulative[-1] = 1.0
        self._last = int(np.flatnonzero(weights)[-1])

    def draw(self, *key: draws.Key) -> npt.NDArray[np.int64]:
        """Rows for the keys, shaped as they broadcast; int64."""
        # searchsorted on a draw in [0, 1): the row whose interval of the cumulative sum holds it; empty intervals hold none.
        rows = np.searchsorted(self._cumulative, draws.uniform(*key), side="right")
        return np.minimum(rows, self._last)
