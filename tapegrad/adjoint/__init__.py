"""Derivatives written as instructions: the gradient of a tape is a tape.

`region` reads the instructions that a derivative is taken of, `reverse` and `tangent` run their rules on Values, which
appends the derivative to the same tape, and `simplify` removes what such programs have too much of. The result is
replayed, batched and differentiated like anything else on a tape. `functions` does all of it for a function of Values.
"""

from tapegrad.adjoint import functions
from tapegrad.adjoint.region import Region
from tapegrad.adjoint.reverse import pull_back
from tapegrad.adjoint.simplify import simplified
from tapegrad.adjoint.tangent import push_forward

__all__ = ["Region", "functions", "pull_back", "push_forward", "simplified"]
