"""What a recording tells of itself: where a NaN began, where two replays part, what takes its time, all as a table.

How that is found out stands in packages above this one, `inspect`, `debugging`, `player` and `batch`, which know
recordings and are not known here. They hand in a function for each of these methods when they are imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_told: dict[str, Callable[..., Any]] = {}


def tells(name: str, function: Callable[..., Any]) -> None:
    """Have a function, which is called with the recording and what its method is given, answer for a method."""
    _told[name] = function


class Telling:
    """The part of a recording that says what happens in a replay."""

    @property
    def batch(self) -> Any:
        """The same for many inputs at once: see `tapegrad.batch.Batch`."""
        return _told["batch"](self)

    def blame(
        self, *args: Any, argnums: int | Sequence[int] | None = 0, anywhere: bool = False, infinity: bool = True,
        lines: bool = True,
    ) -> Any:  # fmt: skip
        """Where a NaN or an infinity at these arguments began: a `tapegrad.debugging.Blame`, or None if there is none.

        The program is replayed by the interpreter, whether or not it is compiled, and what was recorded is searched:
        first for what has made the results NaN or infinite, then, with `argnums`, for what has made their gradient so
        (of several results, that of their sum). Numbers that a result does not depend on are not blamed, nor those in a
        branch that was not taken. What was given as NaN, in an argument or a constant, is told as such.

        Args:
            args: the arguments.
            argnums: the arguments by which the gradient is looked at, if they are floats; None for none.
            anywhere: whether NaN and infinities count that reach no result.
            infinity: whether infinities count; otherwise NaN alone.
            lines: where the function was recorded outside of `tapegrad.debug`, its lines were not noted. To know them
                it is called once more, if there is something to tell; without `lines` it is not.

        Raises what a replay raises.

        >>> import numpy as np
        >>> from tapegrad import debug, record
        >>> with debug():
        ...     recording = record(lambda x: np.sum(np.sqrt(x) * 2.0), np.ones(3))
        >>> recording.blame(np.ones(3)) is None
        True
        >>> found = recording.blame(np.array([1.0, 2.0, 0.0]))
        >>> found.what, found.sweep, found.operation, found.index, str(found.operands[0])
        ('infinity', 'reverse', 'sqrt', (2,), 'x[2] = 0.0')
        """
        return _told["blame"](self, *args, argnums=argnums, anywhere=anywhere, infinity=infinity, lines=lines)

    def diff(self, x1: Any, x2: Any, tolerance: float = 1e-9) -> Any:
        """The first instruction whose result differs between the replays at two inputs: a `tapegrad.debugging.Parting`,
        or None if none does.

        Two numbers a and b differ if abs(a - b) > tolerance * max(1, abs(a), abs(b)), or if one of them alone is NaN.

        Args:
            x1, x2: the argument of a function of one argument; else a tuple of the arguments.
            tolerance: by how much results may differ.

        Where the replays take different branches, it says which guard parts them. As with `blame`, the function may be
        called once more for its lines. Raises ShapeError for arguments of another kind than recorded, OperationError
        for a tolerance that is no number from 0 on, StructureError for an input of a function of several arguments that
        is no tuple of them.

        >>> import numpy as np
        >>> from tapegrad import record
        >>> recording = record(lambda x: np.sum(np.round(x) * 2.0), np.ones(3))
        >>> recording.diff(np.array([1.0, 2.4, 3.0]), np.array([1.0, 2.3, 3.0])) is None
        True
        >>> found = recording.diff(np.array([1.0, 2.4, 3.0]), np.array([1.0, 2.6, 3.0]))
        >>> found.operation, found.index, found.first, found.second
        ('rint', (1,), 2.0, 3.0)
        """
        return _told["diff"](self, x1, x2, tolerance)

    def profile(self, *args: Any, argnums: int | Sequence[int] | None = 0, repeat: int = 7) -> Any:
        """What takes the time of a replay, by operation and by line: a `tapegrad.inspect.Profile`.

        Measured in the interpreter: all instructions of one operation on one line are swept by themselves, `repeat`
        times, over the numbers of a replay at these arguments, and the median counts; with `argnums`, the way back as
        well. Compiled programs fuse instructions, so that theirs is another distribution; the profile says what a whole
        replay takes besides. Lines are known where the function was recorded in a block of `tapegrad.debug`.

        Raises OperationError where `repeat` is not positive, and what a replay raises.

        >>> import numpy as np
        >>> from tapegrad import record
        >>> found = record(lambda x: np.sum(np.exp(x) * x), np.ones(1000)).profile(np.ones(1000), repeat=3)
        >>> sorted(found.by_operation())
        ['exp', 'multiply', 'sum']
        >>> found.draw().source.startswith("<svg")
        True
        """
        return _told["profile"](self, *args, argnums=argnums, repeat=repeat)

    def to_dataframe(self, *args: Any, argnums: int | Sequence[int] | None = 0) -> Any:
        """The listing as a pandas DataFrame, one instruction a row.

        Its columns are `slot`, `name`, `operation`, `formula`, `operands` (a tuple of names), `shape`, `value`,
        `adjoint`, `file`, `line` and `source`. With arguments they are those of a replay at these, forward and back by
        `argnums` where the result is one number; without, those of the replay that was last, as in `print(recording)`.

        Raises ExtraMissingError without pandas: `pip install "tapegrad[pandas]"` brings it.
        """
        return _told["to_dataframe"](self, *args, argnums=argnums)

    def to_html(
        self, path: str | os.PathLike[str], *args: Any, limit: int = 200, numbers: int = 64, source: bool = True
    ) -> Path:
        """Write a page in which one can step through both sweeps, forward for values and back for the gradient.

        One file, for any browser, without a network: the instructions, the graph and the numbers in memory side by
        side, and for each step back the chain rule with its numbers, `∂x += ∂z · cos(x) = 0.5 · 0.54 = 0.27`. The
        numbers are those that the sweeps compute. Of a result that is not one number it is the gradient of the sum.

        Args:
            path: the file, .html.
            args: what to play the function at; if nothing is given, the arguments of the recording, or of the latest
                replay by the interpreter.
            limit: show so many instructions; if there are more, those in the middle are swept in one step.
            numbers: show so many numbers of an array.
            source: show the user's lines. Where the function was recorded outside of `tapegrad.debug`, it is called
                once more to find them.

        Returns the path. Raises GraphError for another suffix, a `limit` below 2 or `numbers` below 1,
        OperationError where these are no whole numbers, and what a replay raises.

        >>> import tempfile
        >>> import tapegrad as tg
        >>> recording = tg.record(lambda x, y: x * y + x, 2.0, -3.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = recording.to_html(folder + "/page.html", 5.0, 1.0)
        ...     page.read_text(encoding="utf-8").splitlines()[0]
        '<!DOCTYPE html>'
        """
        written: Path = _told["to_html"](self, path, *args, limit=limit, numbers=numbers, source=source)
        return written
