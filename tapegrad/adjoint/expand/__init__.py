"""Derivatives of scalar instructions in compiled code.

`symbols` runs each operation's rule for partial derivatives once, and notes the operations that it does: the template.
`templates` puts these into arrays. `loops` is the compiled code: it walks over scalar instructions, writes the template
of each, multiplies by adjoints or tangents, and adds up. `stretch` calls the compiled code.
"""

from tapegrad.adjoint.expand.loops import resolve
from tapegrad.adjoint.expand.stretch import Given, written
from tapegrad.adjoint.expand.templates import templates

__all__ = ["Given", "resolve", "templates", "written"]
