"""Operations that are functions of `scipy.special`: a row each, whose value SciPy's own code computes.

Importing this package fills the table with them, which is done when NumPy first meets one of these ufuncs with a Value;
who uses none pays nothing. `SAME` names the ufuncs that other operations compute, `HELD` those with operands that have
no derivative, `OUTPUTS` those with several results.
"""

from tapegrad.ops.special import bessel, distributions, errors, gamma, information, polynomials
from tapegrad.ops.special.declare import HELD, OUTPUTS, SAME

__all__ = ["HELD", "OUTPUTS", "SAME", "bessel", "distributions", "errors", "gamma", "information", "polynomials"]
