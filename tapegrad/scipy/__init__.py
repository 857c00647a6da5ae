"""Functions that SciPy has and NumPy lacks, for Values: modules by SciPy's names, functions with SciPy's signatures."""

from tapegrad.scipy import linalg

__all__ = ["linalg"]
