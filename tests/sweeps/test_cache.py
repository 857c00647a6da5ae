"""Compiled sweeps on disk: an edited rule is noticed, and nothing about the folder can go wrong unnoticed."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tapegrad.cache import cache_folder
from tapegrad.compiled import callable as calling
from tapegrad.compiled import compiled, store

PACKAGE = Path(__file__).resolve().parents[2] / "tapegrad"

GRADIENT = """
import tapegrad as tg
a, b = tg.Value(3.0), tg.Value(5.0)
(a * b).backward()
x = tg.Value([3.0, 1.0])
(x * 5.0).sum().backward()
print(a.grad, b.grad, x.grad.tolist())
"""

SMOKE = """
import numpy as np
import tapegrad as tg
a = tg.Value(0.5)
b = (a * 3.0 + a.tanh() ** 2 - a.exp() / (a + 2.0)).tan()
b.backward()
x = tg.Value(np.linspace(-1, 1, 6).reshape(2, 3))
y = tg.cross_entropy(np.maximum(x @ np.arange(12.0).reshape(3, 4) / 9, 0.0), [1, 3]) + np.sum(np.sin(x.T)[::-1])
y.backward()
g = tg.value_and_grad(lambda p, q: np.prod(p) * q if q > 0 else np.linalg.norm(p))
small = tg.Value(np.ones((2, 2), np.float32))
(small @ small).cumsum().sum().backward()
numbers = [b.data, a.grad, y.data, *x.grad.ravel(), *np.ravel(g(np.array([2.0, 3.0]), 1.5)[1]),
    g(np.array([3.0, 4.0]), -1.0)[0]]
print(*(f"{float(n):.12g}" for n in [*numbers, *small.grad.ravel()]))
"""

# Ctrl-C while the compiler is imported, and the same again.
INTERRUPTED = """
import _thread, threading
import tapegrad as tg
gradient = tg.grad(lambda x: x * x * x)
threading.Timer(0.3, _thread.interrupt_main).start()
try:
    gradient(2.0)
    print("not interrupted")
except KeyboardInterrupt:
    print(gradient(2.0))
"""


def environment(cache, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "TAPEGRAD_"))}
    return env | {"TAPEGRAD_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1", **more}


def start(code, cache, folder=PACKAGE.parent, **more):
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment(cache, PYTHONPATH=str(folder), **more),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out.strip()


def run(*args, **kwargs):
    return finish(start(*args, **kwargs))


@pytest.fixture
def package(tmp_path):
    """A copy of the package that a test may edit, with what is compiled beside its files."""
    shutil.copytree(PACKAGE, tmp_path / "tapegrad")
    return tmp_path


@pytest.fixture
def cache(tmp_path):
    """A copy of the cache that a test may damage; a cache holds for every copy of the same files."""
    return shutil.copytree(cache_folder(), tmp_path / "cache", ignore=shutil.ignore_patterns("*.tmp"))


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_an_edited_rule_is_noticed(package, cache):
    assert run(GRADIENT, cache, package) == "5.0 3.0 [5.0, 5.0]"
    made = files(cache)
    assert any(path.suffix == ".code" for path in made)
    assert run(GRADIENT, cache, package) == "5.0 3.0 [5.0, 5.0]"
    assert files(cache) == made
    rule = package / "tapegrad" / "ops" / "arithmetic.py"
    edit(rule, "partials=lambda x, y, z: (y, x))", "partials=lambda x, y, z: (10.0 * y, x))")
    assert run(GRADIENT, cache, package) == "50.0 3.0 [50.0, 50.0]"
    kernel = package / "tapegrad" / "ops" / "sums.py"
    edit(kernel, " + read(g, o + e * to_step))\n", " + 2.0 * read(g, o + e * to_step))\n")
    assert run(GRADIENT, cache, package) == "50.0 3.0 [100.0, 100.0]"


@pytest.mark.slow
def test_without_a_compiler_the_results_are_the_same(tmp_path):
    compiled = run(SMOKE, cache_folder()).split()
    plain = run(SMOKE, tmp_path, NUMBA_DISABLE_JIT="1").split()
    assert len(compiled) == len(plain) == 16
    assert [float(x) for x in compiled] == pytest.approx([float(x) for x in plain], rel=1e-11)


@pytest.mark.slow
def test_an_interrupted_compiler_compiles_afterwards(tmp_path):
    assert run(INTERRUPTED, tmp_path) == "12.0"


@pytest.mark.slow
def test_two_processes_may_fill_an_empty_cache_at_once_and_damage_to_it_is_repaired(tmp_path):
    cache = tmp_path / "new" / "cache"
    both = [start(GRADIENT, cache) for _ in range(2)]
    assert [finish(p) for p in both] == ["5.0 3.0 [5.0, 5.0]"] * 2
    kept = sorted(cache.glob("*.code"))
    assert kept and not list(cache.glob("*.tmp"))
    # Empty, cut off, with one bit flipped, and nothing that was ever object code: each is noticed and made anew.
    whole = {path: path.read_bytes() for path in kept}
    for i, (path, data) in enumerate(whole.items()):
        at = len(data) * 2 // 3
        path.write_bytes([b"", data[:at], data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :], b"junk" * 99][i % 4])
    assert run(GRADIENT, cache) == "5.0 3.0 [5.0, 5.0]"
    assert all(path.read_bytes().startswith(b"tapegrad object code") for path in kept)


@pytest.mark.slow
def test_a_process_that_finds_all_code_on_disk_never_imports_numba(cache):
    run(GRADIENT, cache)
    code = f"{GRADIENT}\nimport sys\nprint('numba' in sys.modules)"
    assert run(code, cache) == "5.0 3.0 [5.0, 5.0]\nFalse"


def test_code_that_refers_to_what_is_not_there_is_not_loaded(tmp_path, monkeypatch):
    """LLVM would end the process."""
    monkeypatch.setattr(store, "wanted_folder", lambda: tmp_path)
    store.save("some", store.ObjectCode("f", ("tapegrad_no_such_symbol",), b"never loaded"))
    built = store.ObjectCode("g", (), b"")
    monkeypatch.setattr(calling.build, "build", lambda *args: built)
    monkeypatch.setattr(calling.machine, "load", lambda code, symbol: (code, symbol))
    assert calling.load("some", str, "f", None) == (b"", "g")
    assert store.find("some") == built
    # Whole files that are something else: of another function, and with a head that is none.
    shutil.copy(tmp_path / "some.code", tmp_path / "other.code")
    assert store.find("other") is None
    for head in (b"", b"[1]", b"{}", b"{", b'{"name": "bad", "symbol": 1, "needs": 1}', b"\xff"):
        body = head + b"\ncode"
        (tmp_path / "bad.code").write_bytes(store._HEADER + hashlib.sha256(body).digest() + body)
        assert store.find("bad") is None


def test_a_cache_that_can_be_read_but_not_written_is_used(cache, tmp_path):
    """Numba is not imported, nothing is left in the temporary folder, and there is nothing to warn of."""
    run(GRADIENT, cache)
    (tmp_path / "tmp").mkdir()
    # The permissions alone would not do: they do not hold for root.
    read_only = """
import pathlib
def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")
pathlib.Path.mkdir = pathlib.Path.write_bytes = refuse
"""
    cache.chmod(0o555)
    try:
        code = f"{read_only}{GRADIENT}\nimport sys\nprint('numba' in sys.modules)"
        process = start(code, cache, TMPDIR=str(tmp_path / "tmp"))
        out, err = process.communicate(timeout=300)
    finally:
        cache.chmod(0o755)
    assert out == "5.0 3.0 [5.0, 5.0]\nFalse\n" and not err
    assert not list((tmp_path / "tmp").iterdir())


def test_no_folder_of_any_kind_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "below")
    for named in (nowhere, ""):
        process = start(
            GRADIENT, named, HOME=nowhere, XDG_CACHE_HOME=nowhere, TMPDIR=nowhere, NUMBA_DISABLE_JIT="1"
        )
        out, err = process.communicate(timeout=300)
        assert out == "5.0 3.0 [5.0, 5.0]\n", err


def test_what_is_kept_has_the_permissions_of_any_file(tmp_path):
    (tmp_path / "plain").touch()
    store.write(tmp_path / "some", b"data")
    assert (tmp_path / "some").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_no_pieces(tmp_path, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        store.write(tmp_path / "some", b"data")
    assert not list(tmp_path.iterdir())



@pytest.mark.filterwarnings("ignore:.*cannot be written")
def test_what_cannot_be_kept_runs_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "none").touch()
    monkeypatch.setattr(store, "wanted_folder", lambda: tmp_path / "none")
    assert twice(np.arange(3.0)) == 6


@compiled(x="real[:]")
def twice(x):
    total = 0.0
    for i in range(x.shape[0]):
        total += 2.0 * x[i]
    return int(total)


def test_arguments_of_compiled_code_are_checked():
    assert [twice(np.ones(2)), twice(np.ones(3, np.float32)), twice(np.zeros(0))] == [4, 6, 0]
    for wrong in (np.ones((2, 2)), np.ones(4)[::2], np.ones(2, int)):
        with pytest.raises(TypeError, match=r"twice takes a contiguous array real\[:\], not"):
            twice(wrong)


WHERE = "from tapegrad.cache import cache_folder; print(cache_folder(), cache_folder().is_dir())"


def test_the_folder_named_or_the_users(tmp_path):
    assert run(WHERE, tmp_path / "new" / "cache") == f"{tmp_path}/new/cache True"
    assert run(WHERE, "~/cache", HOME=str(tmp_path)) == f"{tmp_path}/cache True"
    assert run(WHERE, "", HOME=str(tmp_path / "else"), XDG_CACHE_HOME=str(tmp_path)) == f"{tmp_path}/tapegrad True"
    (tmp_path / "home").mkdir()
    found = Path(run(WHERE, "", HOME=str(tmp_path / "home"), XDG_CACHE_HOME="").split()[0])
    assert found.is_relative_to(tmp_path / "home") and "tapegrad" in found.parts


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written(tmp_path):
    """The process compiles for itself, says so, and leaves nothing behind."""
    file = tmp_path / "file"
    file.write_text("in the way")
    (tmp_path / "tmp").mkdir()
    # Nothing is compiled, which would take long and is the same in any folder.
    process = start(WHERE + GRADIENT, file / "cache", TMPDIR=str(tmp_path / "tmp"), NUMBA_DISABLE_JIT="1")
    out, err = process.communicate(timeout=300)
    assert out.strip().endswith("True\n5.0 3.0 [5.0, 5.0]"), err
    assert f"UserWarning: {file}/cache cannot be written" in err and "TAPEGRAD_CACHE" in err
    assert file.read_text() == "in the way" and not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("named", "place"), [("", "~/.cache/tapegrad"), ("", ".cache/tapegrad"), ("~nobody-of-this-name/cache", "/unused")]
)
def test_a_user_without_a_home(tmp_path, named, place):
    """Nothing is written to a folder named "~", nor beside whatever is run."""
    (tmp_path / "tmp").mkdir()
    nowhere = f"""
import os.path, platformdirs
os.path.expanduser = lambda path: path
platformdirs.user_cache_dir = lambda *args, **kwargs: {place!r}
import os
os.chdir({str(tmp_path)!r})
{WHERE}"""
    where, exists = run(nowhere, named, TMPDIR=str(tmp_path / "tmp")).split()
    assert Path(where).parent == tmp_path / "tmp" and exists == "True"
    assert list(tmp_path.iterdir()) == [tmp_path / "tmp"] and not list((tmp_path / "tmp").iterdir())


def test_a_forked_process_leaves_the_folder_to_its_parent(tmp_path):
    code = f"""
import os, sys
{WHERE}
folder = cache_folder()
child = os.fork() if hasattr(os, "fork") else None
if child == 0:
    sys.exit(0)
if child is not None:
    os.waitpid(child, 0)
print(folder.is_dir())"""
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    assert run(code, tmp_path / "file" / "cache", TMPDIR=str(tmp_path / "tmp")).endswith("True")
    assert not list((tmp_path / "tmp").iterdir())
