"""Bad input: each kind has an exception of its own, its text names both sides of the mismatch, and nothing is lost."""

import inspect
import itertools
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value, errors
from tapegrad.ops import TABLE, Elementwise
from tapegrad.ops.spec import binary, unary


def works():
    """The tape still takes instructions and gives right gradients."""
    a, x = Value(3.0), Value([1.0, 2.0])
    (a * a + (x * x).sum()).backward()
    assert a.grad == 6.0 and x.grad.tolist() == [2.0, 4.0]


@pytest.fixture(autouse=True)
def still_works():
    kept = Value([1.0, 2.0, 3.0], label="kept")
    result = (kept * kept).sum()
    yield
    works()
    assert result.item() == 14.0
    result.backward()
    assert kept.grad.tolist() == [2.0, 4.0, 6.0]


SHAPES = [
    (lambda: Value(np.ones((2, 3))) + np.ones(4), r"\(2, 3\)", r"\(4,\)"),
    (lambda: Value(np.ones((2, 3))) * Value(np.ones((3, 2))), r"\(2, 3\)", r"\(3, 2\)"),
    (lambda: np.arctan2(np.ones((5, 1)), Value(np.ones((2, 1)))), r"\(5, 1\)", r"\(2, 1\)"),
    (lambda: np.where(np.ones(2), Value(np.ones(3)), 0.0), r"\(2,\)", r"\(3,\)"),
    (lambda: Value(np.ones((2, 3))) @ np.ones((2, 3)), r"\(2, 3\)", r"\(2, 3\)"),
    (lambda: Value(np.ones((2, 3, 4))) @ np.ones((5, 4, 3)), r"2", r"5"),
    (lambda: Value(1.0) @ np.ones(3), r"\(\)", r"\(3,\)"),
    (lambda: Value(np.ones((2, 3))).reshape(4, 2), r"\(2, 3\)", r"\(4, 2\)"),
    (lambda: Value(np.ones(6)).reshape(-1, 4), r"\(6,\)", r"4"),
    (lambda: Value(np.ones((2, 3))).transpose(0, 0), r"\(0, 0\)", r"\(2, 3\)"),
    (lambda: Value(np.ones((2, 3))).sum(axis=2), "2", "2"),
    (lambda: np.sum(Value(np.ones((2, 3))), axis=(0, 0)), "twice", r"\(0, 0\)"),
    (lambda: np.concatenate([Value(np.ones((2, 3))), np.ones((2, 4))]), r"\(2, 3\)", r"\(2, 4\)"),
    (lambda: tg.stack([Value(np.ones(2)), Value(np.ones(3))]), r"\(2,\)", r"\(3,\)"),
    (lambda: np.broadcast_to(Value(np.ones(3)), (3, 2)), r"\(3,\)", r"\(3, 2\)"),
    (lambda: np.squeeze(Value(np.ones((2, 3))), 0), r"\(2, 3\)", "1"),
    (lambda: np.einsum("ij,jk->ik", Value(np.ones((2, 3))), np.ones((4, 5))), "3", "4"),
    (lambda: np.einsum("ij->i", Value(np.ones(3))), "2", r"\(3,\)"),
    (lambda: np.tensordot(Value(np.ones((2, 3))), np.ones((4, 5)), 1), "3", "4"),
    (lambda: np.tensordot(Value(np.ones((2, 3))), np.ones((3, 2)), ([5], [0])), "5", "2"),
    (lambda: np.outer(Value(np.ones(2)), np.ones(3)) + Value(np.ones((3, 2))), r"\(2, 3\)", r"\(3, 2\)"),
    (lambda: Value(np.ones((2, 3)))[0, 0, 0], "3", r"\(2, 3\)"),
    (lambda: tg.cross_entropy(Value(np.ones((2, 3))), [0, 1, 2]), r"\(2,\)", r"\(3,\)"),
    (lambda: tg.cross_entropy(Value(1.0), 0), r"\(\)", ""),
    (lambda: Value([1.0, 2.0]).item(), r"\(2,\)", "2"),
    (lambda: bool(Value([1.0, 2.0])), r"\(2,\)", ""),
    (lambda: Value([1.0, 2.0]).backward([1.0, 2.0, 3.0]), r"\(3,\)", r"\(2,\)"),
    (lambda: setattr(Value([1.0, 2.0]), "data", np.ones(3)), r"\(3,\)", r"\(2,\)"),
    (lambda: setattr(Value([1.0, 2.0]), "grad", np.ones((2, 1))), r"\(2, 1\)", r"\(2,\)"),
    (lambda: tg.record(lambda x: x, np.ones(2))(np.ones(3)), r"\(2,\)", r"\(3,\)"),
]


@pytest.mark.parametrize(("call", "one", "other"), SHAPES)
def test_shape_mismatches(call, one, other):
    with pytest.raises(errors.ShapeError, match=f"{one}[^∎]*{other}"):
        call()


DTYPES = [
    (lambda: Value(np.ones(2, np.float32)) + np.ones(2), "float32", "float64"),
    (lambda: Value(np.ones(2)) * np.ones(2, np.longdouble), "float128|longdouble", "float64"),
    (lambda: Value(1.0) + Value(np.float32(1.0)), "float64", "float32"),
    (lambda: np.concatenate([Value([1.0]), Value(np.ones(1, np.float32))]), "float64", "float32"),
    (lambda: Value(np.ones(2, complex)), "complex", "real"),
    (lambda: Value("text"), "real", "str|U"),
    (lambda: Value(None), "real", "None"),
    (lambda: Value(np.array(["a"])), "real", "U1"),
    (lambda: Value([1.0], dtype=np.float16), "float16", "float64"),
    (lambda: Value([1.0], dtype=int), "int64", "float64"),
    (lambda: Value([1.0]).astype(np.float32), "float64", "float32"),
    (lambda: tg.current_tape(int), "int64", "float64"),
    (lambda: Value([1.0]).backward(1j), "complex", "real"),
    (lambda: setattr(Value([1.0]), "data", ["a"]), "U1", "real"),
    (lambda: tg.grad(np.sum)(np.ones(2, np.longdouble)), "float128|longdouble", "float64"),
    (lambda: tg.grad(np.sum)(np.ones(2, complex)), "complex", "real"),
    (lambda: tg.grad(lambda x: x)(1j), "complex", "real"),
]


@pytest.mark.parametrize(("call", "one", "other"), DTYPES)
def test_dtype_mismatches(call, one, other):
    with pytest.raises(errors.DTypeError) as info:
        call()
    text = str(info.value)
    assert any(word in text for word in one.split("|")) and any(word in text for word in other.split("|"))


def test_arrays_without_a_seed():
    with pytest.raises(errors.NonScalarError, match=r"\(2, 3\).*seed"):
        Value(np.ones((2, 3))).backward()
    with pytest.raises(errors.NonScalarError, match=r"\(2,\)"):
        tg.grad(lambda x: x)(np.ones(2))
    with pytest.raises(errors.NonScalarError):
        Value(np.zeros(0)).backward()


def test_integers_to_differentiate():
    for call in (lambda: Value(np.arange(3)), lambda: Value([True, False]), lambda: tg.grad(np.sum)(np.arange(3))):
        with pytest.raises(errors.IntegerInputError, match="int64|bool"):
            call()
    with pytest.raises(errors.IntegerInputError, match="an integer"):
        tg.grad(lambda x: x)(3)


LABELS = [
    ([0, 3], "3.*position 1.*0 to 2"), ([-1, 0], "-1.*position 0.*0 to 2"), ([0.0, np.nan], "nan.*position 1"),
    ([0.5, 1], "0.5.*position 0"), (np.array(["a", "b"]), "U1"), ([np.inf, 0], "inf"), ([2**70, 1], ""),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "text"), LABELS)
def test_labels(labels, text):
    x = Value(np.zeros((2, 3)))
    with pytest.raises(errors.LabelError, match=text):
        tg.cross_entropy(x, labels)
    if np.asarray(labels).dtype.kind == "f" or (np.asarray(labels).dtype.kind == "i"):
        with pytest.raises(
            errors.LabelError, match=text.replace("position 0", "").replace("position 1", "").split(".*")[0]
        ):
            tg.cross_entropy(x, Value(np.asarray(labels, float), requires_grad=False)).item()
        with pytest.raises(errors.LabelError):
            tg.value_and_grad(tg.cross_entropy)(np.zeros((2, 3)), np.asarray(labels))


REFUSED = """
np.diff(f, n=-1); np.split(f, 3, axis=1); np.repeat(f, -1); np.repeat(f, [1, 2], axis=1); np.tile(f, -1)
np.pad(f, -1); np.pad(f, ((1, 1), (1, 1), (1, 1))); np.concatenate([f[0, 0]]); np.stack([])
np.swapaxes(f, 0, 2); np.moveaxis(f, 0, 3); np.roll(f, 1, 5); np.flip(f, 2); np.expand_dims(f, 5); np.cumsum(f, axis=2)
np.diagonal(f[0]); np.diagonal(f, 0, 1, 1); np.trace(f[0]); np.average(f, 1, np.ones(3))
np.dot(f, f); np.inner(f, f.T); np.vdot(f, f[0]); np.einsum("ij,jk", f, f)
np.tensordot(f, f, ([0, 1], [0])); np.tensordot(f, f, 3)
"""


@pytest.mark.parametrize("call", [call.strip() for line in REFUSED.split("\n") for call in line.split(";") if call])
def test_what_numpy_refuses(call):
    for f in (np.arange(8.0).reshape(2, 4), Value(np.arange(8.0).reshape(2, 4))):
        with pytest.raises((ValueError, IndexError, TypeError)):
            eval(call, {"np": np, "f": f})


def test_indices_out_of_range():
    x = Value(np.arange(6.0).reshape(2, 3))
    for index in (
        2,
        -3,
        (0, 3),
        [0, 2],
        np.array([-3]),
        (np.array([0]), np.array([3])),
        np.ones(3, bool),
        (slice(None), [3]),
    ):
        with pytest.raises(IndexError):
            x[index]
    for index in (2, -3, 10**9):
        with pytest.raises(errors.IndexRangeError, match=str(index)):
            x[Value([index], requires_grad=False)].tolist()
        with pytest.raises(errors.IndexRangeError, match="position 1"):
            tg.grad(lambda x, i: np.sum(x[i]))(np.ones((2, 3)), np.array([0, index]))
    for index in (1.0, 0.5, np.nan, np.inf, 1e300):
        with pytest.raises((errors.IndexRangeError, errors.IntegerInputError)):
            x[Value([index], requires_grad=False)].tolist()
        with pytest.raises((errors.IndexRangeError, errors.IntegerInputError)):
            x[[0], Value([index], requires_grad=False)].tolist()
    for call in (
        lambda: np.take(x, [6]),
        lambda: np.take(x, [3], axis=1),
        lambda: np.take_along_axis(x, np.array([[2]]), 0),
    ):
        with pytest.raises(IndexError):
            call()
    for index in ("a", 1.5, 1j, {}, [0.5]):
        with pytest.raises((errors.TapegradError, IndexError, TypeError)):
            x[index]


def test_structures():
    for bad in ({1, 2}, bytearray(b"x"), np.ones(2, object)):
        with pytest.raises((errors.StructureError, errors.DTypeError)):
            tg.grad(lambda x, y: x)(1.0, bad)
    with pytest.raises(errors.StructureError):
        w = Value(1.0)
        tg.grad(lambda x: w)(1.0)


def test_operations_declared_or_called_wrongly():
    for declare in (
        lambda: unary("no name", "", value=lambda x: x, partials=lambda x, z: 1.0),
        lambda: unary("tanh", "", value=lambda x: x, partials=lambda x, z: 1.0),
        lambda: unary("new", "", value=lambda x, y: x, partials=lambda x, z: 1.0),
        lambda: unary("new", "", value=lambda x: x, partials=lambda x: 1.0),
        lambda: unary("new", "", value=3, partials=lambda x, z: 1.0),
        lambda: unary("new", "", value=lambda x: x, partials=lambda x, z: 1.0, ufunc=np.sin),
        lambda: binary("new", "", value=lambda x: x, partials=lambda x, y, z: (1.0, 1.0)),
    ):
        with pytest.raises(errors.OperationError):
            declare()
    with pytest.raises(errors.OperationError, match=r"2.*1"):
        tg.ops.BY_NAME["add"](Value(1.0))
    with pytest.raises(errors.OperationError):
        tg.ops.BY_NAME["sum"](Value(1.0))


def test_too_many_slots():
    x = Value([1.0])
    for call in (
        lambda: np.broadcast_to(x, (2**16, 2**16)) * 2.0,
        lambda: np.broadcast_to(x, (2**40,)) + 1.0,
        lambda: np.broadcast_to(x[:, None], (2**16, 1)) * np.broadcast_to(x, (1, 2**16)),
    ):
        with pytest.raises(errors.TapeFullError, match="2147483648"):
            call()
    assert (x * 2.0).tolist() == [2.0]


LEAF = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
import numpy as np, tapegrad as tg
for make in (lambda: tg.Value(np.broadcast_to(1.0, (2**16, 2**16))), lambda: tg.Value(1.0) * np.broadcast_to(1.0,
    (2**16, 2**16))):
    try:
        make()
    except tg.errors.TapeFullError as error:
        print("full", "2147483648" in str(error))
print(tg.Value(2.0) * 3.0)
x = tg.Value(np.ones(2))
try:
    (np.broadcast_to(x[0], (2**15, 2**15)) * 2.0)[0, 0].item()
except MemoryError:
    print("memory")
print(tg.Value(2.0) * 5.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory")
def test_arrays_too_large_are_refused_before_they_are_copied():
    run = subprocess.run([sys.executable, "-c", LEAF], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["full True", "full True", "Value(6.0)", "memory", "Value(10.0)"], run.stderr[
        -2000:
    ]


# Nothing crashes, whatever Python gives

JUNK = [
    None, True, 0, -1, 10**30, 1.5, np.nan, 1j, "text", b"bytes", (), [], {}, [[1.0], [2.0, 3.0]], object(),
    np.zeros(0), np.ones((2, 0)),
    np.array("text"), np.ones(3, complex), np.array([None, 1.0]), np.datetime64("2020"), np.ones(2, np.int8),
    slice(None), ..., int, len,
    np.arange(3)[::-1], np.ma.masked, range(3), {"a": 1.0}, lambda x: x, np.float16(1.0), np.broadcast_to(1.0, (3, 0)),
]  # fmt: skip
FINE = (
    errors.TapegradError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, OverflowError, KeyError,
    MemoryError, StopIteration, RecursionError, AssertionError, NotImplementedError, ImportError, FileNotFoundError,
)  # fmt: skip


def subjects():
    return [Value(2.0), Value([1.0, 2.0, 3.0]), Value(np.ones((2, 3))), Value(np.zeros((0, 2)))]


def attempt(call, *args):
    """A call may raise one of FINE; a Value that it returns must have numbers of its shape, and gradients."""
    try:
        result = call(*args)
        if inspect.isgenerator(result) or hasattr(result, "__next__"):
            list(itertools.islice(result, 10))
    except FINE:
        return
    if isinstance(result, Value) and result.size < 2**20:  # a view can show one number as gigabytes
        assert np.shape(result.data) == result.shape
        if result.size:
            result.backward(np.ones(result.shape))


# The rows of SciPy's functions are there only if something was asked of them before: they have tests of their own.
OWN = [row for row in TABLE if isinstance(row, Elementwise) and not row.name.startswith("special_")]


@pytest.mark.parametrize("row", OWN, ids=lambda row: row.name)
def test_operations_of_junk(row):
    for junk, subject in itertools.product(JUNK, subjects()):
        attempt(row, *[subject] * (row.arity - 1), junk)
        attempt(row, junk, *[subject] * (row.arity - 1))


pytestmark = pytest.mark.filterwarnings("ignore")

METHODS = sorted({*dir(Value(1.0)), *dir(Value)} - {"__class__", "__init__", "__new__", "__del__", "__subclasshook__"})


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_junk(name):
    for subject in subjects():
        try:
            method = getattr(subject, name)
        except FINE:
            continue
        if not callable(method):
            for junk in JUNK:
                attempt(setattr, subject, name, junk)
            continue
        attempt(method)
        for junk in JUNK:
            attempt(method, junk)
            attempt(method, junk, junk)


FUNCTIONS = sorted(
    {name for name in np.__all__ if callable(getattr(np, name)) and not isinstance(getattr(np, name), type)}
    - {
        "save",
        "savez",
        "savez_compressed",
        "savetxt",
        "load",
        "loadtxt",
        "genfromtxt",
        "fromfile",
        "memmap",
        "info",
        "test",
    }
    - {"show_config", "show_runtime", "get_include", "seterr", "seterrcall", "setbufsize", "set_printoptions", "bmat"}
)


@pytest.mark.parametrize("first", sorted({name[0] for name in FUNCTIONS}))
def test_numpy_functions_of_junk(first):
    for name in (n for n in FUNCTIONS if n[0] == first):
        f = getattr(np, name)
        with np.errstate(all="ignore"):
            for subject in subjects():
                attempt(f, subject)
                attempt(f, [subject, subject])
                attempt(f, subject, subject)
                for junk in [*JUNK[:4], *JUNK[5:14], np.arange(3)]:  # not 10**30: NumPy itself would count that far
                    attempt(f, subject, junk)
                    attempt(f, junk, subject)


@pytest.mark.parametrize("name", [name for name in tg.__all__ if callable(getattr(tg, name))])
def test_public_functions_of_junk(name, request):
    f = getattr(tg, name)
    # One of these functions may take some of the junk for a limit.
    request.addfinalizer(tg.set_memory_limit)
    for junk in JUNK:
        attempt(f, junk)
        for other in (junk, Value(1.0), Value([1.0, 2.0]), 1):
            attempt(f, junk, other)
            attempt(f, other, junk)
    for junk in JUNK:
        attempt(lambda junk=junk: tg.grad(lambda x: junk)(1.0))
        attempt(lambda junk=junk: tg.grad(lambda x: x * junk)(1.0))
        attempt(lambda junk=junk: tg.grad(lambda x, y: np.sum(x * y))(np.ones(3), junk))
        attempt(lambda junk=junk: tg.record(lambda x: x, junk)(junk))


def test_the_tape_of_junk():
    tape = tg.Tape()
    for junk in JUNK:
        attempt(tg.Tape, junk)
        attempt(tape.rewind, junk)
        assert tape.constant(2.0) >= 0
        tape.evaluate()
