"""Names for arrays by what they hold; shapes stand beside each use."""

from typing import Any

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
"""Catalogue rows."""
Int64Array = npt.NDArray[np.int64]
"""Counts, and keys of pairs."""
AnyIntArray = npt.NDArray[np.integer[Any]]
Float32Array = npt.NDArray[np.float32]
"""Vectors and scores."""
Float64Array = npt.NDArray[np.float64]
"""Sums and figures."""
BoolArray = npt.NDArray[np.bool_]
