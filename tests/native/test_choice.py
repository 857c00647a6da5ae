"""When programs are compiled, what users are told of it, and what happens where compiling goes wrong."""

import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import pytree
from tapegrad.compiled import store
from tapegrad.compiled.callable import INTERPRETED
from tapegrad.errors import CompileError, OperationError, TapegradError
from tapegrad.native import build, choice
from tapegrad.recording import known

from .ways import assert_same, chosen, eager, how, wait_for

__all__ = ["chosen", "eager"]

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")

X = np.linspace(0.5, 1.5, 12)
V = np.linspace(-1.0, 1.0, 12)


def waves(x):
    return np.sum(np.sin(x) * x**2)


# What is asked for


def test_what_is_asked_for_is_done():
    f = lambda x: waves(x)
    both = {compile: tg.value_and_grad(f, compile=compile) for compile in (True, False, None)}
    found = {compile: derivative(X) for compile, derivative in both.items()}
    assert_same(found[True], found[False])
    assert_same(found[None], found[False], 0.0)
    ways = {forced: how(next(iter(known(f, forced)._recordings.values()))) for forced in both}
    assert ways[True]["value_and_grad"] == "compiled"
    assert ways[False]["value_and_grad"] == ways[None]["value_and_grad"] == "interpreted"


def test_derivatives_that_ask_for_the_same_share_recordings():
    calls = []

    def f(x):
        calls.append(1)
        return waves(x)

    for compile in (True, False):
        for derivative in (tg.grad, tg.value_and_grad, tg.hessian, tg.elementwise_grad, tg.jacobian):
            if derivative is not tg.elementwise_grad:
                derivative(f, compile=compile)(X)
        tg.hvp(f, (X,), (V,), compile=compile)
        tg.jvp(f, (X,), (V,), compile=compile)
    assert len(calls) == 2


@pytest.mark.parametrize("derivative", [
    lambda f, compile: tg.value_and_grad(f, compile=compile)(X),
    lambda f, compile: tg.grad(f, (0,), compile=compile)(X),
    lambda f, compile: tg.elementwise_grad(lambda x: np.tanh(x) * x, compile=compile)(X),
    lambda f, compile: tg.hvp(f, (X,), (V,), compile=compile),
    lambda f, compile: tg.jvp(f, (X,), (V,), compile=compile),
    lambda f, compile: [tg.hessian(f, sparse=True, compile=compile)(X * k) for k in (1.0, 2.0)],
    lambda f, compile: [tg.jacobian(lambda x: np.sin(x) * x, sparse=True, compile=compile)(X * k) for k in (1.0, 2.0)],
    lambda f, compile: tg.hessian(f, compile=compile)(X),
    lambda f, compile: tg.record(f, X, compile=compile)(X),
    lambda f, compile: tg.recorded(f, compile=compile).value_and_grad(X),
], ids=["value_and_grad", "grad", "elementwise", "hvp", "jvp", "sparse Hessian", "sparse Jacobian", "Hessian", "record",
        "recorded"])  # fmt: skip
def test_compiled_derivatives_equal_interpreted_ones(derivative):
    assert_same(derivative(lambda x: waves(x), True), derivative(lambda x: waves(x), False))


def test_what_stands_for_a_function_says_how_it_is_computed():
    @tg.recorded(compile=True)
    def f(x):
        return waves(x)

    expected = tg.value_and_grad(waves, compile=False)(X)
    assert_same(tg.value_and_grad(f)(X), expected)
    assert_same(f.value_and_grad(X), expected)
    assert set(how(known(f).at((X,))[0]).values()) >= {"compiled"} and f.stats(X).runs[1].how == "compiled"
    assert not len(known(f.f)) and known(f) is known(f.f, True) and known(f, False) is known(f.f, False)
    recording = tg.record(f, X)
    assert_same((recording(X), recording.grad(X)), expected)
    assert how(recording) == {"value": "compiled", "value_and_grad": "compiled"}
    assert_same(tg.linearize(f, X)[1](V), tg.jvp(f, (X,), (V,))[1])


def test_methods_and_keyword_arguments_are_compiled_too():
    class Model:
        scale = 3.0

        @tg.recorded(compile=True)
        def loss(self, x, power=2):
            return self.scale * np.sum(x**power)

    model = Model()
    assert_same(model.loss.grad(X), 6.0 * X)
    assert_same(model.loss.grad(X, power=3), 9.0 * X**2)


def test_compile_must_be_a_truth_value():
    for make in (tg.grad, tg.value_and_grad, tg.elementwise_grad, tg.recorded):
        with pytest.raises(OperationError, match="True, False or None, not 'always'"):
            make(lambda x: x * x, compile="always")
    with pytest.raises(OperationError, match="not 1"):
        tg.record(lambda x: x * x, 1.0, compile=1)


def test_the_environment_says_it_where_nobody_else_does(monkeypatch):
    monkeypatch.setenv("TAPEGRAD_COMPILE", "always")
    found = {compile: tg.record(waves, X, compile=compile) for compile in (True, False, None)}
    assert [r(X) and how(r)["value"] for r in found.values()] == ["compiled", "interpreted", "compiled"]
    monkeypatch.setenv("TAPEGRAD_COMPILE", "never")
    found = {compile: tg.record(waves, X, compile=compile) for compile in (True, False, None)}
    assert [r(X) and how(r)["value"] for r in found.values()] == ["compiled", "interpreted", "interpreted"]
    monkeypatch.setenv("TAPEGRAD_COMPILE", "yes")
    with pytest.raises(OperationError, match="'always', 'never' or 'auto', not 'yes'"):
        tg.record(waves, X)


# Compiling now


def test_compile_now():
    recording = tg.record(waves, X)
    before = recording.value_and_grad(X)
    assert recording.compile() is recording
    assert how(recording) == {"value": "compiled", "value_and_grad": "compiled"}
    assert_same(recording.value_and_grad(X), before)
    assert_same(recording(X), before[0])
    value, gradient = recording.stats().runs
    assert value.seconds > 0.0 and value.compiled_bytes >= X.nbytes and gradient.interpreted_bytes > X.nbytes
    assert value.left == gradient.left == {}


def test_compile_now_what_was_asked_for():
    recording = tg.record(waves, X)
    ask = [
        lambda: recording.hvp((X,), (V,)), lambda: recording.jvp((X,), (V,)), lambda: recording.grad(X, argnums=(0,)),
        lambda: recording.hessian(X, sparse=True), lambda: recording.hessian(2.0 * X, sparse=True),
    ]  # fmt: skip
    before = [one() for one in ask]
    recording.compile()
    assert how(recording) == dict.fromkeys(
        ["value", "hvp", "jvp", "value_and_grad by (0,)", "sparse Hessian"], "compiled"
    )
    assert_same([one() for one in ask], before)


def test_compile_now_with_branches_integers_and_other_arguments():
    def f(x, n, kind):
        scale = 2.0 if kind == "double" else 1.0
        return scale * sum(x[i] for i in range(n)) * (x[0] if x[0] > 0.0 else x[1])

    recording, plain = tg.record(f, X, 3, "double"), tg.record(f, X, 3, "double", compile=False)
    for n in (3, 2):
        recording(X, n, "double")
    recording.compile()
    assert recording.stats().branches == 2
    for n in (2, 3, 4):
        for x in (X, -X):
            assert_same(recording.value_and_grad(x, n, "double"), plain.value_and_grad(x, n, "double"))
            assert_same(recording(x, n, "double"), plain(x, n, "double"))


def test_a_recording_without_a_gradient_compiles_its_value():
    for f, args in ((lambda x: x * x, (X,)), (lambda n, x: n * np.sum(x), (2, X)), (lambda: 3.0, ())):
        recording = tg.record(f, *args).compile()
        assert how(recording) == {"value": "compiled"}
        assert_same(recording(*args), tg.record(f, *args, compile=False)(*args))


def test_why_it_cannot_be_compiled(monkeypatch):
    with pytest.raises(CompileError, match=r"waves cannot be compiled: compile=False or TAPEGRAD_COMPILE=never"):
        tg.record(waves, X, compile=False).compile()
    turned = tg.record(lambda x: (2.0 * x).reshape(3, 4).T, X)
    turned.jvp((X,), (V,))
    with pytest.raises(CompileError, match="jvp of .* cannot be compiled: what the function returns is a view"):
        turned.compile()
    assert "is a view" in turned.stats().runs[1].why
    monkeypatch.setattr(build, "address_of", refuse)
    recording = tg.record(waves, X)
    for _ in range(2):
        with pytest.raises(CompileError, match="waves cannot be compiled: RuntimeError: LLVM is tired"):
            recording.compile()
    monkeypatch.undo()
    assert how(recording.compile())["value"] == "compiled"


def refuse(*args, **kwargs):
    raise RuntimeError("LLVM is tired")


inverse = tg.external(np.linalg.inv, lambda w, z, a: -z.T @ w @ z.T, numpy_rules=True)


def cofactors(w, z, a):
    # On numbers right for a singular matrix too; on Values it takes the inverse, which raises there.
    if isinstance(a, tg.Value):
        return w * z * inverse(a).T
    u, s, vt = np.linalg.svd(a)
    others = np.array([np.prod(np.delete(s, i)) for i in range(len(s))])
    return w * np.linalg.det(u) * np.linalg.det(vt) * ((u * others) @ vt)


def test_rules_of_python_functions_that_raise_on_values():
    a = np.diag([1.0, 2.0, 0.0])
    det = tg.external(np.linalg.det, cofactors, numpy_rules=True)
    expected = tg.grad(det, compile=False)(a)
    recording = tg.record(det, a, compile=True)
    assert_same(recording.grad(a), expected)
    assert "Singular matrix" in recording.stats().runs[1].why
    regular = a + np.eye(3)
    assert_same(recording.grad(regular), tg.grad(det, compile=False)(regular))
    assert how(recording)["value_and_grad"] == "compiled"
    with pytest.raises(CompileError, match="value_and_grad of det cannot be compiled: LinAlgError: Singular matrix"):
        tg.record(det, a).compile()


def test_derivatives_of_python_functions_are_interpreted_where_nothing_is_said(eager):
    cube = tg.external(lambda x: x**3, lambda w, y, x: 3.0 * w * x**2)
    recording = tg.record(lambda x: np.sum(cube(x)), X)
    for _ in range(3):
        assert_same(recording.grad(X), 3.0 * X**2)
    assert [(runs.how, runs.why) for runs in recording.stats().runs[1:]] == [
        ("interpreted", "it calls Python functions")
    ]
    wait_for(recording)


def test_what_is_left_to_the_interpreter_is_told():
    recording = tg.record(lambda x: np.sum(np.tanh(x.reshape(3, 4) @ np.ones((4, 2)))), X).compile()
    value = recording.stats().runs[0]
    assert list(value.left) == ["matmul"] and value.left["matmul"]
    assert "left to the interpreter: matmul (" in str(recording.stats())


# The choice


def test_programs_are_swapped_in_when_replays_have_paid_for_it(eager):
    recording = tg.record(waves, X)
    expected = tg.record(waves, X, compile=False).value_and_grad(X)
    assert how(recording) == {"value": "interpreted"}
    ask = [
        lambda: recording(X), lambda: [recording.value_and_grad(X) for _ in range(3)][-1],
        lambda: recording.hvp((X,), (V,)), lambda: recording.jvp((X,), (V,)),
    ]  # fmt: skip
    before = [one() for one in ask]
    wait_for(recording)
    assert how(recording) == dict.fromkeys(["value", "value_and_grad", "hvp", "jvp"], "compiled")
    assert_same([one() for one in ask], before)
    assert_same(recording.value_and_grad(2.0 * X), tg.value_and_grad(waves, compile=False)(2.0 * X))
    assert_same(before[1], expected)


def test_gradients_in_a_loop_are_swapped_in_between_two_calls(monkeypatch):
    monkeypatch.setattr(choice, "compile_seconds", lambda program: 1e-5)
    monkeypatch.setattr(choice, "_is_faster", lambda program, native: True)
    f = lambda x, y: waves(x) * y
    gradient = tg.value_and_grad(f, (0, 1))
    recording = known(f).at((X, 2.0))[0]
    plain = tg.value_and_grad(f, (0, 1), compile=False)
    for i in range(200_000):
        scale = 1.0 + i % 7
        found = gradient(scale * X, 2.0)
        if i % 1000 == 0:
            assert_same(found, plain(scale * X, 2.0))
            if how(recording).get("value_and_grad by (0, 1)") == "compiled":
                break
            wait_for(recording)
    assert how(recording)["value_and_grad by (0, 1)"] == "compiled"
    assert_same(gradient(3.0 * X, 0.5), plain(3.0 * X, 0.5))


def test_few_instructions_over_long_arrays_are_compiled_before_their_first_replay():
    x = np.linspace(0.0, 1.0, 60_000)
    recording = tg.record(lambda x: np.sum(np.exp(x) * x), x)
    found = recording.value_and_grad(x)
    assert how(recording)["value_and_grad"] == "compiled"
    np.testing.assert_allclose(found[1], np.exp(x) * (1.0 + x), rtol=1e-13)


def test_programs_that_are_too_large_are_not_compiled_by_themselves(monkeypatch):
    monkeypatch.setattr(choice, "_MOST", 2)
    recording = tg.record(waves, X)
    recording.program.spent = 1e9
    recording(X)
    assert "too many instructions" in recording.stats().runs[0].why
    assert how(recording.compile())["value"] == "compiled"


def test_threads_that_call_while_it_is_swapped_in(eager):
    f = lambda x, y: np.sum(np.sin(x) * y) * (2.0 if x[0] > 1.0 else 1.0)
    gradient, plain = tg.value_and_grad(f, (0, 1)), tg.value_and_grad(f, (0, 1), compile=False)
    arguments = [(X * k, V + k) for k in (1.0, 1.5, 2.0, 2.5)]
    expected, wrong = [plain(*args) for args in arguments], []
    together = threading.Barrier(4)

    def work(n):
        try:
            together.wait()
            for i in range(300):
                k = (n + i) % 4
                assert_same(gradient(*arguments[k]), expected[k])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    recording = known(f).at(arguments[0])[0]
    wait_for(recording)
    # The calls before may have left the other branch waiting.
    assert_same([gradient(*args) for args in arguments], expected)
    wait_for(recording)
    assert how(recording)["value_and_grad by (0, 1)"] == "compiled"


# Programs


def test_alternating_branches(eager):
    def f(x):
        if x[0] > 1.0:
            return np.sum(np.sin(x))
        return np.sum(x * x) if x[1] > 0.0 else np.sum(x[::-1] * x)

    points = [X + 1.0, X, -X] * 4
    for compile in (True, None):
        plain = tg.record(f, X, compile=False)
        recording = tg.record(f, X, compile=compile)
        for x in points:
            for _ in range(2):
                assert_same(recording.value_and_grad(x), plain.value_and_grad(x))
            assert_same(recording(x), plain(x))
            assert_same(recording.hvp((x,), (V,)), plain.hvp((x,), (V,)))
            wait_for(recording)
        assert how(recording) == dict.fromkeys(["value", "value_and_grad", "hvp"], "compiled")
        # Each branch is compiled by now, and stays so, whichever was replayed last.
        assert all(p.native is not None for p in recording.programs)
        for key in recording.derived.asked():
            assert all(p.native is not None for p in recording.derived.programs(key))


SCALE = 2.0


def test_recorded_again_because_a_name_has_changed(monkeypatch):
    f = lambda x: SCALE * waves(x)
    gradient, recording = tg.value_and_grad(f, compile=True), tg.record(f, X, compile=True)
    for scale in (2.0, 3.0, 2.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        expected = tg.value_and_grad(lambda x: scale * waves(x), compile=False)(X)  # noqa: B023
        for _ in range(3):
            assert_same(gradient(X), expected)
            assert_same(recording.value_and_grad(X), expected)
            assert_same(recording(X), expected[0])
            H = recording.hessian(X, sparse=True)
            assert_same(H, scale * tg.record(waves, X, compile=False).hessian(X, sparse=True))


def with_aux(x, n):
    return np.sum(x**n), {"twice": 2.0 * x, "count": n}


def nested(p, y):
    return np.sum((p["layers"][0]["w"] @ y + p["layers"][0]["b"]) ** 2) * p["scale"]


def powers(x, n):
    return np.sum(x**2) / n + x[n]


P = {"layers": [{"w": np.arange(12.0).reshape(3, 4), "b": np.ones(3)}], "scale": 0.5}
Y = np.array([1.0, -2.0, 0.5, 3.0])


@pytest.mark.parametrize(("f", "args", "argnums", "aux"), [
    (with_aux, (X, 3), 0, True),
    (with_aux, (X, 3), (0,), True),
    (nested, (P, Y), 0, False),
    (nested, (P, Y), (1, 0), False),
    (powers, (X, 3), 0, False),
    (lambda x, y: np.sum(x * y - x / y) + x[0], (X, X[::-1].copy()), (1, 0), False),
    (lambda x, y: x * y - x / y, (0.3, 1.7), (0, 1), False),
    (lambda x: x[0] * x[1] + x[2], ([1.5, 2.5, 3.5],), 0, False),
], ids=["aux", "aux in a tuple", "nested", "nested, both", "integers", "arithmetic", "scalars", "list"])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_equals_interpreted(f, args, argnums, aux, dtype):
    if dtype == np.float32:
        leaves, structure = pytree.flatten(args)
        args = pytree.unflatten(structure, [x.astype(dtype) if isinstance(x, np.ndarray) else x for x in leaves])
    found, expected = (tg.value_and_grad(f, argnums, aux, compile=compile) for compile in (True, False))
    # Sums may be taken in another order, so the last digit may differ, but where there is nothing but arithmetic.
    exact = all(isinstance(x, float | list) for x in args)
    rtol = 0.0 if exact else 1e-13 if dtype == np.float64 else 2e-6
    for _ in range(2):
        assert_same(found(*args), expected(*args), rtol)


def test_results_of_no_elements():
    for f in (lambda x: np.sum(x[:0]) + x[1], lambda x: np.sum(np.zeros((0, 12)) @ x) * np.sum(x)):
        assert_same(*(tg.record(f, X, compile=compile).value_and_grad(X) for compile in (True, False)))


def test_errors_are_those_of_the_interpreter():
    for f in (lambda x: x < 3.0, lambda x: bool(x < 3.0), lambda x: x * np.ones(3), lambda x: "text"):
        said = []
        for compile in (True, False):
            with pytest.raises(TapegradError) as raised:
                tg.grad(f, compile=compile)(2.0)
            said.append((type(raised.value), str(raised.value)))
        assert said[0] == said[1]


def test_arithmetic_is_exactly_that_of_the_interpreter():
    f = lambda x, y: (x * y - x / y) * (x + 3.0) - np.sqrt(y) * np.abs(x)
    x, y = np.linspace(-3.0, 2.0, 1001), np.linspace(0.1, 7.0, 1001)
    found, plain = (tg.record(f, x, y, compile=compile) for compile in (True, False))
    assert_same(found(x, y), plain(x, y), 0.0)
    assert_same(found.jvp((x, y), (y, x)), plain.jvp((x, y), (y, x)), 0.0)


def test_a_recording_that_is_compiled_can_be_pickled():
    recording = tg.record(waves, X).compile()
    again = pickle.loads(pickle.dumps(recording))
    assert how(again) == {"value": "interpreted"}
    assert_same(again.value_and_grad(X), recording.value_and_grad(X))
    forced = pickle.loads(pickle.dumps(tg.record(waves, X, compile=True)))
    assert_same(forced.value_and_grad(X), recording.value_and_grad(X))
    assert how(forced)["value_and_grad"] == "compiled"
    gradient = pickle.loads(pickle.dumps(tg.grad(waves, compile=True)))
    assert_same(gradient(X), recording.grad(X))
    assert gradient.made[0].keywords == {"compile": True}


def test_the_memory_limit_holds_for_compiled_programs():
    x = np.linspace(0.5, 1.5, 20_000)
    f = lambda x: waves(x)
    gradient = tg.value_and_grad(f, compile=True)
    expected = gradient(x)
    recording = known(f, True).at((x,))[0]
    key = recording.derived.asked()[0]
    native = recording.derived.programs(key)[0].native
    assert sum(w.nbytes for w in native.workspaces) > x.nbytes
    held, limit = tg.memory_held(), tg.set_memory_limit(1)
    try:
        assert not native.workspaces
        del native, recording
        gc.collect()
        assert tg.memory_held() < held - x.nbytes
    finally:
        tg.set_memory_limit(limit)
    assert_same(gradient(x), expected, 0.0)


def test_a_derivative_program_that_is_forgotten_is_gone():
    recording = tg.record(waves, X, compile=True)
    expected = recording.value_and_grad(X)
    key = recording.derived.asked()[0]
    (program,) = recording.derived.programs(key)
    program.forget()
    assert not recording.derived.programs(key) and not recording._branches.short_ways
    assert_same(recording.value_and_grad(X), expected, 0.0)
    assert how(recording)["value_and_grad"] == "compiled"


# What goes wrong


def test_llvm_that_fails(monkeypatch, eager):
    monkeypatch.setattr(build, "address_of", refuse)
    expected = tg.record(waves, X, compile=False).value_and_grad(X)
    for compile in (True, None):
        recording = tg.record(waves, X, compile=compile)
        for _ in range(3):
            assert_same(recording.value_and_grad(X), expected, 1e-14)
            assert_same(recording(X), expected[0], 0.0)
            wait_for(recording)
        for runs in recording.stats().runs:
            assert (runs.how, runs.why) == ("interpreted", "RuntimeError: LLVM is tired")


def test_a_mistake_in_a_pass_does_not_show_where_nobody_asked_for_compiling(monkeypatch, eager):
    monkeypatch.setattr(build, "address_of", lambda *args, **kwargs: [][0])
    recording = tg.record(waves, X)
    for _ in range(3):
        assert recording(X) == pytest.approx(waves(X), rel=1e-14)
        wait_for(recording)
    assert recording.stats().runs[0].why.startswith("IndexError: ")
    with pytest.raises(IndexError):
        tg.record(waves, X, compile=True)(X)


def as_in_a_new_process(monkeypatch):
    """Have what this process has loaded be looked for on disk again."""
    monkeypatch.setattr(build, "_loaded", {})


def damaged(data):
    return data[:-40] + bytes(40)


def foreign(data):
    other = tg.record(lambda x: np.sum(np.cos(x)), X, compile=True)
    other(X)
    return data.replace(b'"symbol": "tapegrad_program"', b'"symbol": "another_program_"')


@pytest.mark.parametrize("spoil", [damaged, lambda data: data[: len(data) // 2], lambda data: b"", foreign])
def test_entries_of_the_cache_that_are_spoilt_are_made_anew(spoil, monkeypatch, tmp_path):
    f = lambda x: np.sum(np.sin(x) * np.exp(x - 1.0))
    expected = tg.value_and_grad(f, compile=False)(X)
    monkeypatch.setenv("TAPEGRAD_CACHE", str(tmp_path))
    as_in_a_new_process(monkeypatch)
    tg.value_and_grad(f, compile=True)(X)
    entries = list(tmp_path.glob("native_*.code"))
    assert entries
    kept = {path: path.read_bytes() for path in entries}
    for path, data in kept.items():
        path.write_bytes(spoil(data))
    as_in_a_new_process(monkeypatch)
    g = lambda x: np.sum(np.sin(x) * np.exp(x - 1.0))
    found = tg.record(g, X, compile=True)
    assert_same(found.value_and_grad(X), expected)
    assert how(found)["value_and_grad"] == "compiled"
    assert all(path.read_bytes() == data for path, data in kept.items())


def test_an_entry_of_another_processor_or_library_is_made_anew(monkeypatch, tmp_path):
    f = lambda x: np.sum(np.sin(x))
    tg.record(f, X, compile=False)(X)
    monkeypatch.setenv("TAPEGRAD_CACHE", str(tmp_path))
    as_in_a_new_process(monkeypatch)
    tg.record(f, X, compile=True)(X)
    (path,) = tmp_path.glob("native_*.code")
    made = store.find(path.stem)
    store.save(path.stem, made._replace(needs=(*made.needs, "no_such_function_anywhere")))
    as_in_a_new_process(monkeypatch)
    g = lambda x: np.sum(np.sin(x))
    assert_same(tg.record(g, X, compile=True)(X), float(np.sum(np.sin(X))))
    assert store.find(path.stem).needs == made.needs


@pytest.mark.parametrize("place", ["a file", "not to write to"])
def test_no_folder_to_keep_code_in(place, monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    if place == "a file":
        folder.write_text("")
    elif os.geteuid() == 0:
        # The root user may write anywhere but where the system has no files.
        folder = Path("/proc/tapegrad")
    else:
        folder.mkdir(mode=0o500)
    monkeypatch.setenv("TAPEGRAD_CACHE", str(folder))
    as_in_a_new_process(monkeypatch)
    with pytest.warns(UserWarning, match="cannot be written"):
        from tapegrad.cache import warn_once

        warn_once.cache_clear()
        recording = tg.record(lambda x: np.sum(np.exp(x) / x), X, compile=True)
        found = recording.value_and_grad(X)
    assert how(recording)["value_and_grad"] == "compiled"
    assert_same(found, tg.value_and_grad(lambda x: np.sum(np.exp(x) / x), compile=False)(X))


# In processes of their own

HEAD = """
import os, signal, sys, threading, time
import numpy as np
import tapegrad as tg
from tapegrad.native import build, choice
from tapegrad.recording import derived
find = build.store.find
# Nothing that is compiled here was so before.
build.store.find = lambda name: None if name.startswith("native") else find(name)
X = np.linspace(0.5, 1.5, 12)
def f(x):
    return np.sum(np.sin(x) * x**2)
def how(recording):
    return {runs.what: runs.how for runs in recording.stats().runs}
def expected(x):
    return np.cos(x) * x**2 + 2.0 * x * np.sin(x)
"""


def run(text, code=0, **environment):
    """Run a program in a process of its own; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(text)], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | environment, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_without_libmvec():
    out, _ = run(
        """
        r = tg.record(f, X, compile=True)
        np.testing.assert_allclose(r.grad(X), expected(X), rtol=1e-14)
        print(how(r)["value_and_grad"])
        """,
        TAPEGRAD_MATH="libm",
    )
    assert out == "compiled\n"


def test_nothing_is_compiled_where_numba_is_not_to_compile():
    out, _ = run(
        """
        r = tg.record(f, X, compile=True)
        np.testing.assert_allclose(r.grad(X), expected(X), rtol=1e-14)
        print(r.stats().runs[-1])
        try:
            r.compile()
        except tg.errors.CompileError as error:
            print(error)
        """,
        NUMBA_DISABLE_JIT="1",
    )
    assert out.splitlines() == [
        "value_and_grad: interpreted, as NUMBA_DISABLE_JIT is set", "f cannot be compiled: NUMBA_DISABLE_JIT is set"
    ]  # fmt: skip


SLOW = """
derived._ASK_AFTER = 0.0
choice.compile_seconds = lambda program: 0.0
choice._is_faster = lambda program, native: True
entered = threading.Event()
compiled = build._compiled
def slowly(*args):
    entered.set()
    for _ in range(int(SECONDS * 100)):
        time.sleep(0.01)
    return compiled(*args)
build._compiled = slowly
r = tg.record(f, X)
before = [r.grad(X) for _ in range(3)][0]
assert entered.wait(60.0)
"""


def test_a_process_may_end_while_something_is_compiled():
    begun = time.monotonic()
    out, err = run("SECONDS = 1000.0" + SLOW + "assert how(r)['value_and_grad'] == 'compiling'\nprint('done')")
    assert out == "done\n" and not err
    # It does not wait for what takes a thousand seconds.
    assert time.monotonic() - begun < 100.0


def test_a_process_may_end_with_much_to_compile():
    out, err = run("""
    choice.compile_seconds = lambda program: 0.0
    derived._ASK_AFTER = 0.0
    def long(x, n):
        for i in range(n):
            x = np.sin(x[i % 7] * x) + i
        return np.sum(x)
    for n in range(20, 40):
        r = tg.record(long, X, n)
        for _ in range(3):
            r.grad(X, n)
    print("done")
    """)
    assert out == "done\n" and not err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_something_is_compiled():
    out, err = run("SECONDS = 0.3" + SLOW + textwrap.dedent("""
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    child = os.fork()
    end = time.monotonic() + 60.0
    while how(r)["value_and_grad"] != "compiled" and time.monotonic() < end:
        np.testing.assert_allclose(r.grad(X), before, rtol=1e-14)
        time.sleep(0.002)
    np.testing.assert_allclose(r.grad(2.0 * X), expected(2.0 * X), rtol=1e-14)
    assert how(r)["value_and_grad"] == "compiled", how(r)
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print("done")
    """))
    assert out == "done\n" and not err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_while_compiling():
    out, _ = run("""
    compiled, times = build._compiled, []
    def interrupted(*args):
        if not times:
            times.append(1)
            os.kill(os.getpid(), signal.SIGINT)
        return compiled(*args)
    build._compiled = interrupted
    r = tg.record(f, X, compile=True)
    try:
        r.grad(X)
    except KeyboardInterrupt:
        print("interrupted")
    np.testing.assert_allclose(r.grad(X), expected(X), rtol=1e-14)
    print(how(r)["value_and_grad"])
    """)
    assert out == "interrupted\ncompiled\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another thing there")
def test_ctrl_c_during_a_compiled_replay():
    out, _ = run("""
    x = np.linspace(0.5, 1.5, 200_000)
    for derivative in (tg.record(f, x, compile=True).grad, tg.grad(f, compile=True)):
        right = derivative(x)
        np.testing.assert_allclose(right, expected(x), rtol=1e-13)
        times = 0
        for n in range(20):
            timer = threading.Timer(0.01 + 0.001 * n, os.kill, (os.getpid(), signal.SIGINT))
            try:
                # On a busy machine the signal may come before this returns.
                timer.start()
                while True:
                    derivative(2.0 * x)
            except KeyboardInterrupt:
                times += 1
            timer.join()
            np.testing.assert_array_equal(derivative(x), right)
        print(times)
    """)
    assert out == "20\n20\n"
