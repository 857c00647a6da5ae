"""Seeing the tape: `listing` prints it as algebra, `draw` makes the tutorials' picture of a value's graph.

`frame` makes a DataFrame of the listing, and `profile` measures what takes the time of a replay; `chart` draws that.

`reading` takes the tape's arrays apart into instructions and names what they read, `algebra` writes those names
into an operation's formula, `listing` and `dot` put the result on paper, `draw` renders it. With this package
imported, `print(tape)` and `print(recording)` list.
"""

from tapegrad.inspect.chart import Chart
from tapegrad.inspect.draw import Drawing, draw
from tapegrad.inspect.frame import to_dataframe
from tapegrad.inspect.listing import listing
from tapegrad.inspect.profile import Profile, profile
from tapegrad.recording import Recording
from tapegrad.recording.telling import tells
from tapegrad.tape import Tape

__all__ = ["Chart", "Drawing", "Profile", "draw", "listing", "to_dataframe"]

tells("profile", profile)
tells("to_dataframe", to_dataframe)


# These classes cannot import this package, because it imports them. So their `__str__` is set here.
Tape.__str__ = Recording.__str__ = lambda self: listing(self)  # type: ignore[arg-type,method-assign]
