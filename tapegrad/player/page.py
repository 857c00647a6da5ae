"""The player's page: one file with everything in it, which needs no network and no server."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tapegrad.errors import GraphError, OperationError
from tapegrad.inspect.layered import layered, path
from tapegrad.inspect.listing import listing
from tapegrad.inspect.text import whole_number
from tapegrad.player.trace import Json, Trace
from tapegrad.program import Program
from tapegrad.recording import Recording

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("state", "explain", "views", "graph", "main")
# The boxes of the graph, in pixels: their height, and how wide they are for so many characters.
_HEIGHT, _CHARACTER, _ROOM, _NARROWEST, _WIDEST = 62.0, 7.3, 24.0, 88.0, 180.0


def to_html(
    recording: Recording, path: str | Path, *args: Any, limit: int = 200, numbers: int = 64, source: bool = True
) -> Path:
    """See `Recording.to_html`."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise GraphError(f"the player is saved as .html, not as {path.name!r}")
    path.write_text(html_of(recording, args, limit=limit, numbers=numbers, source=source), encoding="utf-8")
    return path


def html_of(
    recording: Recording, args: Sequence[Any] = (), *, limit: int = 200, numbers: int = 64, source: bool = True
) -> str:
    """The text of the page that `Recording.to_html` writes, with the arguments in a sequence."""
    for what, given, least in (("limit", limit, 2), ("numbers", numbers, 1)):
        if whole_number(given, what) < least:
            raise GraphError(f"{what} must be {least} or more, it is {given}")
    if not isinstance(getattr(recording, "program", None), Program):
        raise OperationError("only a recording that has a program of its own can be played")
    trace = Trace(recording, args, limit, numbers, source)
    data = trace.data()
    data["graph"] = _graph(data["entries"])
    # Text between script tags ends at the next `</`, and comments begin with `<!`: no such character is left.
    written = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for c in "<>&":
        written = written.replace(c, f"\\u{ord(c):04x}")
    return _filled(
        title=html.escape(f"{data['name']}: both sweeps of its tape"),
        style=_asset("player.css"),
        script='(() => {\n"use strict";\n' + "\n".join(_asset(f"{name}.js") for name in _SCRIPTS) + "})();",
        listing=html.escape(listing(recording)),
        data=written,
    )


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _filled(**parts: str) -> str:
    # In one pass, so that what is filled in cannot be taken for a mark.
    first, *rest = _asset("player.html").split("{{")
    text = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        text += [parts[name], after]
    return "".join(text)


def _graph(entries: Sequence[dict[str, Json]]) -> dict[str, Json]:
    """Where the boxes of the graph stand, running to the right and running down. Constants that are one number, guards
    and what has no elements are not in it."""
    shown = [
        n for n, entry in enumerate(entries)
        if entry["kind"] != "guard" and entry["count"] and not (entry["kind"] == "constant" and entry["count"] == 1)
    ]  # fmt: skip
    at = {n: i for i, n in enumerate(shown)}
    sizes = [(_width(entries[n]), _HEIGHT) for n in shown]
    edges = [(at[m], at[n]) for n in shown for m in entries[n]["reads"] if m in at and m < n]
    found: dict[str, Json] = {"nodes": shown, "sizes": sizes}
    for direction in ("LR", "TB"):
        placed = layered(sizes, edges, direction, across=32.0, between=16.0)
        found[direction] = {
            "width": round(placed.width, 1),
            "height": round(placed.height, 1),
            "at": [[round(x, 1), round(y, 1)] for x, y in placed.centres],
            "edges": [
                [shown[a], shown[b], path(route, direction)]
                for (a, b), route in zip(edges, placed.routes, strict=True)
            ],
        }
    return found


def _width(entry: dict[str, Json]) -> float:
    characters = len(entry["name"]) + (len(entry["sign"]) + 1 if entry.get("sign") else 0)
    # The first number of an array's adjoint needs some more room.
    least = _NARROWEST + (10.0 if entry["count"] > 1 and entry["kind"] != "fold" else 0.0)
    return min(max(least, characters * _CHARACTER + _ROOM), _WIDEST)
