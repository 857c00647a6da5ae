"""The MNIST digits: found in a folder or the cache, else downloaded, and checked every time.

One rule holds throughout: a file counts only when its uncompressed content has the published checksum. A
download goes to a temporary folder and is moved into the cache after that check, so an interrupted one leaves
nothing.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapegrad.data.idx import read_idx
from tapegrad.errors import DataError

__all__ = ["MNIST", "load_mnist"]

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = 30  # seconds without an answer


class _File(NamedTuple):
    """One of the four files; `sha256` is of its uncompressed content."""

    name: str
    shape: tuple[int, ...]
    sha256: str


FILES = {
    "x_train": _File(
        "train-images-idx3-ubyte",
        (60000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "y_train": _File(
        "train-labels-idx1-ubyte",
        (60000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "x_test": _File(
        "t10k-images-idx3-ubyte",
        (10000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "y_test": _File(
        "t10k-labels-idx1-ubyte",
        (10000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


@dataclass(frozen=True, eq=False, repr=False)
class MNIST:
    """Images of handwritten digits and the digits they show.

    Attributes:
        x_train: training images, shape (60000, 784), each row 28 x 28 pixels, 0 (paper) to 1 (ink).
        y_train: the digits shown, 0 to 9, shape (60000,), int64.
        x_test: test images, shape (10000, 784).
        y_test: the digits they show, shape (10000,).
        source: where the data came from, in words. Print it beside a result: the stand-in of `load_mnist`
            has fewer images (1500 and 297), and an accuracy on it is not one on MNIST.

    >>> import numpy as np
    >>> x, y = np.zeros((2, 784), np.float32), np.array([3, 7])
    >>> MNIST(x, y, x, y, source="nowhere")
    MNIST(train=2, test=2, dtype=float32, source='nowhere')
    """

    x_train: npt.NDArray[Any]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[Any]
    y_test: npt.NDArray[np.int64]
    source: str

    def __repr__(self) -> str:
        return (
            f"MNIST(train={len(self.x_train)}, test={len(self.x_test)}, dtype={self.x_train.dtype}, "
            f"source={self.source!r})"
        )


def load_mnist(folder: str | os.PathLike[str] | None = None, *, dtype: npt.DTypeLike = np.float32) -> MNIST:
    """Load the MNIST digits, downloading them where they are not at hand.

    They are looked for in `folder`; else in the folder that the environment variable `TAPEGRAD_DATA` names;
    else in the user's cache; else they are downloaded into that cache (11 MB). A folder that was named,
    either way, must hold all four files, plain or compressed: `train-images-idx3-ubyte`, or the same with
    `.gz`.

    Without a network, and only then, the 1797 handwritten digits bundled with scikit-learn stand in, with a
    warning: 8 x 8 pixels, each drawn as 3 x 3 inside a margin of 2, so that a network for MNIST fits. The
    first 1500 are for training and the other 297 for testing.

    Args:
        folder: where the four files are.
        dtype: of the images, float32 or float64.

    Returns:
        An `MNIST`, the images scaled to [0, 1].

    Raises:
        DataError: a file is missing from the folder named, or is not the published one; or the download
            failed for another reason than a missing network; or it needs a package that is not installed.
        ValueError: `dtype` is neither float32 nor float64.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; the stand-in is from
    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998.

    >>> load_mnist("no/such/folder")
    Traceback (most recent call last):
    tapegrad.errors.DataError: no/such/folder: expected train-images-idx3-ubyte[.gz], found no such folder
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, found {dtype}")

    named = folder if folder is not None else os.environ.get("TAPEGRAD_DATA") or None
    if named is not None:
        place = Path(named)
        return _assemble({key: _read(_find(place, file), file) for key, file in FILES.items()}, dtype, place)

    place = cache_folder()
    try:
        arrays = {key: _cached(place, file) for key, file in FILES.items()}
    except _NoNetwork as error:
        digits = _digits(dtype, error)
        warnings.warn(f"not MNIST: {digits.source}", stacklevel=2)
        return digits
    return _assemble(arrays, dtype, place)


def cache_folder() -> Path:
    """The folder that downloads are kept in, one for each user."""
    return Path(_pooch().os_cache("tapegrad")) / "mnist"


def _assemble(arrays: dict[str, npt.NDArray[Any]], dtype: np.dtype[Any], place: Path) -> MNIST:
    return MNIST(
        x_train=_scaled(arrays["x_train"], 255, dtype),
        y_train=arrays["y_train"].astype(np.int64),
        x_test=_scaled(arrays["x_test"], 255, dtype),
        y_test=arrays["y_test"].astype(np.int64),
        source=f"MNIST, from {place}",
    )


def _scaled(images: npt.NDArray[Any], top: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Images of any shape (n, ...) with values 0..top, as rows with values 0..1."""
    return np.divide(images.reshape(len(images), -1), top, dtype=dtype)


# ---- files that are there ----------------------------------------------------------------------------------


def _candidates(place: Path, file: _File) -> list[Path]:
    return [path for path in (place / file.name, place / f"{file.name}.gz") if path.is_file()]


def _find(place: Path, file: _File) -> Path:
    """The file in a folder that was named, and so must have it."""
    for path in _candidates(place, file):
        return path
    found = "a folder without it" if place.is_dir() else "no such folder"
    raise DataError(f"{place}: expected {file.name}[.gz], found {found}")


def _read(path: Path, file: _File) -> npt.NDArray[Any]:
    return read_idx(path, shape=file.shape, sha256=file.sha256)


# ---- files that are fetched --------------------------------------------------------------------------------


class _NoNetwork(Exception):
    """No mirror could be connected to."""


def _pooch() -> Any:
    try:
        import pooch
        import tqdm  # noqa: F401  the progress bar; pooch raises an error without it
    except ImportError as error:
        raise DataError(
            "expected the MNIST files in a folder, given or named by TAPEGRAD_DATA, or the packages that "
            f'download them: pip install "tapegrad[examples]" (found no {error.name})'
        ) from error
    return pooch


def _cached(cache: Path, file: _File) -> npt.NDArray[Any]:
    """The file from the cache, downloaded first where it is not there."""
    for path in _candidates(cache, file):
        try:
            return _read(path, file)
        except DataError as error:
            raise DataError(f"{error}; delete this file to have it downloaded again") from error
    return _download(cache, file)


def _download(cache: Path, file: _File) -> npt.NDArray[Any]:
    """The file from the first mirror that has the right one: put in the cache once checked, not before."""
    download = _pooch().HTTPDownloader(progressbar=True, chunk_size=1 << 16, timeout=TIMEOUT)
    # pooch downloads with requests, so this import cannot fail where pooch's did not.
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import RequestException, SSLError

    name = f"{file.name}.gz"
    failures: list[str] = []
    offline = True
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # In the cache, so that the move at the end stays on one file system, where it is atomic.
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
            for mirror in MIRRORS:
                fresh = Path(scratch) / name
                try:
                    download(mirror + name, str(fresh), None)
                    array = _read(fresh, file)
                except (RequestException, DataError) as error:
                    # A TLS failure means that something answered: that is no missing network.
                    offline &= isinstance(error, Unreachable) and not isinstance(error, SSLError)
                    failures.append(f"{mirror}{name}: {error}")
                else:
                    fresh.replace(cache / name)
                    return array
    except OSError as error:
        raise DataError(f"{cache}: expected a folder to download into, found {error}") from error
    report = "; ".join(failures)
    if offline:
        raise _NoNetwork(report)
    raise DataError(f"{name}: expected the MNIST file from one of {len(MIRRORS)} mirrors, found {report}")


# ---- the stand-in ------------------------------------------------------------------------------------------


def _digits(dtype: np.dtype[Any], reason: _NoNetwork) -> MNIST:
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
    y = labels.astype(np.int64)
    split = 1500
    return MNIST(
        x_train=x[:split],
        y_train=y[:split],
        x_test=x[split:],
        y_test=y[split:],
        source=(
            "scikit-learn's bundled handwritten digits (8 x 8 pixels, enlarged) in place of MNIST, "
            "because no mirror could be reached"
        ),
    )
