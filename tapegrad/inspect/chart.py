"""Horizontal bars as an SVG picture, which needs no program and no package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from tapegrad.errors import GraphError

_FONT = "Helvetica,Arial,sans-serif"
# Of the first and the second number of a bar. They differ in lightness too, for those who see no colours.
_FILLS = ("#334e68", "#9fb3c8")
_ROW, _BAR, _WIDE, _GAP = 24, 14, 420, 10
# About how wide a character is, and how many of a name are shown.
_CHARACTER, _MOST = 6.4, 60


class Bar(NamedTuple):
    """A bar: what stands before it, and the lengths of its parts."""

    name: str
    parts: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """A picture of bars. A notebook shows it by itself; `save` writes it to a file.

    Attributes:
        source: the picture as SVG text.
    """

    source: str

    def _repr_svg_(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"<Chart of {self.source.count('<title>') - 1} bars>"

    def save(self, path: str | Path) -> Path:
        """Write the picture to an .svg file; returns its path. Raises GraphError for another kind of file."""
        path = Path(path)
        if path.suffix != ".svg":
            raise GraphError(f"a chart is saved as .svg, not as {path.name!r}")
        path.write_text(self.source, encoding="utf-8")
        return path


def chart(title: str, bars: Sequence[Bar], kinds: Sequence[str], write: Callable[[float], str]) -> Chart:
    """Bars below each other, the lengths written by `write`; `kinds` say what the parts of a bar are."""
    names = [bar.name if len(bar.name) <= _MOST else bar.name[: _MOST - 1] + "…" for bar in bars]
    left = _GAP + _CHARACTER * max(map(len, names), default=0)
    longest = max((sum(bar.parts) for bar in bars), default=0.0) or 1.0
    width, height = left + _GAP + _WIDE + 110, _ROW * (len(bars) + 2) + _GAP
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family={quoteattr(_FONT)} font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        f'<text x="{_GAP}" y="16" font-size="13" fill="#1f2933">{escape(title)}</text>',
    ]
    at = left + _GAP
    for kind, fill in zip(kinds, _FILLS, strict=False):
        out.append(f'<rect x="{at:.1f}" y="{_ROW + 3}" width="10" height="10" fill="{fill}"/>')
        out.append(f'<text x="{at + 14:.1f}" y="{_ROW + 12}" fill="#52606d">{escape(kind)}</text>')
        at += 26 + _CHARACTER * len(kind)
    for n, (bar, name) in enumerate(zip(bars, names, strict=True)):
        top, total = _ROW * (n + 2), sum(bar.parts)
        said = ", ".join(f"{kind} {write(x)}" for kind, x in zip(kinds, bar.parts, strict=False))
        out.append(f"<g><title>{escape(f'{bar.name}: {said}')}</title>")
        out.append(f'<text x="{left:.1f}" y="{top + 11}" text-anchor="end" fill="#1f2933">{escape(name)}</text>')
        x = left + _GAP
        for length, fill in zip(bar.parts[: len(kinds)], _FILLS, strict=False):
            wide = _WIDE * length / longest
            out.append(f'<rect x="{x:.1f}" y="{top}" width="{wide:.1f}" height="{_BAR}" fill="{fill}"/>')
            x += wide
        out.append(f'<text x="{x + 5:.1f}" y="{top + 11}" fill="#52606d">{escape(write(total))}</text></g>')
    return Chart("\n".join([*out, "</svg>", ""]))
