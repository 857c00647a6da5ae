"""The IDX reader and the search for MNIST: nothing damaged gets in, and no surprise is silent."""

import gzip
import hashlib
import http.server
import os
import socket
import struct
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapegrad.data import MNIST, idx, load_mnist, mnist, read_idx
from tapegrad.errors import DataError, TapegradError


def idx_bytes(array, code):
    """The naive writer that the reader is compared with."""
    header = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


# ---- read_idx ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0,), (2, 0, 3)])
def test_reads_every_type_and_rank(tmp_path, pack, code, dtype, shape):
    rng = np.random.default_rng(0)
    expected = (rng.integers(0, 128, shape) * (1 if dtype == "u1" else -1)).astype(dtype)
    path = tmp_path / "file"
    path.write_bytes(pack(idx_bytes(expected, code)))
    for found in (read_idx(path), read_idx(str(path))):
        assert found.dtype == np.dtype(dtype) and found.dtype.isnative
        assert found.shape == shape
        np.testing.assert_array_equal(found, expected)
        assert found.flags.writeable


def test_multi_byte_elements_are_big_endian(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 1, 0x01, 0x02]))
    assert read_idx(path).tolist() == [258]


GOOD = idx_bytes(np.arange(6, dtype="u1").reshape(2, 3), 0x08)


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        (b"", "magic number of 4 bytes", "0 bytes"),
        (b"\0\0\x08", "magic number of 4 bytes", "3 bytes"),
        (b"\x89PNG" + GOOD[4:], "IDX magic number", "89 50 4e 47"),
        (b"\0\0\x0a\x02" + GOOD[4:], "IDX magic number", "00 00 0a 02"),
        (b"\0\0\x08\0" + GOOD[4:], "IDX magic number", "00 00 08 00"),
        (b"\0\0\x08\xff" + GOOD[4:], "IDX magic number", "00 00 08 ff"),
        (GOOD[:9], "header of 12 bytes", "9 bytes"),
        (GOOD[:-1], "6 bytes", "5"),
        (GOOD[:12], "6 bytes", "0"),
        (GOOD + b"\0", "6 bytes", "(7|more)"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_damage_is_named(tmp_path, pack, content, expected, found):
    path = tmp_path / "damaged"
    path.write_bytes(pack(content))
    with pytest.raises(DataError, match=f"damaged: expected .*{expected}.*found {found}"):
        read_idx(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_gzip(tmp_path, keep):
    packed = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, 5000).astype("u1"), 0x08))
    path = tmp_path / "cut.gz"
    path.write_bytes(packed[: int(keep * len(packed))])
    with pytest.raises(DataError, match="cut.gz: expected a whole gzip file"):
        read_idx(path)


@pytest.mark.parametrize("where", [0.3, -6], ids=["in the data", "in the checksum"])
def test_corrupt_gzip(tmp_path, where):
    labels = np.random.default_rng(0).integers(0, 10, 5000).astype("u1")
    packed = bytearray(gzip.compress(idx_bytes(labels, 0x08)))
    packed[int(where * len(packed)) if where > 0 else where] ^= 0x55
    path = tmp_path / "corrupt.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="corrupt.gz: expected a whole gzip file"):
        read_idx(path)


def test_wrong_checksum_and_shape(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(GOOD)
    right, wrong = hashlib.sha256(GOOD).hexdigest(), "0" * 64
    assert read_idx(path, shape=(2, 3), sha256=right).shape == (2, 3)
    with pytest.raises(DataError, match=f"file: expected SHA-256 {wrong}, found {right}"):
        read_idx(path, sha256=wrong)
    with pytest.raises(DataError, match=r"file: expected dimensions \(3, 2\), found \(2, 3\)"):
        read_idx(path, shape=(3, 2))


def test_checksum_is_of_the_uncompressed_content(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(GOOD))
    assert read_idx(path, sha256=hashlib.sha256(GOOD).hexdigest()).shape == (2, 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "dims",
    [(0xFFFFFFFF,), (0xFFFFFFFF,) * 8, (0, 0xFFFFFFFF, 0xFFFFFFFF), (4000, 1000, 1000), (1 << 10,) * 3],
)
def test_absurd_dimensions_allocate_nothing(tmp_path, pack, dims):
    path = tmp_path / "bomb"
    path.write_bytes(pack(struct.pack(f">HBB{len(dims)}I", 0, 8, len(dims), *dims) + b"some"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="bomb: expected"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_gzip_bomb_is_unpacked_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + bytes(64 << 20), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="expected 6 bytes.*found more"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="nothing: cannot be read"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, len(GOOD)), st.booleans())
def test_any_bytes_give_an_array_or_a_data_error(tmp_path_factory, noise, keep, packed):
    content = GOOD[:keep] + noise
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        array = read_idx(path)
    except DataError:
        return
    assert array.nbytes == len(content) - 4 - 4 * array.ndim


def test_errors_can_be_caught_both_ways():
    assert issubclass(DataError, TapegradError) and issubclass(DataError, ValueError)


# ---- load_mnist: four small files that pass for MNIST ------------------------------------------------------


@pytest.fixture
def contents(monkeypatch):
    """Uncompressed files by name. `mnist` is told their shapes and checksums in place of the real ones."""
    rng = np.random.default_rng(1)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 28, 28)).astype("u1"),
        "y_train": rng.integers(0, 10, 6).astype("u1"),
        "x_test": rng.integers(0, 256, (4, 28, 28)).astype("u1"),
        "y_test": rng.integers(0, 10, 4).astype("u1"),
    }
    blobs = {mnist.FILES[key].name: idx_bytes(array, 0x08) for key, array in arrays.items()}
    small = {
        key: file._replace(shape=arrays[key].shape, sha256=hashlib.sha256(blobs[file.name]).hexdigest())
        for key, file in mnist.FILES.items()
    }
    monkeypatch.setattr(mnist, "FILES", small)
    monkeypatch.delenv("TAPEGRAD_DATA", raising=False)
    return blobs


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "mnist"
    monkeypatch.setattr(mnist, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def no_download(monkeypatch):
    def fail(*_):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(mnist, "_download", fail)


def fill(folder, contents, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def check(data, contents, dtype=np.float32):
    """Every pixel and label, against the bytes of the files."""
    for split, stem in (("train", "train"), ("test", "t10k")):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        pixels = np.frombuffer(contents[f"{stem}-images-idx3-ubyte"][16:], "u1")
        np.testing.assert_allclose(x, (pixels / 255).reshape(-1, 784), rtol=1e-6)
        assert x.dtype == dtype
        assert y.dtype == np.int64
        assert bytes(y.tolist()) == contents[f"{stem}-labels-idx1-ubyte"][8:]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folder(tmp_path, contents, no_download, packed, dtype):
    folder = fill(tmp_path / "here", contents, packed)
    data = load_mnist(folder, dtype=dtype)
    check(data, contents, dtype)
    assert isinstance(data, MNIST) and str(folder) in data.source and data.source.startswith("MNIST")


def test_only_floating_types(tmp_path, contents):
    for dtype in (np.int64, np.float16, np.complex128):
        with pytest.raises(ValueError, match="expected float32 or float64"):
            load_mnist(fill(tmp_path, contents), dtype=dtype)


def test_result_is_frozen(tmp_path, contents):
    data = load_mnist(fill(tmp_path, contents))
    with pytest.raises(AttributeError):
        data.source = "elsewhere"


def test_environment_variable(tmp_path, monkeypatch, contents, no_download):
    monkeypatch.setenv("TAPEGRAD_DATA", str(fill(tmp_path / "there", contents)))
    check(load_mnist(), contents)


def test_folder_comes_before_the_environment_variable(tmp_path, monkeypatch, contents, no_download):
    monkeypatch.setenv("TAPEGRAD_DATA", str(tmp_path / "no such folder"))
    check(load_mnist(fill(tmp_path / "here", contents)), contents)


@pytest.mark.parametrize("how", ["argument", "variable"])
@pytest.mark.parametrize("state", ["missing", "empty", "incomplete"])
def test_a_folder_that_was_named_is_never_replaced_by_a_download(
    tmp_path, monkeypatch, contents, cache, no_download, how, state
):
    fill(cache, contents)  # what is there to be ignored
    folder = tmp_path / "named"
    if state != "missing":
        folder.mkdir()
    if state == "incomplete":
        fill(folder, contents)
        (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    if how == "variable":
        monkeypatch.setenv("TAPEGRAD_DATA", str(folder))
    lacking = "t10k-labels-idx1-ubyte" if state == "incomplete" else "train-images-idx3-ubyte"
    with pytest.raises(DataError, match=f"named: expected {lacking}"):
        load_mnist(folder if how == "argument" else None)


def test_files_swapped_in_a_folder(tmp_path, contents):
    contents["train-images-idx3-ubyte"] = contents["t10k-images-idx3-ubyte"]
    with pytest.raises(DataError, match=r"train-images.*dimensions \(6, 28, 28\), found \(4, 28, 28\)"):
        load_mnist(fill(tmp_path, contents))


def test_one_pixel_changed_in_a_folder(tmp_path, contents):
    blob = bytearray(contents["t10k-images-idx3-ubyte"])
    blob[-1] ^= 1
    contents["t10k-images-idx3-ubyte"] = bytes(blob)
    with pytest.raises(DataError, match="t10k-images.*expected SHA-256 .* found "):
        load_mnist(fill(tmp_path, contents))


def test_cache_is_used_and_checked(contents, cache, no_download):
    fill(cache, contents)
    check(load_mnist(), contents)
    (cache / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(DataError, match="train-labels.*delete this file"):
        load_mnist()


def test_cache_folder_is_the_users():
    assert "tapegrad" in str(mnist.cache_folder()) and mnist.cache_folder().is_absolute()


@pytest.mark.parametrize("package", ["pooch", "tqdm"])
def test_without_the_extra(monkeypatch, contents, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf'pip install "tapegrad\[examples\]".*{package}'):
        load_mnist()


# ---- downloads, from a server on this machine --------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; what is in `cut` is announced whole and sent in half. Notes each request."""

    def __init__(self):
        self.files, self.cut, self.asked = {}, set(), []
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, folder):
        return f"http://127.0.0.1:{self.server_port}/{folder}/"

    def add(self, folder, contents):
        for name, content in contents.items():
            self.files[f"/{folder}/{name}.gz"] = gzip.compress(content)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.server.cut else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, cache):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(mnist, "MIRRORS", (server.url("one"), server.url("two")))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def closed():
    """The address of a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/"


def left_behind(cache):
    return sorted(path.name for path in cache.rglob("*"))


def test_download_fills_the_cache_once(contents, cache, server, capsys):
    server.add("one", contents)
    check(load_mnist(), contents)
    assert left_behind(cache) == sorted(f"{name}.gz" for name in contents)
    assert "100%" in capsys.readouterr().err  # the progress bar
    assert len(server.asked) == 4
    check(load_mnist(), contents)
    assert len(server.asked) == 4


def test_only_what_the_cache_lacks_is_downloaded(contents, cache, server):
    server.add("one", contents)
    fill(cache, contents)
    (cache / "t10k-labels-idx1-ubyte.gz").unlink()
    check(load_mnist(), contents)
    assert server.asked == ["/one/t10k-labels-idx1-ubyte.gz"]


def damage_missing(server):
    server.files = {path: body for path, body in server.files.items() if not path.startswith("/one/")}


def damage_corrupt(server):
    """Whole gzip files, with one pixel or label changed."""
    for path, body in server.files.items():
        if path.startswith("/one/"):
            blob = gzip.decompress(body)
            server.files[path] = gzip.compress(blob[:-1] + bytes([blob[-1] ^ 1]))


def damage_cut(server):
    server.cut = {path for path in server.files if path.startswith("/one/")}


def damage_page(server):
    """A portal that answers every request with its own page."""
    server.files.update({path: b"<html>log in</html>" for path in server.files if path.startswith("/one/")})


DAMAGES = [damage_missing, damage_corrupt, damage_cut, damage_page]


@pytest.mark.parametrize("damage", DAMAGES)
def test_second_mirror_helps(contents, cache, server, damage):
    server.add("one", contents)
    server.add("two", contents)
    damage(server)
    check(load_mnist(), contents)
    assert len(server.asked) == 8
    assert left_behind(cache) == sorted(f"{name}.gz" for name in contents)


def test_second_mirror_helps_when_the_first_is_unreachable(contents, cache, server, closed, monkeypatch):
    server.add("two", contents)
    monkeypatch.setattr(mnist, "MIRRORS", (closed, server.url("two")))
    check(load_mnist(), contents)


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_downloads_leave_the_cache_clean_and_are_no_missing_network(
    contents, cache, server, damage, closed, monkeypatch
):
    server.add("one", contents)
    damage(server)
    for mirrors in [(server.url("one"),) * 2, (closed, server.url("one")), (server.url("one"), closed)]:
        monkeypatch.setattr(mnist, "MIRRORS", mirrors)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no stand-in, either
            with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: expected the MNIST file"):
                load_mnist()
        assert left_behind(cache) == []


def test_cache_that_cannot_be_written(tmp_path, contents, server, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "file" / "mnist")
    server.add("one", contents)
    with pytest.raises(DataError, match="expected a folder to download into"):
        load_mnist()


@pytest.fixture
def offline(contents, cache, closed, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(mnist, "MIRRORS", (closed, closed))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stand_in_without_a_network(offline, cache, dtype):
    datasets = pytest.importorskip("sklearn.datasets")
    with pytest.warns(UserWarning, match="not MNIST: scikit-learn's bundled handwritten digits") as caught:
        data = load_mnist(dtype=dtype)
    assert caught[0].filename == __file__  # the warning points at the caller
    assert data.source.startswith("scikit-learn's bundled handwritten digits")
    assert data.x_train.shape == (1500, 784) and data.x_test.shape == (297, 784)
    assert data.y_train.shape == (1500,) and data.y_test.shape == (297,)
    assert data.x_train.dtype == dtype and data.y_train.dtype == np.int64
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    digits, labels = datasets.load_digits(return_X_y=True)
    np.testing.assert_array_equal(np.concatenate([data.y_train, data.y_test]), labels)
    images = np.concatenate([data.x_train, data.x_test]).reshape(-1, 28, 28)
    np.testing.assert_array_equal(images[:, 2:-2:3, 2:-2:3].reshape(-1, 64) * 16, digits)
    assert left_behind(cache) == []


def test_no_stand_in_for_a_folder_that_was_named(offline, tmp_path):
    with pytest.raises(DataError, match="expected train-images"):
        load_mnist(tmp_path)


def test_neither_network_nor_scikit_learn(offline, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'found neither .*pip install "tapegrad\[examples\]"'):
        load_mnist()


# ---- the real files ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.environ.get("TAPEGRAD_DATA"), reason="TAPEGRAD_DATA names no folder with MNIST")
def test_the_real_files():
    data = load_mnist()
    assert data.x_train.shape == (60000, 784) and data.x_test.shape == (10000, 784)
    assert data.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(data.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.x_train.dtype == np.float32 and data.x_train.min() == 0 and data.x_train.max() == 1
    assert round(float(data.x_train.mean(dtype=np.float64)), 4) == 0.1307


def test_published_files_are_what_is_expected():
    """The table, as published: a slip there would refuse the right files."""
    assert [file.name for file in mnist.FILES.values()] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    assert all(len(file.sha256) == 64 and file.shape[0] in (60000, 10000) for file in mnist.FILES.values())
    assert all(url.startswith("https://") and url.endswith("/") for url in mnist.MIRRORS)
    assert max(np.prod(file.shape) for file in mnist.FILES.values()) < idx.MAX_BYTES
