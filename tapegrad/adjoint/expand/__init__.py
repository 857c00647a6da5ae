"""Derivatives of scalar instructions in compiled code.

`symbols` runs each operation's rule for partial derivatives once and writes down what it does, `templates` makes arrays
of that, `loops` walks scalar instructions and writes the templates out, multiplied and added up, and `stretch` calls
it.
"""

from tapegrad.adjoint.expand.loops import resolve
from tapegrad.adjoint.expand.stretch import Given, written
from tapegrad.adjoint.expand.templates import templates

__all__ = ["Given", "resolve", "templates", "written"]
