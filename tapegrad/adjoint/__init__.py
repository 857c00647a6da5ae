"""Derivatives written as instructions: the gradient of a tape is a tape.

`region` finds the instructions that a derivative is taken of. `reverse` and `tangent` walk over them and append the
derivative to the same tape. For scalar instructions compiled code writes it (`expand`); for all others the rule of the
operation is run on Values, and `instruction` has the operands and the result of one instruction as Values. `flows`
keeps the adjoints and tangents that these two ways of writing hand to each other. `simplify` removes superfluous
instructions from a derivative program. The result is replayed, batched and differentiated like anything else on a
tape. `evaluation` calls a function of Values, `derivatives` differentiates it, and `matching` checks that tangents and
cotangents fit the arguments and results. `revolve` says which states of a long loop are kept where not all fit.
"""

from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.adjoint.region import Region
from tapegrad.adjoint.reverse import pull_back
from tapegrad.adjoint.simplify import simplified
from tapegrad.adjoint.tangent import push_forward

__all__ = ["Region", "evaluation", "derivatives", "matching", "pull_back", "push_forward", "simplified"]
