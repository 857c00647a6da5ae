"""Compiled derivatives of Numba functions on disk: found again by another process, and never for another function."""

import collections
import subprocess
import sys
import types

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad.njit import kept, keys

PROGRAM = """
import math
import numba
import numpy as np

RATE = 2.0
TABLE = np.array([1.0, 3.0])

@numba.njit
def inner(x):
    return RATE * x * x

def made(power):
    @numba.njit
    def around(x):
        return x ** power
    return around

outer = made(3)

@numba.njit
def f(x, scale=1.5):
    room = np.zeros(2)
    for i in range(2):
        room[i] = inner(x[i]) * TABLE[i] + outer(x[i])
    return scale * np.sum(room) + math.sin(x[0])
"""

# What is changed, and the gradient at (0.5, 1.0) then.
COS = float(np.cos(0.5))
EDITS = {
    ("", ""): [1.5 * (4.0 * 0.5 + 0.75) + COS, 1.5 * (12.0 + 3.0)],
    ("RATE * x * x", "RATE * x"): [1.5 * (2.0 + 0.75) + COS, 1.5 * (6.0 + 3.0)],
    ("RATE = 2.0", "RATE = 1.0"): [1.5 * (2.0 * 0.5 + 0.75) + COS, 1.5 * (6.0 + 3.0)],
    ("1.0, 3.0", "1.0, 2.0"): [1.5 * (4.0 * 0.5 + 0.75) + COS, 1.5 * (8.0 + 3.0)],
    ("made(3)", "made(2)"): [1.5 * (4.0 * 0.5 + 1.0) + COS, 1.5 * (12.0 + 2.0)],
    ("scale=1.5", "scale=1.0"): [(4.0 * 0.5 + 0.75) + COS, (12.0 + 3.0)],
    ("math.sin(x[0])", "x[0]"): [1.5 * (4.0 * 0.5 + 0.75) + 1.0, 1.5 * (12.0 + 3.0)],
}

RUN = """
import sys
import numba.core.event as event
import numpy as np
import tapegrad as tg
import program
with event.install_recorder("numba:compile") as compiled:
    print(*tg.grad(program.f)(np.array([0.5, 1.0])))
print(len(compiled.buffer))
"""


def process(folder, text):
    (folder / "program.py").write_text(text)
    found = subprocess.run(
        [sys.executable, "-B", "-c", RUN], cwd=folder, check=True, capture_output=True, text=True,
        env={**__import__("os").environ, "TAPEGRAD_CACHE": str(folder / "cache"),
             "PYTHONPATH": ":".join(p for p in sys.path if p)},
    ).stdout.split()  # fmt: skip
    return [float(x) for x in found[:-1]], int(found[-1])


@pytest.mark.slow
def test_another_process_finds_the_code_and_never_that_of_another_function(tmp_path):
    first, compiled = process(tmp_path, PROGRAM)
    np.testing.assert_allclose(first, EDITS["", ""], rtol=1e-14)
    assert compiled > 0
    assert process(tmp_path, PROGRAM) == (first, 0)
    found, compiled = process(tmp_path, PROGRAM.replace("RATE * x * x", "RATE * x"))
    assert compiled > 0
    np.testing.assert_allclose(found, EDITS["RATE * x * x", "RATE * x"], rtol=1e-14)
    # What was kept for the first is found still.
    assert process(tmp_path, PROGRAM) == (first, 0)
    # Damaged files are not used.
    for file in (tmp_path / "cache").glob("*.driver"):
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.write_bytes(data)
    again, compiled = process(tmp_path, PROGRAM)
    assert again == first and compiled > 0


def program(text):
    module = types.ModuleType("program")
    exec(compile(text, "program.py", "exec"), vars(module))
    return module


@pytest.mark.parametrize("old, new", EDITS)
def test_keys_hold_all_that_a_function_depends_on(old, new):
    assert not old or old in PROGRAM
    found = keys.key(program(PROGRAM.replace(old, new)).f)
    assert found == keys.key(program(PROGRAM.replace(old, new)).f)
    assert (found == keys.key(program(PROGRAM).f)) == (old == new)


def test_keys_hold_what_is_taken_from_modules(monkeypatch):
    other = types.ModuleType("other")
    other.constant, other.unrelated = 2.0, 3.0
    other.function = numba.njit(lambda x: x + 1.0)
    monkeypatch.setitem(sys.modules, "other", other)
    text = "import numba, other\n@numba.njit\ndef f(x):\n    return other.function(x) * other.constant"
    found = keys.key(program(text).f)
    other.unrelated = 4.0
    assert keys.key(program(text).f) == found
    other.constant = 2.5
    assert keys.key(program(text).f) != found
    other.constant, other.function = 2.0, numba.njit(lambda x: x + 2.0)
    assert keys.key(program(text).f) != found


def test_what_was_compiled_before_a_global_changed_is_not_kept_for_what_it_is_now(monkeypatch):
    # What an earlier run has left on disk would not be compiled.
    monkeypatch.setattr(kept, "find", lambda name: None)
    # Numba compiles `inner` once, with the number that it finds then, and g calls that.
    text = PROGRAM + "\n@numba.njit\ndef g(x):\n    return inner(x[0])\n"
    module = program(text)
    keys.key(module.g)
    tg.grad(module.f)(np.array([0.5, 1.0]))
    keys.key(module.g)
    module.RATE = 5.0
    with pytest.raises(keys.Unknown):
        keys.key(module.g)


def test_keys_hold_settings():
    def f(x):
        return x / 3.0

    found = {keys.key(numba.njit(**how)(f)) for how in ({}, {"fastmath": True}, {"error_model": "numpy"})}
    assert len(found) == 3


def test_recursion_and_functions_of_the_same_text():
    text = "import numba\n@numba.njit\ndef f(n, x):\n    return x if n == 0 else x * f(n - 1, x)"
    assert keys.key(program(text).f) == keys.key(program(text).f)
    # Which of two functions of the same text is called.
    text = """
import numba
def made(k):
    return numba.njit(lambda x: x * k)
a, b = made(2.0), made(3.0)
@numba.njit
def f(x):
    return a(x) + a(x) * b(x)
"""
    assert keys.key(program(text).f) != keys.key(program(text.replace("a(x) * b(x)", "b(x) * a(x)")).f)
    assert keys.key(program(text).f) != keys.key(program(text.replace("2.0), made(3.0", "3.0), made(2.0")).f)


Point = collections.namedtuple("Point", "x y")


def local_class():
    Local = collections.namedtuple("Local", "x y")
    return numba.njit(lambda x: Local(x, x).x)


def of_a_list():
    numbers = [1.0, 2.0]
    return numba.njit(lambda x: x * numbers[0])


def empty_cell():
    f = numba.njit(lambda x: x * later)
    if f is None:
        later = 1.0
    return f


def of_ours():
    return numba.njit(lambda x: tg.relu(x))


@pytest.mark.parametrize("made", [local_class, of_a_list, empty_cell, of_ours])
def test_what_another_process_may_not_have_is_not_kept(made):
    with pytest.raises(keys.Unknown):
        keys.key(made())


def test_classes_that_can_be_imported_are():
    text = "import numba\nPoint = None\n@numba.njit\ndef f(x):\n    return Point(x, x).x"
    module = program(text)
    module.Point = Point
    assert b"Point ('x', 'y')" in keys.key(module.f)


def test_functions_that_are_not_kept_work():
    f = local_class()
    assert tg.grad(f)(3.0) == 1.0
