"""Recordings as Python that needs NumPy alone: run by itself, it computes what the recording computes."""

import numpy as np
import programs_to_save as programs
import pytest

import tapegrad as tg
from tapegrad import errors, pytree

NAMES = ["branching", "scalars", "gradient of scalars", "arrays", "gradient of arrays", "network",
         "gradient of a network", "recurrent", "gradient of a recurrent layer", "views", "long rows",
         "stencil"]  # fmt: skip


def run(text):
    """What a text defines, in a module of its own that has nothing but what the text imports."""
    assert text.startswith("import numpy as np\n") and text.count("import ") == 1
    space = {}
    exec(compile(text, "<source>", "exec"), space)
    return space


@pytest.mark.parametrize("name", NAMES)
def test_values(name):
    recording, args = programs.named()[name]
    found = pytree.flatten(run(recording.to_numpy_source("f"))["f"](*args))[0]
    expected = pytree.flatten(recording(*args))[0]
    for x, y in zip(found, expected, strict=True):
        if isinstance(y, str):
            assert x == y
            continue
        assert np.shape(x) == np.shape(y)
        np.testing.assert_allclose(x, y, rtol=64 * np.finfo(recording.code.dtype).eps,
                                   atol=1e-7 if recording.code.dtype == np.float32 else 1e-15)  # fmt: skip


def test_branches():
    def f(x):
        return x * x if x < 1.0 else 2.0 * x

    recording = tg.record(f, 0.5)
    space = run(recording.to_numpy_source())
    assert space["f"](0.25) == 0.0625
    with pytest.raises(space["OtherBranch"]):
        space["f"](3.0)
    recording(3.0)
    space = run(recording.to_numpy_source())
    assert space["f"](0.25) == 0.0625 and space["f"](3.0) == 6.0


def test_labels_that_are_no_class():
    x = np.arange(6.0).reshape(2, 3)
    for loss in (tg.cross_entropy, tg.nll_loss):
        f = run(tg.record(loss, x, np.array([0, 1])).to_numpy_source("f"))["f"]
        assert f(x, np.array([2, 0])) == pytest.approx(loss(x, [2, 0]))
        for bad in (3, -1, 0.5, np.nan):
            with pytest.raises(IndexError):
                f(x, np.array([0, bad]))


def test_names_that_the_text_uses_itself():
    def f(np_, v3, view):
        return np_ * v3 + view

    def g(np):
        return 2.0 * np

    assert run(tg.record(f, 1.0, 2.0, 3.0).to_numpy_source())["f"](2.0, 3.0, 4.0) == 10.0
    assert run(tg.record(g, 1.0).to_numpy_source())["g"](4.0) == 8.0


def test_what_it_looks_like():
    def f(x, y):
        return np.sum(np.sin(x) * y, axis=0)

    lines = tg.record(f, np.ones((2, 3)), np.ones((2, 3))).to_numpy_source().splitlines()
    assert lines[3:] == [
        "def f(x, y):", "    v0 = np.asarray(x, np.float64)", "    v1 = np.asarray(y, np.float64)",
        "    v2 = np.sin(np.reshape(v0, (6,)))", "    v3 = v2 * np.reshape(v1, (6,))",
        "    v4 = np.sum(np.reshape(v3, (1, 2, 3)), 1)", "    return np.array(np.reshape(v4, (3,)))",
    ]  # fmt: skip


def test_what_cannot_be_written():
    with pytest.raises(errors.UnsupportedError, match="cannot be written in NumPy: the operation special_gammaln"):
        tg.record(programs.special, np.ones(2)).to_numpy_source()
    with pytest.raises(errors.UnsupportedError, match="the operation external"):
        tg.record(np.linalg.inv, np.eye(2)).to_numpy_source()
    with pytest.raises(errors.OperationError, match="'not a name' is no name"):
        tg.record(np.sin, 1.0).to_numpy_source("not a name")
