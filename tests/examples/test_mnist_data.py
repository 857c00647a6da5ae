"""MNIST as the examples read it: nothing damaged gets in, and no surprise is silent."""

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

import mnist_data
import numpy as np
import pooch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mnist_data import File, load_mnist

import tapegrad.cache
from tapegrad.errors import DataError


def idx_bytes(array):
    """The naive writer that the reader is compared with."""
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pack(content):
    return gzip.compress(content, mtime=0)


def file_of(content, shape, name="file"):
    return File(name, shape, hashlib.sha256(content).hexdigest(), hashlib.sha256(pack(content)).hexdigest())


# ---- One file ----------------------------------------------------------------------------------------------

GOOD = idx_bytes(np.arange(6, dtype="u1").reshape(2, 3))
WRONG = GOOD[:-1] + b"\0"
FILE = file_of(GOOD, (2, 3))


def read(path):
    return mnist_data._read(path, FILE)


@pytest.mark.parametrize("packed", [bytes, pack], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0,), (2, 0, 3)])
def test_reads_what_was_written(tmp_path, packed, shape):
    expected = np.random.default_rng(0).integers(0, 256, shape).astype("u1")
    path = tmp_path / "file"
    path.write_bytes(packed(idx_bytes(expected)))
    found = mnist_data._read(path, file_of(idx_bytes(expected), shape))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "beginning 00 00 08 02 00 00 00 02 00 00 00 03, found nothing"),
        (GOOD[:3], "shape .2, 3., beginning .*, found 00 00 08$"),
        (b"\x89PNG" + GOOD[4:], "found 89 50 4e 47"),
        (b"\0\0\x0a\x02" + GOOD[4:], "found 00 00 0a 02"),
        (idx_bytes(np.zeros((3, 2), "u1")), "found 00 00 08 02 00 00 00 03 00 00 00 02"),
        (struct.pack(">HBB2I", 0, 8, 2, 0xFFFFFFFF, 0xFFFFFFFF), "found 00 00 08 02 ff ff ff ff"),
        (GOOD[:12], "6 bytes after the header, found 0"),
        (GOOD[:-1], "6 bytes after the header, found 5"),
        (GOOD + b"\0", "6 bytes after the header, found more"),
        (WRONG, f"SHA-256 {FILE.content}, found {hashlib.sha256(WRONG).hexdigest()}"),
    ],
)
@pytest.mark.parametrize("packed", [bytes, pack], ids=["plain", "gzip"])
def test_damage_is_named(tmp_path, packed, content, message):
    path = tmp_path / "damaged"
    path.write_bytes(packed(content))
    with pytest.raises(DataError, match=f"damaged: expected .*{message}"):
        read(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_gzip(tmp_path, keep):
    content = idx_bytes(np.random.default_rng(0).integers(0, 256, 5000).astype("u1"))
    path = tmp_path / "cut.gz"
    path.write_bytes(pack(content)[: int(keep * len(pack(content)))])
    with pytest.raises(DataError, match="cut.gz: expected a whole gzip file"):
        mnist_data._read(path, file_of(content, (5000,)))


@pytest.mark.parametrize("where", [0.3, -6], ids=["in the data", "in the checksum"])
def test_corrupt_gzip(tmp_path, where):
    content = idx_bytes(np.random.default_rng(0).integers(0, 10, 5000).astype("u1"))
    packed = bytearray(pack(content))
    packed[int(where * len(packed)) if where > 0 else where] ^= 0x55
    path = tmp_path / "corrupt.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="corrupt.gz: expected a whole gzip file"):
        mnist_data._read(path, file_of(content, (5000,)))


def test_gzip_bomb_is_unpacked_no_further_than_what_is_due(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(GOOD + bytes(64 << 20), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="expected 6 bytes.*found more"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="nothing: cannot be read"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, len(GOOD)), st.booleans())
def test_any_bytes_give_the_array_or_a_data_error(tmp_path_factory, noise, keep, packed):
    content = GOOD[:keep] + noise
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(pack(content) if packed else content)
    try:
        array = read(path)
    except DataError:
        assert content != GOOD
        return
    assert content == GOOD and array.tolist() == [[0, 1, 2], [3, 4, 5]]


# ---- load_mnist: four small files that pass for MNIST ------------------------------------------------------


@pytest.fixture
def contents(monkeypatch):
    """Uncompressed files by name. `mnist_data` is told their shapes and checksums in place of the real ones."""
    rng = np.random.default_rng(1)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 28, 28)).astype("u1"),
        "y_train": rng.integers(0, 10, 6).astype("u1"),
        "x_test": rng.integers(0, 256, (4, 28, 28)).astype("u1"),
        "y_test": rng.integers(0, 10, 4).astype("u1"),
    }
    blobs = {mnist_data.FILES[key].name: idx_bytes(array) for key, array in arrays.items()}
    small = {
        key: file_of(blobs[file.name], arrays[key].shape, file.name)
        for key, file in mnist_data.FILES.items()
    }
    monkeypatch.setattr(mnist_data, "FILES", small)
    monkeypatch.delenv("TAPEGRAD_DATA", raising=False)
    return blobs


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_data, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def no_download(monkeypatch):
    def fail(*_):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: fail)


def fill(folder, contents, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(pack(content) if packed else content)
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
    assert data.source == f"MNIST, from {folder}"


@pytest.mark.parametrize("inside", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_the_folder_above(tmp_path, monkeypatch, contents, no_download, inside, packed, how):
    """What is kept for all programs, or what torchvision has downloaded."""
    fill(tmp_path / inside, contents, packed)
    (tmp_path / "mnist" / "something else").mkdir(parents=True, exist_ok=True)
    if how == "variable":
        monkeypatch.setenv("TAPEGRAD_DATA", str(tmp_path))
    data = load_mnist(tmp_path if how == "argument" else None)
    check(data, contents)
    assert data.source == f"MNIST, from {tmp_path / inside}"


def test_only_floating_types(tmp_path, contents):
    for dtype in (np.int64, np.float16, np.complex128):
        with pytest.raises(ValueError, match="expected float32 or float64"):
            load_mnist(fill(tmp_path, contents), dtype=dtype)


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
    with pytest.raises(DataError, match=r"train-images.*shape \(6, 28, 28\), .*found 00 00 08 03 00 00 00 04"):
        load_mnist(fill(tmp_path, contents))


def test_one_pixel_changed_in_a_folder(tmp_path, contents):
    blob = bytearray(contents["t10k-images-idx3-ubyte"])
    blob[-1] ^= 1
    contents["t10k-images-idx3-ubyte"] = bytes(blob)
    with pytest.raises(DataError, match="t10k-images.*expected SHA-256 .* found "):
        load_mnist(fill(tmp_path, contents))


def test_cache_is_used(contents, cache, no_download):
    fill(cache, contents)
    check(load_mnist(), contents)


def test_data_and_compiled_code_are_kept_in_one_place():
    assert mnist_data.cache_folder is tapegrad.cache.cache_folder


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
            self.files[f"/{folder}/{name}.gz"] = pack(content)


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
        monkeypatch.setattr(mnist_data, "MIRRORS", (server.url("one"), server.url("two")))
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


def test_what_is_damaged_in_the_cache_is_downloaded_again(contents, cache, server):
    server.add("one", contents)
    fill(cache, contents)
    (cache / "train-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b damaged")
    check(load_mnist(), contents)
    assert server.asked == ["/one/train-labels-idx1-ubyte.gz"]


def damage_missing(server):
    server.files = {path: body for path, body in server.files.items() if not path.startswith("/one/")}


def damage_corrupt(server):
    """Whole gzip files, with one pixel or label changed."""
    for path, body in server.files.items():
        if path.startswith("/one/"):
            blob = gzip.decompress(body)
            server.files[path] = pack(blob[:-1] + bytes([blob[-1] ^ 1]))


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
    monkeypatch.setattr(mnist_data, "MIRRORS", (closed, server.url("two")))
    check(load_mnist(), contents)


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_downloads_leave_the_cache_clean_and_are_no_missing_network(
    contents, cache, server, damage, closed, monkeypatch
):
    server.add("one", contents)
    damage(server)
    for mirrors in [(server.url("one"),) * 2, (closed, server.url("one")), (server.url("one"), closed)]:
        monkeypatch.setattr(mnist_data, "MIRRORS", mirrors)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no stand-in, either
            with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: expected the MNIST file"):
                load_mnist()
        assert left_behind(cache) == []


def test_cache_that_cannot_be_written(tmp_path, contents, server, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(mnist_data, "cache_folder", lambda: tmp_path / "file")
    server.add("one", contents)
    with pytest.raises(DataError, match="expected a folder to download into"):
        load_mnist()


@pytest.fixture
def offline(contents, cache, closed, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(mnist_data, "MIRRORS", (closed, closed))


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
    images = np.concatenate([data.x_train, data.x_test]).reshape(-1, 28, 28)[:, 2:-2:3, 2:-2:3].reshape(-1, 64) * 16
    found = np.column_stack([np.concatenate([data.y_train, data.y_test]), images])
    # The same digits, mixed.
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, np.column_stack([labels, digits]).tolist()))
    assert not np.array_equal(found[:, 0], labels)


@pytest.mark.filterwarnings("ignore:not MNIST")
def test_the_stand_in_is_learnt_by_default_to_97_percent(offline, cache):
    pytest.importorskip("sklearn.datasets")
    import mnist_mlp

    chosen, data = mnist_mlp.options([]), load_mnist()
    mnist_mlp.settle_epochs(chosen, data)
    # The progress bar is an iterable with one method.
    bar = type("Bar", (list,), {"set_postfix_str": lambda self, text: None})
    history = mnist_mlp.train(chosen, data, lambda epochs, **_: bar(epochs))[1]
    assert history[-1][2] >= 0.97


def test_left_behind_nothing(offline, cache):
    pytest.importorskip("sklearn.datasets")
    with pytest.warns(UserWarning):
        load_mnist()
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
    files = mnist_data.FILES.values()
    assert [file.name for file in files] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ]
    assert all(len(file.content) == len(file.packed) == 64 and file.shape[0] in (60000, 10000) for file in files)
    assert len({digest for file in files for digest in (file.content, file.packed)}) == 8
    assert all(url.startswith("https://") and url.endswith("/") for url in mnist_data.MIRRORS)
