"""Seeing the tape: `listing` prints it as algebra, `draw` makes the tutorials' picture of a value's graph.

`reading` takes the tape's arrays apart into instructions and names what they read, `algebra` writes those names
into an operation's formula, `listing` and `dot` put the result on paper, `draw` renders it. With this package
imported, `print(tape)` and `print(recording)` list.
"""

from tapegrad.inspect.draw import Drawing, draw
from tapegrad.inspect.listing import listing
from tapegrad.recording import Recording
from tapegrad.tape import Tape

__all__ = ["Drawing", "draw", "listing"]


# These classes cannot import this package, because it imports them. So their `__str__` is set here.
Tape.__str__ = Recording.__str__ = lambda self: listing(self)  # type: ignore[arg-type,method-assign]
