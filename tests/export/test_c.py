"""Recordings as C: compiled without a warning, and equal to the recording in the value and all derivatives."""

import ctypes
import re
import shutil
import subprocess
import sys

import numpy as np
import programs_to_save as programs
import pytest
import scipy.sparse

import tapegrad as tg
from tapegrad import errors, pytree
from tapegrad.ops import TABLE, Elementwise

needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no compiler of C")
# What a few roundings may make, relative to the largest number of a result.
CLOSE = {np.dtype(np.float64): 1e-14, np.dtype(np.float32): 1e-6}


class Compiled:
    """The functions of an exported recording."""

    def __init__(self, recording, folder, name="own", **how):
        path = folder / f"{name}.c"
        recording.to_c(path, **how)
        self.text, self.header = path.read_text(), path.with_suffix(".h").read_text()
        library = folder / f"{name}.so"
        flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-std=c99", "-shared", "-fPIC"]
        done = subprocess.run(["gcc", *flags, path, "-o", library, "-lm"], capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr[:3000]
        self.name, self.dtype, self.library = name, recording.code.dtype, ctypes.CDLL(str(library))
        self.sizes = {word: int(n) for word, n in re.findall(rf"#define {name.upper()}_([A-Z]+) (\d+)", self.header)}

    def __call__(self, function, *given, made=()):
        """The status, and arrays of these sizes that a function makes. What it is given stands at the very end of its
        memory, and what it makes between numbers that must stay."""
        arrays = [np.ascontiguousarray(x, self.dtype) for x in given]
        results = [np.full(n + 16, 7.25, self.dtype) for n in made]
        work = np.full(self.sizes["WORK"] + 16, 7.25, self.dtype)
        at = [x.ctypes.data for x in arrays] + [r.ctypes.data + 8 * r.itemsize for r in (*results, work)]
        status = getattr(self.library, f"{self.name}_{function}")(*map(ctypes.c_void_p, at))
        assert all((r[:8] == 7.25).all() and (r[-8:] == 7.25).all() for r in (*results, work))
        return status, *(r[8:-8] for r in results)


def flat(x):
    return np.concatenate([np.zeros(0), *(np.ravel(y) for y in pytree.flatten(x)[0])])


def same(found, expected, dtype, times=1.0):
    expected = np.asarray(expected, float).reshape(-1)
    assert found.shape == expected.shape
    scale = np.max(np.abs(expected), initial=1e-300)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=times * CLOSE[dtype] * scale)


def check(recording, args, folder, **how):
    """All functions of the file, at arguments that are arrays or numbers of floats."""
    own, rng = Compiled(recording, folder, **how), np.random.default_rng(7)
    n, m, dtype = own.sizes["INPUTS"], own.sizes["OUTPUTS"], own.dtype
    x, all_args = flat(args), tuple(range(len(args)))
    along = [rng.normal(size=np.shape(a)).astype(np.asarray(a).dtype)[()] for a in args]
    along = tuple(float(t) if isinstance(a, float) else t for a, t in zip(args, along))
    value = recording(*args)
    leaves, structure = pytree.flatten(value)
    weights = [rng.normal(size=np.shape(y)).astype(dtype)[()] for y in leaves]
    status, y = own("value", x, made=[m])
    assert status == 0
    same(y, flat(value), dtype)
    _, y, dy = own("jvp", x, flat(along), made=[m, m])
    same(y, flat(value), dtype)
    same(dy, flat(recording.jvp(args, along)[1]), dtype)
    _, g = own("vjp", x, flat(weights), made=[n])
    same(g, flat(recording.vjp(*args)[1](pytree.unflatten(structure, weights))), dtype)
    jacobian = np.concatenate(
        [np.reshape(j, (m, -1)) for j in pytree.flatten(recording.jacobian(*args, argnums=all_args))[0]], 1
    )
    # The Jacobian of a gradient has second derivatives, in which more is lost by cancellation.
    same(own("jacobian", x, made=[m * n])[1], jacobian, dtype, 10.0 if recording.name.startswith("arrays") else 1.0)
    if m == 1:
        _, y, g = own("gradient", x, made=[1, n])
        same(y, flat(value), dtype)
        same(g, flat(recording.grad(*args, argnums=all_args)), dtype)
        same(own("hessian_product", x, flat(along), made=[n])[1], flat(recording.hvp(args, along)), dtype)
    return own, jacobian


def n_body(q, p):
    n = 3
    for _ in range(50):
        a = [0.0] * (3 * n)
        for i in range(n):
            for j in range(i):
                d = [q[3 * i + k] - q[3 * j + k] for k in range(3)]
                r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + 0.1
                w = 1.0 / (r2 * np.sqrt(r2))
                for k in range(3):
                    a[3 * i + k] = a[3 * i + k] - w * d[k]
                    a[3 * j + k] = a[3 * j + k] + w * d[k]
        p = [p[i] + 0.01 * a[i] for i in range(3 * n)]
        q = [q[i] + 0.01 * p[i] for i in range(3 * n)]
    return sum(x * x for x in q) + sum(x * x for x in p)


@needs_gcc
def test_n_body_with_its_loop(tmp_path, rng):
    q, p = rng.normal(size=9), rng.normal(size=9)
    recording = tg.record(n_body, q, p)
    own, _ = check(recording, (q, p), tmp_path)
    value = own.text[own.text.index("int own_value") : own.text.index("int own_jvp")]
    assert re.search(r"for \(long t0 = 0; t0 < 4\d; t0\+\+\)", value)
    assert value.count("\n") < len(recording) / 8


@needs_gcc
def test_perceptron(tmp_path, rng):
    def loss(w1, b1, w2, x, y):
        return np.mean((np.tanh(x @ w1 + b1) @ w2 - y) ** 2)

    args = tuple(rng.normal(size=shape) for shape in ((4, 8), 8, 8, (10, 4), 10))
    own, _ = check(tg.record(loss, *args), args, tmp_path)
    assert "k_matmul" in own.text and "x[32] to x[39]: b1, an array of shape (8,)" in own.header


@needs_gcc
def test_branches(tmp_path, rng):
    def f(x, y):
        if x[0] > y:
            return np.sin(x) * x * y
        return x**3 * x[::-1]

    x = np.array([0.3, 0.2, 0.1])
    recording = tg.record(f, x, 0.0)
    own = Compiled(recording, tmp_path, name="half")
    assert own("value", [0.3, 0.2, 0.1, 0.5], made=[3])[0] == 1
    assert own("jacobian", [0.3, 0.2, 0.1, 0.5], made=[12])[0] == 1
    recording(x, 0.5)
    for y in (0.0, 0.5):
        check(recording, (x, y), tmp_path)


@needs_gcc
def test_sparse_jacobians(tmp_path, rng):
    def residuals(x):
        return np.concatenate([10.0 * (x[1:] - x[:-1] ** 2), 1.0 - x[:-1]])

    def wide(x):
        return np.sum(x.reshape(4, 10) ** 3, 1)

    for f, size in ((residuals, 40), (wide, 40)):
        x = rng.normal(size=size)
        recording = tg.record(f, x)
        own, jacobian = check(recording, (x,), tmp_path, name=f.__name__, sparse=True)
        entries = own.sizes["ENTRIES"]
        status, numbers = own("sparse_jacobian", x, made=[entries])
        at = [list((ctypes.c_int * entries).in_dll(own.library, f"{own.name}_{what}")) for what in ("rows", "columns")]
        found = scipy.sparse.coo_array((numbers, at), jacobian.shape)
        assert status == 0 and entries == recording.jacobian(x, sparse=True).nnz
        same(found.toarray().reshape(-1), jacobian, own.dtype)


@needs_gcc
def test_float32(tmp_path, rng):
    x = rng.normal(size=20).astype(np.float32)
    own, _ = check(tg.record(lambda x: np.sum(np.sin(x) * np.exp(-x)), x), (x,), tmp_path)
    assert "float *x" in own.header and "sinf(" in own.text and "double *" not in own.header


@needs_gcc
@pytest.mark.parametrize(
    "name",
    ["scalars", "arrays", "gradient of arrays", "recurrent", "gradient of a recurrent layer", "long rows", "stencil"],
)
def test_all_kinds_of_instructions(name, tmp_path):
    recording, args = programs.named()[name]
    if name == "long rows":
        args = (args[0][:6, :5].copy(),)
        recording = tg.record(lambda x: np.sum(np.sqrt(x) * np.cos(x[:, ::-1]) + x[:1]), *args)
    check(recording, args, tmp_path)


@needs_gcc
def test_networks_with_labels_and_indices(tmp_path, rng):
    from tapegrad.functions.products import affine

    def loss(w, b, x, labels, rows):
        logits = affine(x, w, b)[rows]
        return tg.cross_entropy(logits, labels) + tg.nll_loss(logits**2, labels) + np.sum(np.cumsum(b) * b[rows[:3]])

    w, b, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(6, 4))
    labels, rows = np.array([0, 2, 1, 1]), np.array([2, 0, 1, -1])
    recording = tg.record(loss, w, b, x, labels, rows)
    own = Compiled(recording, tmp_path)
    args = w, b, x, labels, rows
    status, y, g = own("gradient", flat(args), made=[1, own.sizes["INPUTS"]])
    assert status == 0
    same(y, recording(*args), own.dtype)
    expected = flat([*recording.grad(*args, argnums=(0, 1, 2)), np.zeros(8)])
    same(g, expected, own.dtype)
    for bad in (3, -1, 0.5, np.nan):
        assert own("value", flat((w, b, x, [0, bad, 1, 1], rows)), made=[1])[0] == 2
    assert own("value", flat((w, b, x, labels, [2, 0, 6, 1])), made=[1])[0] == 2


@needs_gcc
def test_normalisation(tmp_path, rng):
    # One after the other, normalisations of few numbers would magnify the last digits of each other.
    normalisations = [
        lambda x, w, b: tg.batch_norm(x, None, None, w, b), lambda x, w, b: tg.group_norm(x, 2, w, b),
        lambda x, w, b: tg.layer_norm(x, 5, np.append(w, 1.0), np.append(b, 0.0)),
    ]  # fmt: skip
    args = rng.normal(size=(3, 4, 5)), *rng.normal(size=(2, 4))
    for number, normalised in enumerate(normalisations):
        recording = tg.record(lambda *args, f=normalised: np.sum(np.where(args[0] > -0.2, f(*args), 0.0) ** 3), *args)
        folder = tmp_path / str(number)
        folder.mkdir()
        own = Compiled(recording, folder)
        status, y, g = own("gradient", flat(args), made=[1, own.sizes["INPUTS"]])
        assert status == 0
        same(y, recording(*args), own.dtype)
        same(g, flat(recording.grad(*args, argnums=(0, 1, 2))), own.dtype)


@needs_gcc
def test_every_operation(tmp_path, rng):
    from tapegrad.ops.spec import REALS

    rows = [row for row in TABLE if isinstance(row, Elementwise) and row.name in row.name.removeprefix("special_")]
    rows = [row for row in rows if row.value.__module__.startswith("tapegrad.ops") and row.name != "detach"]
    assert len(rows) > 60
    x = np.array([rng.uniform(*(row.samples[j] if j < row.arity else REALS)) for row in rows for j in range(3)])

    def f(x):
        return np.stack([row(*(x[3 * i + j] for j in range(row.arity))) for i, row in enumerate(rows)])

    recording = tg.record(f, x)
    own = Compiled(recording, tmp_path)
    status, y = own("value", x, made=[len(rows)])
    assert status == 0
    np.testing.assert_allclose(y, recording(x), rtol=1e-14)
    _, _, dy = own("jvp", x, np.ones(len(x)), made=[len(rows), len(rows)])
    np.testing.assert_allclose(dy, recording.jvp((x,), (np.ones(len(x)),))[1], rtol=1e-13, atol=1e-14)


def logistic(rate, start, limit=None):
    return tg.scan(lambda x, _: (rate * x * (1.0 - x), None), start, None, 2000, memory_limit=limit)[0]


def lorenz_96(x, h):
    def step(x, u):
        x = x + h * (np.roll(x, 1) * (np.roll(x, -1) - np.roll(x, 2)) - x + 8.0 + u)
        return x, x[:2] * u

    end, kept = tg.scan(step, x, np.linspace(0.0, 1.0, 1500))
    return np.sum(end**2) + np.sum(kept)


def numbered(x):
    return np.sum(tg.fori_loop(3, 1500, lambda i, c: c + 1e-4 * np.sin(0.01 * i + c) * x, 1.0 * x))


def loop_in_a_loop(x):
    def outer(c, u):
        inside = tg.scan(lambda k, _: (0.999 * k + 0.001 * np.sin(c + k + u), None), c, None, 1100)[0]
        return inside + u, inside

    end, kept = tg.scan(outer, x, np.linspace(0.0, 1.0, 1200))
    return np.sum(end * kept[::7])


@needs_gcc
@pytest.mark.parametrize(
    ("f", "args"),
    [
        (logistic, (3.1, 0.2)), (lambda rate, start: logistic(rate, start, 2000), (3.1, 0.2)),
        (lorenz_96, (np.array([0.1, -0.2, 0.3, 0.0, 0.2]), 1e-4)), (numbered, (np.array([0.5, -1.0]),)),
        (lambda x: tg.while_loop(lambda s: s < 40.0, lambda s: 1.001 * s + 0.01 * x, x, max_steps=5000), (1.0,)),
    ],
    ids=["carry", "few states", "xs and ys", "numbered", "bounded"],
)  # fmt: skip
def test_loops(f, args, tmp_path):
    recording = tg.record(f, *args)
    assert recording.program.calls
    own, _ = check(recording, args, tmp_path)
    assert "_step(real *v)" in own.text and own.text.count("\n") < 4000
    if f.__code__.co_names[:1] == ("logistic",):
        # Few states are kept, and so the room is that of some hundred numbers.
        assert own.sizes["WORK"] < 1000


@needs_gcc
def test_a_loop_in_a_loop(tmp_path):
    recording = tg.record(loop_in_a_loop, 0.3)
    own = Compiled(recording, tmp_path)
    status, y, g = own("gradient", 0.4, made=[1, 1])
    assert status == 0
    same(y, recording(0.4), own.dtype)
    same(g, recording.grad(0.4), own.dtype)


A = np.array([[4.0, 0.3, -0.2], [0.5, 3.0, 0.1], [-0.4, 0.2, 5.0]])
B = np.array([1.0, -2.0, 0.5])


def by_factor(a):
    from tapegrad.scipy import linalg

    return B @ linalg.cho_solve(linalg.cho_factor(a @ a.T, lower=True), B)


def by_lu(a):
    from tapegrad.scipy import linalg

    return np.sum(linalg.lu_solve(linalg.lu_factor(a), B) ** 2)


@needs_gcc
@pytest.mark.parametrize(
    ("f", "args"),
    [
        (np.linalg.solve, (A, B)), (lambda b: np.sum(np.linalg.solve(A, b) ** 3), (B,)), (np.linalg.inv, (A,)),
        (lambda a: np.sum(np.linalg.solve(a, B[:, None]) ** 3), (np.stack([A, A.T, 2.0 * A]),)),
        (np.linalg.det, (A,)), (np.linalg.det, (np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.5]]),)),
        (lambda a: np.linalg.det(a) + np.sum(a), (np.ones((3, 3)) * B,)),
        (lambda a: np.sum(np.linalg.slogdet(a)[1]), (np.stack([A, -A]),)),
        (lambda a: np.sum(np.linalg.cholesky(a @ a.T) ** 2 * np.arange(9.0).reshape(3, 3)), (A,)),
        (by_factor, (A,)), (by_lu, (A[[1, 2, 0]],)), (lambda a: np.sum(np.linalg.inv(a) ** 2), (A.astype(np.float32),)),
    ],
)  # fmt: skip
def test_matrix_functions(f, args, tmp_path):
    recording = tg.record(f, *args)
    if np.ndim(args[0]) == 2 and np.linalg.matrix_rank(args[0]) < 3:
        # The second derivative of a determinant takes the inverse, and is NaN here.
        own = Compiled(recording, tmp_path)
        _, y, g = own("gradient", flat(args), made=[1, 9])
        np.testing.assert_allclose(y, recording(*args), atol=1e-14)
        same(g, recording.grad(*args), own.dtype)
        return
    check(recording, args, tmp_path)


@needs_gcc
def test_matrices_that_are_singular(tmp_path):
    bad = np.array([[1.0, 2.0], [2.0, 4.0]])
    for n, f in enumerate((np.linalg.inv, lambda a: np.linalg.solve(a, a), lambda a: np.linalg.cholesky(-a))):
        own = Compiled(tg.record(f, np.eye(2) * (1 - 2 * (n == 2))), tmp_path, name=f"singular{n}")
        assert own("value", bad, made=[4])[0] == 3
        assert own("value", np.eye(2) * (1 - 2 * (n == 2)), made=[4])[0] == 0
    own = Compiled(tg.record(lambda a: np.linalg.slogdet(a)[1], np.eye(2)), tmp_path, name="log")
    assert own("value", bad, made=[1])[1] == -np.inf and np.isnan(own("gradient", bad, made=[1, 4])[2]).all()


@needs_gcc
def test_a_solution_in_each_round(tmp_path):
    def f(x):
        for _ in range(60):
            x = x - 0.01 * np.linalg.solve(np.eye(3) * (2.0 + x[0] ** 2), x)
        return np.sum(x**2)

    x = np.array([0.1, 0.2, 0.3])
    recording = tg.record(f, x)
    own, _ = check(recording, (x,), tmp_path)
    # What repeats is a loop, calls included.
    assert own.text[own.text.index("int own_value") : own.text.index("int own_jvp")].count("k_solve(") < 10
    recording.save(tmp_path / "f.tape")
    check(tg.load(tmp_path / "f.tape"), (x,), tmp_path, name="loaded")


@needs_gcc
def test_results_without_numbers(tmp_path):
    x = np.ones(3)
    own = Compiled(tg.record(lambda x: (x[:0], np.sum(x**3), x[0] * x[1], np.zeros((2, 0))), x), tmp_path)
    assert [y.tolist() for y in own("value", x, made=[2])[1:]] == [[3.0, 1.0]]
    assert own("jacobian", x, made=[6])[1].tolist() == [3.0, 3.0, 3.0, 1.0, 1.0, 0.0]
    for f in (lambda x: x[:0], lambda x: (x[:0], ())):
        with pytest.raises(errors.UnsupportedError, match="what it returns has no numbers"):
            tg.record(f, x).to_c(tmp_path / "f.c")


def test_what_cannot_be_exported(tmp_path):
    black = tg.external(np.sin, lambda w, y, x: w * np.cos(x))
    for f, args, message in (
        (black, (1.0,), "calls the Python function sin, which C cannot"),
        (lambda a: np.linalg.eigh(a)[0], (np.eye(2),), "the matrix function eigh, .* write it with these"),
        (lambda x: np.fft.fft(x).real, (np.ones(4),), "the matrix function fft"),
        (lambda x: (x, "text"), (1.0,), "a result is a str"), (programs.special, (np.ones(2),), "operation special_"),
    ):  # fmt: skip
        with pytest.raises(errors.UnsupportedError, match=f"cannot be exported: .*{message}"):
            tg.record(f, *args).to_c(tmp_path / "f.c")
    with pytest.raises(errors.OperationError, match=r"ends with \.c"):
        tg.record(np.sin, 1.0).to_c(tmp_path / "f.txt")
    with pytest.raises(errors.OperationError, match="'2nd'"):
        tg.record(np.sin, 1.0).to_c(tmp_path / "f.c", "2nd")
    assert not list(tmp_path.iterdir())


@needs_gcc
def test_a_loaded_recording_with_any_name(tmp_path):
    def f(d):
        return d["*/ int main"] * 2.0

    recording = tg.record(f, {"*/ int main": 1.0})
    f.__qualname__ = "*/ int evil;\n"
    recording.save(tmp_path / "f.tape")
    own = Compiled(tg.load(tmp_path / "f.tape"), tmp_path)
    assert own("value", [3.0], made=[1])[1] == 6.0 and sys.executable


def test_the_header_calls_arguments_as_the_function_does(tmp_path):
    def energy(x, k, *rest):
        return np.sum(x**2) * k["stiff"] + rest[0]

    tg.record(energy, np.ones(3), {"stiff": 2.0}, 1.0).to_c(tmp_path / "energy.c")
    header = (tmp_path / "energy.h").read_text()
    for said in ("x[0] to x[2]: x, an array of shape (3,)", "x[3] to x[3]: k['stiff']", "x[4] to x[4]: argument 2"):
        assert f" *   {said}" in header


@needs_gcc
def test_arguments_without_numbers_give_no_warning(tmp_path):
    for name, f, expected in (("total", np.sum, 0.0), ("constant", lambda x: 3.0, 3.0)):
        own = Compiled(tg.record(f, np.zeros(0)), tmp_path, name)
        status, y = own("value", np.zeros(0), made=[1])
        assert status == 0 and y.tolist() == [expected]
