"""How far elementary functions are from the truth, in units in the last place, interpreted and compiled.

    python -m bench.accuracy                          # prints the table
    python -m bench.accuracy --write docs/accuracy.md

The truth is what C's library computes in long double, which has 11 more bits where it is the 80-bit format of x86; on
other machines the table says nothing. Numbers whose result is subnormal in float32 are left out, as they count as zero.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tapegrad as tg

POINTS = 1_000_000
HEAD = """# Accuracy

The largest error of elementary functions, in units in the last place of the right result, found at {points:,} random
points each: half of them uniform in the interval, half with magnitudes spread evenly over all exponents in it (for
functions that grow fast, or have periods, only within the interval). Written by `python -m bench.accuracy --write
docs/accuracy.md`, on a processor with {bits}-bit vectors.

"Interpreted" are the kernels of the interpreter, "compiled" is machine code of a program (see "Native programs" in
[design.md](design.md)). With TAPEGRAD_MATH=libm in the environment both call C's library number by number, which is
mostly right to one unit. Both may differ in the last digits from one processor to the next.

"""


class Function(NamedTuple):
    """A function, where it is tried, and its value in long double."""

    of: Callable[[Any], Any]
    low: float
    high: float
    true: Callable[[Any], Any]


def _both(f: Callable[[Any], Any], low: float, high: float) -> Function:
    return Function(f, low, high, f)


FUNCTIONS = {
    "exp": _both(np.exp, -750.0, 710.0),
    "expm1": _both(np.expm1, -50.0, 709.0),
    "log": _both(np.log, 0.0, 1e300),
    "log1p": _both(np.log1p, -1.0, 1e300),
    "log2": _both(np.log2, 0.0, 1e300),
    "log10": _both(np.log10, 0.0, 1e300),
    "tanh": _both(np.tanh, -25.0, 25.0),
    "sinh": _both(np.sinh, -700.0, 700.0),
    "cosh": _both(np.cosh, -700.0, 700.0),
    "sin": _both(np.sin, -100.0, 100.0),
    "cos": _both(np.cos, -100.0, 100.0),
    "tan": _both(np.tan, -100.0, 100.0),
    "arcsin": _both(np.arcsin, -1.0, 1.0),
    "arccos": _both(np.arccos, -1.0, 1.0),
    "arctan": _both(np.arctan, -1e6, 1e6),
    "arcsinh": _both(np.arcsinh, -1e6, 1e6),
    "arccosh": _both(np.arccosh, 1.0, 1e6),
    "arctanh": _both(np.arctanh, -1.0, 1.0),
    "cbrt": _both(np.cbrt, -1e6, 1e6),
    "x ** 2.5": Function(lambda x: x**2.5, 0.0, 1e15, lambda x: x ** np.longdouble(2.5)),
    "sigmoid": Function(tg.sigmoid, -700.0, 700.0, lambda x: 1.0 / (1.0 + np.exp(-x))),
    "softplus": Function(
        tg.softplus, -700.0, 700.0, lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    ),
}  # fmt: skip
# In float32 results leave the range earlier.
NARROW = {"exp": (-87.0, 88.0), "expm1": (-20.0, 88.0), "log": (0.0, 3e38), "log1p": (-1.0, 3e38), "log2": (0.0, 3e38),
          "log10": (0.0, 3e38), "sinh": (-88.0, 88.0), "cosh": (-88.0, 88.0), "tanh": (-12.0, 12.0),
          "sigmoid": (-86.0, 86.0), "softplus": (-86.0, 86.0)}  # fmt: skip


def points(name: str, dtype: Any, count: int, seed: int = 0) -> np.ndarray:
    """Where a function is tried."""
    one, rng = FUNCTIONS[name], np.random.default_rng(seed)
    low, high = NARROW.get(name, (one.low, one.high)) if dtype == np.float32 else (one.low, one.high)
    even = rng.uniform(low, high, count // 2)
    least = float(np.log(np.finfo(dtype).tiny))
    sizes = np.exp(rng.uniform(least, np.log(max(abs(low), high)), count - count // 2))
    signs = rng.choice([-1.0, 1.0], len(sizes)) if low < 0.0 else 1.0
    found = np.concatenate([even, np.clip(signs * sizes, low, high)]).astype(dtype)
    # The ends of open intervals are no matter of accuracy.
    return found[(found > low) & (found < high)] if low in (0.0, -1.0, 1.0) else found


def errors(name: str, x: np.ndarray, compiled: bool) -> np.ndarray:
    """How far results are from the truth, in units in the last place."""
    one = FUNCTIONS[name]
    found = np.asarray(tg.record(one.of, x, compile=compiled)(x))
    with np.errstate(all="ignore"):
        true = one.true(x.astype(np.longdouble))
        rounded = true.astype(x.dtype)
        units = np.abs(found.astype(np.longdouble) - true) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    # A result that is not finite where it should be is as far off as can be.
    units = np.where(np.isfinite(found), units, np.inf)
    counts = np.isfinite(rounded) & ((x.dtype == np.float64) | (np.abs(rounded) >= np.finfo(x.dtype).tiny))
    return np.asarray(units[counts], float)


def table(names: Sequence[str], count: int) -> str:
    """A Markdown table of the largest errors."""
    lines = [
        "| function | float64, in | interpreted | compiled | float32, in | interpreted | compiled |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        one, cells = FUNCTIONS[name], []
        for dtype in (np.float64, np.float32):
            low, high = NARROW.get(name, (one.low, one.high)) if dtype == np.float32 else (one.low, one.high)
            x = points(name, dtype, count)
            cells += [f"{low:g} to {high:g}", *(f"{errors(name, x, how).max():.2f}" for how in (False, True))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("functions", nargs="*", help=f"leave out the others of: {', '.join(FUNCTIONS)}")
    parser.add_argument("--write", help="the file that is written, in place of printing")
    options = parser.parse_args()
    if np.finfo(np.longdouble).nmant < 63:
        parser.error("long double has no more bits than float64 on this machine")
    from tapegrad.compiled.vector import register_bits

    found = HEAD.format(points=POINTS, bits=register_bits()) + table(options.functions or list(FUNCTIONS), POINTS)
    if options.write:
        Path(options.write).write_text(found + "\n", encoding="utf-8")
    else:
        print(found)


if __name__ == "__main__":
    main()
