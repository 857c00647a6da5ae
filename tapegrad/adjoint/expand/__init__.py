"""Derivatives of scalar instructions in compiled code.

`symbols` runs each operation's rule for partial derivatives once and writes down what it does, `templates` makes arrays
of that, and `kernels` walks scalar instructions and writes the templates out, multiplied and added up.
"""

from tapegrad.adjoint.expand.kernels import Given, pull, push, renumber, resolve
from tapegrad.adjoint.expand.symbols import check_count, traced
from tapegrad.adjoint.expand.templates import templates

__all__ = ["Given", "check_count", "pull", "push", "renumber", "resolve", "templates", "traced"]
