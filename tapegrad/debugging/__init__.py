"""Finding the line that made a NaN, an infinity or an overflow, in what is computed at once and in recordings.

`forward` goes back from wrong results to the instruction that made them, `backward` finds the one that made an adjoint
wrong, and `steps` the step of a loop. `describe` makes a `Blame` of what they have found, `recordings` looks into a
recording at any inputs, and `differences` compares two replays. `context` is `tapegrad.debug`, and `checks` has the
methods that check while such a block is open.
"""

from tapegrad.debugging.context import debug
from tapegrad.debugging.differences import Parting, diff
from tapegrad.debugging.recordings import blame
from tapegrad.debugging.report import Blame, Numbers
from tapegrad.recording.telling import tells

__all__ = ["Blame", "Numbers", "Parting", "debug"]

tells("blame", blame)
tells("diff", diff)
