"""What a function takes from around it, and whether that is still what it was.

A recorded function is not called again, so it would not notice that a name it reads is bound to something else by now,
or that an array it reads was changed. `Captures` notices. `reading` finds the names in a function's code, `reach` what
stands behind them, `contents` watches arrays and lists, `drawing` random numbers.
"""

from tapegrad.captures.captures import Captures, captures_of
from tapegrad.captures.none import NoCaptures

__all__ = ["Captures", "NoCaptures", "captures_of"]
