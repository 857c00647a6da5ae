"""SciPy's solvers with exact derivatives: minimisation, least squares, equations, initial value problems.

Functions are written in NumPy, recorded once and replayed. `flat` turns nested numbers into the vectors that SciPy
works on, `replay` holds functions of such vectors and their derivatives, `choice` says when sparse matrices pay.
"""

from tapegrad.optimize.ivp import solve_ivp
from tapegrad.optimize.minimize import minimize
from tapegrad.optimize.systems import least_squares, root

__all__ = ["least_squares", "minimize", "root", "solve_ivp"]
