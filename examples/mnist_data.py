"""The MNIST digits: found in a folder or the cache, else downloaded, and checked every time.

A file counts only when its content is the published one. Downloads are left to `pooch`, which puts a file in the cache
once it has checked it, so one that breaks off leaves nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tapegrad.cache import cache_folder
from tapegrad.errors import DataError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = 30  # seconds without an answer


class File(NamedTuple):
    """One of the four files, with the SHA-256 of its content, and of the compressed file that is downloaded."""

    name: str
    shape: tuple[int, ...]
    content: str
    packed: str


FILES = {
    "x_train": File(
        "train-images-idx3-ubyte", (60000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "y_train": File(
        "train-labels-idx1-ubyte", (60000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "x_test": File(
        "t10k-images-idx3-ubyte", (10000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "y_test": File(
        "t10k-labels-idx1-ubyte", (10000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}  # fmt: skip


class MNIST(NamedTuple):
    """Images of handwritten digits and the digits they show.

    Attributes:
        x_train: training images, shape (60000, 784), each row 28 x 28 pixels, 0 (paper) to 1 (ink).
        y_train: the digits shown, 0 to 9, shape (60000,), int64.
        x_test: test images, shape (10000, 784).
        y_test: the digits they show, shape (10000,).
        source: where the data came from, in words. Print it beside a result: the stand-in of `load_mnist` has fewer
            images (1500 and 297), and an accuracy on it is not one on MNIST.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    source: str


def load_mnist(folder: str | os.PathLike[str] | None = None, *, dtype: Any = np.float32) -> MNIST:
    """Load the MNIST digits, downloading them where they are not at hand.

    They are looked for in `folder`, else in the folder that the environment variable `TAPEGRAD_DATA` names, else in the
    cache of this user, into which they are downloaded where it lacks them (11 MB). A folder that was named, either way,
    must hold the four files, plain or compressed (`train-images-idx3-ubyte`, or the same with `.gz`), or have a folder
    `mnist` or, as torchvision has it, `MNIST/raw` that holds them.

    Without a network, and only then, the 1797 handwritten digits bundled with scikit-learn stand in, with a warning:
    8 x 8 pixels, each drawn as 3 x 3 inside a margin of 2, so that a network for MNIST fits. The first 1500 are for
    training and the other 297 for testing.

    Args:
        folder: where the four files are.
        dtype: of the images, float32 or float64.

    Returns:
        An `MNIST`, the images scaled to [0, 1].

    Raises:
        DataError: a file is missing from the folder named, or is not the published one; or the download failed for
            another reason than a missing network; or it needs a package that is not installed.
        ValueError: `dtype` is neither float32 nor float64.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; the stand-in is from Alpaydin and
    Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998.
    """
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, found {kind}")
    named = folder if folder is not None else os.environ.get("TAPEGRAD_DATA")
    place, found = (_inside(Path(named)), _named) if named else (cache_folder() / "mnist", _fetched)
    try:
        arrays = {key: _read(found(place, file), file) for key, file in FILES.items()}
    except _NoNetwork as error:
        digits = _digits(kind, error)
        warnings.warn(f"not MNIST: {digits.source}", stacklevel=2)
        return digits
    return MNIST(
        _scaled(arrays["x_train"], 255, kind),
        arrays["y_train"].astype(np.int64),
        _scaled(arrays["x_test"], 255, kind),
        arrays["y_test"].astype(np.int64),
        f"MNIST, from {place}",
    )


def _scaled(images: np.ndarray, top: int, dtype: np.dtype) -> np.ndarray:
    """Images of any shape (n, ...) with values 0..top, as rows with values 0..1."""
    scaled: np.ndarray = np.divide(images.reshape(len(images), -1), top, dtype=dtype)
    return scaled


# Files that are there


def _candidates(place: Path, file: File) -> list[Path]:
    return [path for path in (place / file.name, place / f"{file.name}.gz") if path.is_file()]


def _inside(place: Path) -> Path:
    """The folder that was named, or the one in it that holds the files."""
    for folder in (place, place / "mnist", place / "MNIST" / "raw"):
        if any(_candidates(folder, file) for file in FILES.values()):
            return folder
    return place


def _named(place: Path, file: File) -> Path:
    """The file in a folder that was named, and so must have it."""
    for path in _candidates(place, file):
        return path
    found = "a folder without it" if place.is_dir() else "no such folder"
    raise DataError(f"{place}: expected {file.name}[.gz], found {found}")


def _read(path: Path, file: File) -> np.ndarray:
    """The numbers of an IDX file, plain or compressed: a magic number (unsigned bytes, so many axes), the length of
    each axis, then the numbers. Raises DataError for anything but the published content."""
    header = struct.pack(f">HBB{len(file.shape)}I", 0, 8, len(file.shape), *file.shape)
    size = math.prod(file.shape)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            # One byte more than is due: that shows what is too long, without unpacking all of it.
            content = (gzip.GzipFile(fileobj=raw) if packed else raw).read(len(header) + size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: expected a whole gzip file, found a damaged one ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    begin, rest = content[: len(header)], len(content) - len(header)
    if begin != header:
        raise DataError(
            f"{path}: expected an IDX file of unsigned bytes, shape {file.shape}, beginning {header.hex(' ')}, "
            f"found {begin.hex(' ') or 'nothing'}"
        )
    if rest != size:
        raise DataError(f"{path}: expected {size} bytes after the header, found {rest if rest < size else 'more'}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.content:
        raise DataError(f"{path}: expected SHA-256 {file.content}, found {digest}")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(file.shape)


# Files that are fetched


class _NoNetwork(Exception):
    """No mirror could be connected to."""


def _fetched(cache: Path, file: File) -> Path:
    """The file in the cache, downloaded from the first mirror that has the right one where the cache does not."""
    try:
        import pooch
        import tqdm  # noqa: F401  the progress bar; pooch raises an error without it
    except ImportError as error:
        raise DataError(
            "expected the MNIST files in a folder, given or named by TAPEGRAD_DATA, or the packages that "
            f'download them: pip install "tapegrad[examples]" (found no {error.name})'
        ) from error
    # pooch downloads with requests, so this import cannot fail where pooch's did not.
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import RequestException, SSLError

    name = f"{file.name}.gz"
    registry = {name: f"sha256:{file.packed}"}
    download: Any = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    failures: list[str] = []
    offline = True
    for mirror in MIRRORS:
        try:
            return Path(pooch.create(cache, mirror, registry=registry).fetch(name, downloader=download))
        except (RequestException, ValueError) as error:  # pooch raises ValueError for a wrong hash
            # A TLS failure means that something answered: that is no missing network.
            offline &= isinstance(error, Unreachable) and not isinstance(error, SSLError)
            failures.append(f"{mirror}{name}: {error}")
        except OSError as error:
            raise DataError(f"{cache}: expected a folder to download into, found {error}") from error
    report = "; ".join(failures)
    if offline:
        raise _NoNetwork(report)
    raise DataError(f"{name}: expected the MNIST file from one of {len(MIRRORS)} mirrors, found {report}")


# The stand-in


def _digits(dtype: np.dtype, reason: _NoNetwork) -> MNIST:
    """The digits of scikit-learn in the shape of MNIST."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f"expected MNIST or, without a network, the digits of scikit-learn, found neither ({reason}); "
            'the latter needs pip install "tapegrad[examples]"'
        ) from error
    digits, labels = load_digits(return_X_y=True)
    images = digits.reshape(-1, 8, 8).repeat(3, axis=1).repeat(3, axis=2)  # 24 x 24
    x = _scaled(np.pad(images, ((0, 0), (2, 2), (2, 2))), 16, dtype)  # 28 x 28
    y = np.asarray(labels, np.int64)
    # The file goes writer by writer. Mixed, as in MNIST, no hand is met for the first time at the end.
    order = np.random.default_rng(0).permutation(len(y))
    x, y, split = x[order], y[order], 1500
    source = (
        "scikit-learn's bundled handwritten digits (8 x 8 pixels, enlarged) in place of MNIST, "
        "because no mirror could be reached"
    )
    return MNIST(x[:split], y[:split], x[split:], y[split:], source)
