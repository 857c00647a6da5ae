"""Derivatives written as instructions: the gradient of a tape is a tape.

`region` reads the instructions that a derivative is taken of, `reverse` and `tangent` walk them and append the
derivative to the same tape: scalar instructions by compiled code (`expand`), others by running their rules on Values,
which see them as `instruction` has them. `flows` is what passes between both. `simplify` removes what such programs
have too much of. The result is replayed, batched and differentiated like anything else on a tape. `evaluation` calls
a function of Values, `derivatives` differentiates it, and `matching` checks what goes in and comes out.
"""

from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.adjoint.region import Region
from tapegrad.adjoint.reverse import pull_back
from tapegrad.adjoint.simplify import simplified
from tapegrad.adjoint.tangent import push_forward

__all__ = ["Region", "evaluation", "derivatives", "matching", "pull_back", "push_forward", "simplified"]
