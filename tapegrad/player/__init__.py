"""The tape player: a page in which one steps through both sweeps of a recording, as `Recording.to_html` writes it.

`sweep` computes, an instruction at a time, what the sweeps compute; `partials` writes derivatives as formulas; `trace`
puts it all together as plain data, and `page` into one file with what is in `assets`.
"""

from tapegrad.player.page import html_of, to_html
from tapegrad.recording.telling import tells

__all__ = ["html_of", "to_html"]

tells("to_html", to_html)
