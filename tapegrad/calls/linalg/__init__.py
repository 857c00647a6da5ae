"""NumPy's linear algebra on Values: one instruction a function, by LAPACK, with rules written in NumPy.

`basic` has what takes one factorisation, `eigen` and `singular` eigenvalues and singular values, `least` what least
squares needs, `functions` exponentials, roots and logarithms of matrices, and `names` what is put together of others.
"""

from tapegrad.calls.linalg import basic, eigen, functions, least, names, singular

__all__ = ["basic", "eigen", "functions", "least", "names", "singular"]
