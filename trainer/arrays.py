"""Names for the kinds of numpy arrays that stand in signatures."""

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.generic]
"""Of any kind."""
