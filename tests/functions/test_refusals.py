"""What NumPy functions say on Values where they cannot be followed: always what to write instead."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from numpy_calls import CALLS
from numpy_parts import parts

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import (
    CutGradientError,
    InPlaceError,
    IntegerInputError,
    ShapeError,
    TapegradError,
    UnsupportedAttributeError,
    UnsupportedError,
)
from tapegrad.functions import table
from tapegrad.value import REFUSALS

V = Value([0.5, 1.5, 2.5])
M = Value(np.eye(3))

# Arguments for functions that do not take one array, or two.
ARGUMENTS = {
    "histogram2d": (V, V), "histogramdd": (M,), "putmask": (V, [True], 1.0), "place": (V, [True], 1.0),
    "copyto": (np.zeros(3), V), "put": (V, 0, 1.0), "put_along_axis": (V, np.array([0]), 1.0, 0),
    "fill_diagonal": (M, 1.0), "ravel_multi_index": ((V,), (3,)), "unravel_index": (V, (3,)), "roots": (V,),
    "emath.logn": (2, V), "emath.power": (V, 2), "histogram_bin_edges": (V,),
}  # fmt: skip
DISPATCHED = [e for e in table.supported() if e.status == table.REFUSED and e.name not in table.UNASKED
              and not e.name.startswith(("ndarray.", "ufunc."))]  # fmt: skip


@pytest.mark.parametrize("entry", DISPATCHED, ids=lambda entry: entry.name)
def test_a_function_that_is_refused_says_what_to_write(entry):
    function = table._of(entry.name)
    count = function.nin if isinstance(function, np.ufunc) else 1
    with pytest.raises(UnsupportedError, match=re.escape(entry.note)) as caught:
        function(*ARGUMENTS.get(entry.name, (V,) * count))
    assert function.__name__ in str(caught.value)


ELSEWHERE = [f for f, advice in REFUSALS.items() if advice in {a for a, _ in table.OTHERS.values()}]


@pytest.mark.parametrize("function", ELSEWHERE, ids=lambda f: f.__name__)
def test_a_function_that_is_not_about_numbers_says_what_to_write(function):
    saving, two = ("savetxt", "save", "savez", "savez_compressed"), ("may_share_memory", "shares_memory")
    first = {**dict.fromkeys(saving, ("x", V)), **dict.fromkeys(two, (V, V))}
    required = [p for p in inspect.signature(function).parameters.values()
                if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]  # fmt: skip
    with pytest.raises(UnsupportedError, match=re.escape(REFUSALS[function])):
        function(*first.get(function.__name__, (V,) * max(len(required), 1)))


def test_attributes_and_methods_that_are_refused():
    found = [e for e in table.supported() if e.name.startswith("ndarray.") and e.status == table.REFUSED]
    assert len(found) == len(table.REFUSED_ATTRIBUTES) + len(table.REFUSED_IN_PLACE) + len(table.REFUSED_METHODS)
    for entry in found:
        name = entry.name.removeprefix("ndarray.")
        if name in table.REFUSED_ATTRIBUTES:
            assert not hasattr(V, name)
            with pytest.raises(UnsupportedAttributeError, match=re.escape(entry.note)):
                getattr(V, name)
            continue
        with pytest.raises((InPlaceError, UnsupportedError), match=re.escape(entry.note)) as caught:
            getattr(V, name)(0)
        assert f"v.{name}" in str(caught.value)
        assert isinstance(caught.value, InPlaceError) == (name in table.REFUSED_IN_PLACE)


def test_ufunc_at_is_refused():
    a = np.zeros(3)
    for call in (lambda: np.add.at(a, [0], V[0]), lambda: np.add.at(V, [0], 1.0)):
        with pytest.raises(InPlaceError, match="np.bincount"):
            call()
    with pytest.raises(InPlaceError, match="np.where"):
        np.multiply.at(V, [0], 1.0)


# Lines that NumPy asks nobody about: the very line to write is read from the source

a, b = Value(1.0), Value(2.0)
values = [a, b]


def rewritten(call):
    with pytest.raises((CutGradientError, UnsupportedError)) as caught:
        call()
    return re.findall(r"write (.*?); ", str(caught.value) + "; ")[0]


def test_the_line_to_write_in_place_of_an_array_of_values():
    assert rewritten(lambda: np.array([a, b, 1.0])) == "np.stack([a, b, 1.0])"
    assert rewritten(lambda: np.array([V[0] * 2, V[1]], dtype=float)) == "np.stack([V[0] * 2, V[1]])"
    assert rewritten(lambda: np.array([[a, b], [b, a]])) == "tg.stack([[a, b], [b, a]])"
    assert rewritten(lambda: np.array([x * x for x in values])) == "np.stack([x * x for x in values])"
    assert rewritten(lambda: np.asarray(values)) == "np.stack(values)"
    assert rewritten(lambda: np.sum([a, b])) == "np.sum(np.stack([a, b]))"
    assert rewritten(lambda: np.max(values, axis=0)) == "np.max(np.stack(values), axis=0)"
    assert rewritten(lambda: np.dot([1.0, 2.0], np.array([a, b]))) == "np.stack([a, b])"
    assert rewritten(lambda: np.asarray(V)).startswith("V itself")
    assert rewritten(lambda: np.full(3, a)) == "np.broadcast_to(a, 3)"
    assert rewritten(lambda: np.full((2, 3), V)) == "np.broadcast_to(V, (2, 3))"
    assert rewritten(lambda: np.full(3, a, float)) == "np.broadcast_to(a, 3)"
    assert rewritten(lambda: np.full_like(np.ones(2), a)) == "np.broadcast_to(a, np.shape(np.ones(2)))"
    assert rewritten(lambda: np.r_[V, 1.0, V]) == "np.hstack([V, 1.0, V])"
    assert rewritten(lambda: np.c_[V, V]) == "np.column_stack([V, V])"
    assert rewritten(lambda: np.add.reduce([a, b], axis=0)) == "np.add.reduce(np.stack([a, b]), axis=0)"
    assert rewritten(lambda: np.convolve([1.0, 2.0], [a, b])) == "np.convolve([1.0, 2.0], np.stack([a, b]))"
    assert rewritten(lambda: np.reshape([a, b], (2, 1))) == "np.reshape(np.stack([a, b]), (2, 1))"
    assert rewritten(lambda: np.sin([a, b])) == "np.sin(np.stack([a, b]))"
    assert rewritten(lambda: np.linalg.norm([a, b], axis=0)) == "np.linalg.norm(np.stack([a, b]), axis=0)"
    # This one would not take what np.stack makes, either.
    assert rewritten(lambda: np.polynomial.polynomial.polyval(1.0, [a, b])).startswith("v.item()")
    assert rewritten(lambda: np.eye(3).dot(V)) == "np.dot(np.eye(3), V)"


def test_what_the_advice_says_works():
    assert np.stack([a, b, 1.0]).tolist() == [1.0, 2.0, 1.0] and tg.stack([[a, b], [b, a]]).shape == (2, 2)
    assert np.sum(np.stack([a, b])) == 3.0 and np.broadcast_to(a, 3).tolist() == [1.0] * 3
    assert np.broadcast_to(V, (2, 3)).shape == (2, 3) and np.hstack([V, 1.0, V]).shape == (7,)
    assert np.column_stack([V, V]).shape == (3, 2) and np.dot(np.eye(3), V).tolist() == V.tolist()


UNASKED = {
    "arange": lambda: np.arange(V[0]), "asarray_chkfinite": lambda: np.asarray_chkfinite(V),
    "asmatrix": lambda: np.asmatrix(V), "matrix": lambda: np.matrix(V), "bmat": lambda: np.bmat([[V]]),
    "kaiser": lambda: np.kaiser(5, a), "mgrid": lambda: np.mgrid[0:a], "ogrid": lambda: np.ogrid[0:a],
    "poly1d": lambda: np.poly1d([a, b]), "vectorize": lambda: np.vectorize(lambda x: x * x)(V),
    "lib.stride_tricks.as_strided": lambda: np.lib.stride_tricks.as_strided(V, (2,), (8,)),
    "frompyfunc": lambda: np.frompyfunc(lambda x: x * x, 1, 1)(V), "r_": lambda: np.r_[V], "c_": lambda: np.c_[V],
    "require": lambda: np.require(V), "fromiter": lambda: np.fromiter([a, b], float), "full": lambda: np.full(2, a),
    **{name: lambda name=name: getattr(np, name)(V) for name in (
        "array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray")},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", table.UNASKED)
def test_what_numpy_asks_nobody_about_is_refused(name):
    with pytest.raises((CutGradientError, UnsupportedError, ValueError)) as caught:
        UNASKED[name]()
    # np.fromiter puts an error of its own on top.
    error = caught.value if isinstance(caught.value, TapegradError) else caught.value.__cause__
    assert isinstance(error, TapegradError)
    assert "write" in str(error) or "compute it of" in str(error)


def test_with_like_an_array_of_values_can_be_made():
    assert np.array([a, b], like=V).tolist() == [1.0, 2.0]
    assert np.asarray([[a, b]], like=a).shape == (1, 2)
    assert np.full((2, 2), a, like=V).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert type(np.zeros(3, like=V)) is np.ndarray


# Arguments, shapes and indices


def test_keywords_that_are_refused_say_what_to_write():
    for call, match in (
        (lambda: np.sum(V, out=Value(0.0)), "use the result"),
        (lambda: np.add(V, V, out=V), "use the result"),
        (lambda: np.add(V, V, where=[True, False, True]), "np.where"),
        (lambda: np.sin(V, dtype=np.float32), "one dtype"),
        (lambda: np.cumsum(V, dtype=np.float32), "one dtype"),
        (lambda: np.quantile(V, 0.5, weights=V), "np.interp"),
        (lambda: np.pad(V, 1, "empty"), "np.concatenate"),
        (lambda: np.pad(V, 1, "reflect", reflect_type="odd"), "2.0 \\* edge"),
        (lambda: np.unique(M, axis=0), "return_index"),
        (lambda: np.polyfit(V, [1.0, 2.0, 3.0], 1), "np.linalg.solve"),
        (lambda: np.cross([1.0, 2.0], Value([1.0, 2.0])), "x\\[..., 0\\]"),
    ):
        with pytest.raises(UnsupportedError, match=match):
            call()
    assert np.sum(V, dtype=float) == 4.5 and np.mean(V, dtype=np.float64) == 1.5


SHAPES = [(0,), (0, 3), (3, 0), (), (2, 2, 2), (1,), (1, 1)]
# NumPy raises, or gives a shape that does not follow from its rules, where there is an answer that does.
LENIENT = {"quantile", "interp", "nancumsum", "nanquantile", "polyder", "polyint"}


@pytest.mark.parametrize("i", range(len(CALLS)), ids=[f"{call[0]}{i}" for i, call in enumerate(CALLS)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_other_shapes_give_what_numpy_gives_or_raise(i):
    name, f, *arrays = CALLS[i]
    for k, shape in [(k, shape) for k in range(len(arrays)) for shape in SHAPES]:
        given = [np.asarray(x) for x in arrays]
        given[k] = np.asarray(np.random.default_rng(1).normal(size=shape) + 0.1)
        try:
            found = parts(f(*map(Value, given)))
        except (TapegradError, ValueError, TypeError, IndexError, ZeroDivisionError):
            continue
        if name in LENIENT:
            continue
        expected = parts(f(*given))
        assert [x.shape for x in found] == [x.shape for x in expected], (k, shape)
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-10, atol=1e-12)


def test_errors_name_the_function():
    for call, error, name in (
        (lambda: np.insert(M, 1, V, axis=3), ShapeError, "insert"),
        (lambda: np.cumprod(M, axis=2), ShapeError, "multiply.accumulate|cumprod"),
        (lambda: np.gradient(V, axis=1), ShapeError, "gradient"),
        (lambda: np.interp(V, V, M), ShapeError, "interp"),
        (lambda: np.convolve(V, M), ShapeError, "convolve"),
        (lambda: np.hsplit(V, 2), ShapeError, "split"),
        (lambda: np.vsplit(V, 1), ShapeError, "vsplit"),
        (lambda: np.rot90(V), ShapeError, "rot90"),
        (lambda: np.fliplr(V), ShapeError, "fliplr"),
        (lambda: np.block([[V], V]), ShapeError, "block"),
        (lambda: np.cov(Value(np.ones((2, 2, 2)))), ShapeError, "cov"),
        (lambda: np.average(V, weights=M), ShapeError, "average"),
        (lambda: np.bincount([0, 1], weights=V), ShapeError, "bincount"),
        (lambda: np.bincount([0.5, 1.0, 1.0], weights=V), IntegerInputError, "bincount"),
        (lambda: np.searchsorted(M, V), ShapeError, "searchsorted"),
        (lambda: np.lib.stride_tricks.sliding_window_view(V, 4), ShapeError, "sliding_window_view"),
        (lambda: np.choose(V, [V, V]), IntegerInputError, "choose"),
        (lambda: np.quantile(Value(np.zeros((0, 2))), 0.5), ShapeError, "quantile"),
    ):
        with pytest.raises(error, match=name):
            call()


def test_the_readme_names_the_table():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "docs/numpy.md" in readme
