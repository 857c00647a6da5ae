"""The folder in which files are kept for later processes: compiled code, and what the examples download."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

import platformdirs


def wanted_folder() -> Path | None:
    """The folder where files are looked for, whether it exists and can be written or not; None if nobody knows one.

    >>> wanted_folder() is None or wanted_folder().name != "~"
    True
    """
    named = os.environ.get("TAPEGRAD_CACHE")
    place = named or platformdirs.user_cache_dir("tapegrad", appauthor=False)
    folder = Path(os.path.expanduser(place))
    # Where the user's home is unknown, `expanduser` leaves "~" as it is. Then no folder is made: it would be called "~"
    # and stand in the current folder.
    known = folder.is_absolute() or (named and not named.startswith("~"))
    return folder.absolute() if known else None


@cache
def cache_folder() -> Path:
    """The folder for files that can be made again: it exists and can be written.

    It is the one that `TAPEGRAD_CACHE` names, else `tapegrad` in the place where the platform keeps such files for this
    user (on Linux `~/.cache`, or what `XDG_CACHE_HOME` names). Where that cannot be written, it is a folder for this
    process alone, which is removed at its end, and there is a warning.

    >>> cache_folder().is_dir()
    True
    """
    folder = wanted_folder()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            pass
    warn_once()
    return _until_exit()


@cache
def warn_once() -> None:
    """Say that nothing can be kept."""
    warnings.warn(
        f"{wanted_folder() or 'the cache'} cannot be written, so what is compiled is lost with this process and the "
        "next one compiles it again: name a folder in the environment variable TAPEGRAD_CACHE",
        stacklevel=3,
    )


def _until_exit() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tapegrad-"))
    owner = os.getpid()

    def remove() -> None:
        # A forked process also runs this at its end, and must not remove the folder that its parent still uses.
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
