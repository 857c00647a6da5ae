"""What the solvers return: SciPy's result, whose attributes checkers and editors do not find in SciPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeResult

if TYPE_CHECKING:

    class Result(OptimizeResult):
        """The attributes that most results have. Which others there are depends on the method."""

        x: Any
        x_flat: np.ndarray
        fun: Any
        success: bool
        status: int
        message: str
        nfev: int
        nit: int

        def __getattr__(self, name: str) -> Any: ...

else:
    Result = OptimizeResult
