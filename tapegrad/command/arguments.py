"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tapegrad.cache import wanted_folder
from tapegrad.command import info, measure, saved
from tapegrad.errors import TapegradError
from tapegrad.inspect import draw, listing
from tapegrad.recording import load


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status: 0, or 1 where something was wrong, which is said.

    >>> main(["info"])
    packages ...
    0
    """
    options = _parser().parse_args(arguments)
    try:
        _say(options.run(options))
    except (TapegradError, OSError) as error:
        sys.stderr.write(f"tapegrad {options.command}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tapegrad", description="About tapegrad on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, what: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        made = commands.add_parser(name, help=what, description=what)
        made.set_defaults(run=run)
        return made

    command("info", lambda _: info.info(), "versions, processor, cache, BLAS, vector math, threads")
    for name, run, what in (
        ("show", _show, "list the instructions of a saved recording"),
        ("draw", _draw, "draw a saved recording"),
        ("play", _play, "write a page that steps through both sweeps of a saved recording"),
    ):
        made = command(name, run, what)
        made.add_argument("file", type=Path, help="what recording.save has written")
        made.add_argument(
            "--at", nargs="+", metavar="ARGUMENT",
            help="the arguments, each as JSON: --at 2.5 '[0.1, 0.2]' (default: ones; a file does not say at what the "
            "function was recorded)",
        )  # fmt: skip
        if name == "draw":
            made.add_argument("--output", type=Path, help="the picture: .svg, .dot, .png or .pdf (default: FILE.svg)")
        if name == "play":
            made.add_argument("--output", type=Path, help="the page (default: FILE.html)")
    command("bench", lambda _: measure.table(measure.rows()), "measure some programs, in some ten seconds")
    cache = command("cache", _cache, "the folder in which compiled code is kept")
    cache.add_argument("what", choices=["show", "clear"], nargs="?", default="show", help="(default: %(default)s)")
    return parser


def _show(options: argparse.Namespace) -> str:
    recording = load(options.file)
    return listing(recording, at=saved.point(recording, options.at))


def _draw(options: argparse.Namespace) -> str:
    recording = load(options.file)
    recording(*saved.point(recording, options.at))
    return f"picture written to {draw(recording).save(options.output or options.file.with_suffix('.svg'))}"


def _play(options: argparse.Namespace) -> str:
    recording = load(options.file)
    page = recording.to_html(
        options.output or options.file.with_suffix(".html"), *saved.point(recording, options.at), source=False
    )
    return f"page written to {page}"


def _cache(options: argparse.Namespace) -> str:
    folder, files = wanted_folder(), info.files_of_the_cache()
    if options.what == "clear":
        left = [path for path in files if not _removed(path)]
        gone = [path for path in files if path not in set(left)]
        return f"removed {len(gone)} of {len(files)} files from {folder}"
    return f"{folder} ({info.size_of(files)})"


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
