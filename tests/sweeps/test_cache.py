"""Compiled sweeps on disk: an edited rule is noticed, and nothing about the folder can go wrong unnoticed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tapegrad.sweeps import cache_folder

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
    assert any(path.suffix == ".nbc" for path in made)
    assert run(GRADIENT, cache, package) == "5.0 3.0 [5.0, 5.0]"
    assert files(cache) == made
    rule = package / "tapegrad" / "ops" / "arithmetic.py"
    edit(rule, "partials=lambda x, y, z: (y, x))", "partials=lambda x, y, z: (10.0 * y, x))")
    assert run(GRADIENT, cache, package) == "50.0 3.0 [50.0, 50.0]"
    kernel = package / "tapegrad" / "ops" / "reduction.py"
    edit(kernel, "] += g[out + i * inner + m]\n", "] += 2.0 * g[out + i * inner + m]\n")
    assert run(GRADIENT, cache, package) == "50.0 3.0 [100.0, 100.0]"


@pytest.mark.slow
def test_without_a_compiler_the_results_are_the_same(tmp_path):
    compiled = run(SMOKE, cache_folder()).split()
    plain = run(SMOKE, tmp_path, NUMBA_DISABLE_JIT="1").split()
    assert len(compiled) == len(plain) == 16
    assert [float(x) for x in compiled] == pytest.approx([float(x) for x in plain], rel=1e-11)


@pytest.mark.slow
def test_two_processes_may_fill_an_empty_cache_at_once_and_damage_to_it_is_repaired(tmp_path):
    cache = tmp_path / "new" / "cache"
    both = [start(GRADIENT, cache) for _ in range(2)]
    assert [finish(p) for p in both] == ["5.0 3.0 [5.0, 5.0]"] * 2
    assert any(path.suffix == ".nbc" for path in cache.rglob("*"))
    for path in cache.rglob("*.nb?"):
        path.write_bytes(b"")
    assert run(GRADIENT, cache) == "5.0 3.0 [5.0, 5.0]"


@pytest.mark.slow
def test_a_cache_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    # Nothing is compiled, which would take long and is the same in any folder.
    assert run(GRADIENT, file / "cache", NUMBA_DISABLE_JIT="1") == "5.0 3.0 [5.0, 5.0]"
    assert file.read_text() == "in the way"
