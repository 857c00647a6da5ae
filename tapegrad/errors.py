"""The exceptions of tapegrad: every error a caller may want to catch is a `TapegradError`.

Each also derives from the built-in exception that NumPy users would expect in its place.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = [
    "BranchError",
    "ClusterError",
    "CompileError",
    "CutGradientError",
    "DTypeError",
    "DataError",
    "ExtraMissingError",
    "GraphError",
    "GuardError",
    "InPlaceError",
    "IndexRangeError",
    "IntegerInputError",
    "LabelError",
    "NonFiniteError",
    "NonScalarError",
    "OperationError",
    "PickleError",
    "RecordingWarning",
    "SingularError",
    "CheckError",
    "ShapeError",
    "StaleValueError",
    "StructureError",
    "TapeFullError",
    "OuterValueError",
    "TapeMismatchError",
    "TapegradError",
    "ThreadError",
    "UnsupportedAttributeError",
    "UnsupportedError",
]


class TapegradError(Exception):
    """Base class of every exception that tapegrad defines."""


class DataError(TapegradError, ValueError):
    """A data file is missing, truncated, corrupt or not the file it claims to be."""


class OperationError(TapegradError, ValueError):
    """An operation is declared or called wrongly."""


class ShapeError(TapegradError, ValueError):
    """Shapes do not fit together, or an axis or index does not fit a shape."""


class DTypeError(TapegradError, TypeError):
    """A dtype is not float32 or float64, or two dtypes meet that a tape does not mix."""


class IntegerInputError(TapegradError, TypeError):
    """A derivative was asked with respect to integers or booleans."""


class NonScalarError(TapegradError, ValueError):
    """A gradient was asked of an array of more than one element without a seed."""


class NonFiniteError(TapegradError, FloatingPointError):
    """A NaN, an infinity or an overflow was found while looking for them; see `tapegrad.debug`.

    `report` says where it began, as a `tapegrad.debugging.Blame`; None where that could not be found.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> Any:
        return type(self), (self.args[0], self.report)


class TapeMismatchError(TapegradError, ValueError):
    """Values of two tapes meet in one operation."""


class OuterValueError(TapeMismatchError):
    """A function that is being recorded uses a Value of this thread's own tape, from around it."""


class ThreadError(TapegradError, RuntimeError):
    """A value is used in another thread than the one whose tape it is on."""


class StaleValueError(TapegradError, RuntimeError):
    """A value's tape has been rewound past it, or its recording is finished."""


class InPlaceError(TapegradError, RuntimeError):
    """An edit in place would break a gradient, or has broken it."""


class CutGradientError(TapegradError, TypeError):
    """A value would silently become a plain number and lose its gradient."""


class UnsupportedError(TapegradError, TypeError):
    """A NumPy function, or a form of it, that has no derivative here.

    `numba` is what Numba raised where it could not compile a function for differentiated numbers; None otherwise.
    """

    numba: Any = None


class UnsupportedAttributeError(UnsupportedError, AttributeError):
    """An attribute or method of NumPy's arrays that Values do not have. `hasattr` finds that there is none."""


class TapeFullError(MemoryError, TapegradError):
    """A tape would need more than 2**31 slots."""


class LabelError(TapegradError, ValueError):
    """A class label is NaN, not a whole number, or out of range."""


class IndexRangeError(TapegradError, IndexError):
    """An index on the tape is NaN, not a whole number, or out of range."""


class StructureError(TapegradError, TypeError):
    """An argument has a structure or a leaf that cannot be differentiated or replayed."""


class GraphError(TapegradError, ValueError):
    """A graph is too large to draw, or there is nothing to draw."""


class ExtraMissingError(TapegradError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class GuardError(TapegradError, RuntimeError):
    """A function takes another branch each time it is recorded, at the same inputs."""


class BranchError(TapegradError, RuntimeError):
    """A recording that was loaded is called where its function takes a branch that the file does not have."""


class ClusterError(TapegradError, RuntimeError):
    """A cluster cannot compute what it was asked for: its scheduler or its workers are gone, or a worker is not like
    the process that asked."""


class SingularError(TapegradError, ValueError):
    """An implicit function has no derivative where its system of equations is singular."""


class CheckError(TapegradError, AssertionError):
    """A derivative does not agree with differences; the message names the argument, the direction and both numbers."""


class CompileError(TapegradError, RuntimeError):
    """A recording cannot be compiled; the message says why."""


class PickleError(TapegradError, pickle.PicklingError):
    """Something that belongs to this process alone, such as a lambda or a tape, would have to go into a pickle."""


class RecordingWarning(UserWarning):
    """A function is recorded again and again, or recorded differently at each call."""


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning, attributed to the innermost caller outside this package."""
    package = str(Path(__file__).parent)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
