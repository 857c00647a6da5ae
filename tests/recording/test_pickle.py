"""Pickles of what transforms and `record` make: by value, in another process too."""

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import CutGradientError

MODULE = """
import numpy as np
import tapegrad as tg
from tapegrad.ops import unary

black = tg.external(np.sin, lambda w, y, x: w * np.cos(x))
def sine(x):
    return np.sin(x)
def slope(w, y, x):
    return w * np.cos(x)
def loss(x, k=1.0):
    return np.sum(np.sin(x) * x) * k if x[0] > 0 else np.sum(x * x)
FACTOR = 2.0
def scaled(x):
    return FACTOR * np.sum(x)
def outside(x):
    return np.sum(tg.external(sine, slope)(x) * x)
@tg.grad
def decorated(x):
    return np.sum(x * x)
"""
ELSEWHERE = """
import pickle, sys
import numpy as np
import programs_to_pickle as programs
x = np.array([0.1, 0.2])
with open(sys.argv[1], "rb") as file:
    gradient, recording, outside, decorated = pickle.load(file)
recorded = recording._branches.recorded
print(gradient(x).tolist(), recording.grad(x).tolist(), recording.grad(-x).tolist(), outside.grad(x).tolist())
print(recording._branches.recorded == recorded, decorated is programs.decorated)
"""
X = np.array([0.1, 0.2])


@pytest.fixture
def programs(tmp_path, monkeypatch):
    (tmp_path / "programs_to_pickle.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("programs_to_pickle", None)
    import programs_to_pickle

    yield programs_to_pickle
    del sys.modules["programs_to_pickle"]


def test_pickled_before_and_after_the_first_call(programs):
    for transform in (tg.grad, tg.jacobian, tg.hessian, tg.jacfwd, tg.jacrev, tg.elementwise_grad):
        made = transform(programs.loss)
        early = pickle.dumps(made)
        expected = made(X)
        for kept in (early, pickle.dumps(made)):
            np.testing.assert_array_equal(pickle.loads(kept)(X), expected)
    assert pickle.loads(pickle.dumps(tg.value_and_grad(programs.loss)))(X)[0] == programs.loss(X)
    assert pickle.loads(pickle.dumps(programs.decorated)) is programs.decorated
    np.testing.assert_array_equal(copy.deepcopy(tg.grad(programs.loss))(X), tg.grad(programs.loss)(X))


def test_a_recording_in_another_process_is_the_same_program(programs, tmp_path):
    recording = tg.record(programs.loss, X)
    recording(-X), recording.hvp((X,), (X,))
    held = [tg.grad(programs.loss), recording, tg.record(programs.outside, X), programs.decorated]
    (tmp_path / "held").write_bytes(pickle.dumps(held))
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + ELSEWHERE
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "held")], capture_output=True, text=True, timeout=300
    )
    found = recording.grad(X), recording.grad(X), recording.grad(-X), held[2].grad(X)
    expected = " ".join(str(x.tolist()) for x in found)
    assert done.stdout.splitlines() == [expected, "True True"], done.stderr[-2000:]


def test_what_cannot_travel_is_said(programs):
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(tg.record(lambda x: x * x, 1.0))
    with pytest.raises(CutGradientError, match=r"Pickle v\.data"):
        pickle.dumps(tg.Value(1.0))


def test_a_derivative_is_a_function_still(programs):
    slope = tg.grad(programs.loss)
    assert slope.__name__ == "loss"
    assert list(inspect.signature(slope).parameters) == ["x", "k"]
    assert slope(X, k=2.0).tolist() == (2.0 * slope(X)).tolist()

    class Model:
        scale = 3.0


        slope = tg.grad(lambda self, x: self.scale * x**3, 1)

    assert Model().slope(2.0) == 36.0


def test_what_is_unpickled_does_not_hide_from_others_that_a_name_has_changed(programs):
    recording = tg.record(programs.scaled, np.ones(3))
    data = pickle.dumps(recording)
    assert recording(np.ones(3)) == 6.0
    programs.FACTOR = 3.0
    again = pickle.loads(data)
    # It counts as recorded with what there is when it is unpickled.
    assert (recording(np.ones(3)), again(np.ones(3))) == (9.0, 6.0)
    programs.FACTOR = 4.0
    assert (recording(np.ones(3)), again(np.ones(3))) == (12.0, 12.0)
