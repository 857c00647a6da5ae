"""Nesting: what is taken apart is put together again as the caller's own containers, and the order of keys counts."""

import collections
import dataclasses
import functools
import threading
import typing

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, pytree
from tapegrad.errors import ShapeError, StructureError
from tapegrad.optimize import minimize

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Model:
    w: typing.Any
    b: typing.Any = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Refusing:
    x: float
    twice: float = dataclasses.field(init=False)

    def __post_init__(self):
        raise ValueError("only made around __init__")


def refusing(x, twice):
    made = object.__new__(Refusing)
    object.__setattr__(made, "x", x)
    object.__setattr__(made, "twice", twice)
    return made


@pytest.mark.parametrize(
    ("nested", "leaves"),
    [
        (1.0, [1.0]),
        (None, []),
        ((), []),
        ([1.0, (2.0, [3.0], None)], [1.0, 2.0, 3.0]),
        ({"w": 1.0, "b": {"z": 2.0, "a": 3.0}}, [1.0, 2.0, 3.0]),
        ({2: 1.0, "b": 2.0, None: 3.0, (1, "x"): 4.0}, [1.0, 2.0, 3.0, 4.0]),
        (collections.OrderedDict(z=1.0, a=2.0), [1.0, 2.0]),
        (Point(1.0, [2.0]), [1.0, 2.0]),
        (Model([1.0, 2.0], {"x": 3.0}), [1.0, 2.0, 3.0]),
        (refusing(1.0, 2.0), [1.0, 2.0]),
        ([Model(Model(1.0, 2.0), refusing(3.0, 4.0))], [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_there_and_back(nested, leaves):
    found, structure = pytree.flatten(nested)
    assert found == leaves and pytree.count(structure) == len(leaves)
    back = pytree.unflatten(structure, [10.0 * x for x in leaves])
    again, other = pytree.flatten(back)
    assert again == [10.0 * x for x in leaves] and other == structure and hash(other) == hash(structure)
    same = pytree.unflatten(structure, leaves)
    assert same == nested and type(same) is type(nested)
    if isinstance(nested, dict):
        assert list(back) == list(nested)


def test_what_is_told_apart():
    different = [
        1.0, None, (1.0,), [1.0], (1.0, 2.0), ((1.0, 2.0),), {"a": 1.0}, {"b": 1.0}, {"a": 1.0, "b": 2.0},
        {"b": 1.0, "a": 2.0}, collections.OrderedDict(a=1.0), Point(1.0, 2.0), Model(1.0, 2.0), refusing(1.0, 2.0),
        (1.0, None), (None, 1.0),
    ]  # fmt: skip
    assert len({pytree.flatten(x)[1] for x in different}) == len(different)


def test_names_and_paths():
    nested = {"w": [1.0, Point(2.0, 3.0)], 7: Model(4.0, (5.0,)), "none": None}
    structure = pytree.flatten(nested)[1]
    paths = pytree.paths(structure, "x")
    assert paths == ["x['w'][0]", "x['w'][1].x", "x['w'][1].y", "x[7].w", "x[7].b[0]"]
    assert [eval(path, {"x": nested}) for path in paths] == pytree.flatten(nested)[0]
    assert pytree.kind(structure) is dict and pytree.names(structure) == ["w", 7, "none"]
    assert [pytree.count(c) for c in pytree.children(structure)] == [3, 2, 0]
    assert pytree.names(pytree.children(structure)[1]) == ["w", "b"]


def test_a_function_that_goes_through_a_dict_in_its_order():
    """The same keys in another order are another call: a replay of the first would compute something else."""

    def horner(p):
        return functools.reduce(lambda total, x: 2.0 * total + x, p.values())

    value_and_grad = tg.value_and_grad(horner)
    for p in ({"a": 1.0, "b": 5.0}, {"b": 5.0, "a": 1.0}, {"a": 3.0, "b": 4.0}):
        value, gradient = value_and_grad(p)
        assert value == horner(p)
        assert gradient == dict(zip(p, [2.0, 1.0])) and list(gradient) == list(p)


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_gradients_come_in_containers_of_the_callers_kind(kind):
    p = kind(w=np.array([1.0, 2.0]), b=3.0)
    found = tg.grad(lambda p: np.sum(p["w"] ** 2) * p["b"])(p)
    assert type(found) is kind and list(found) == ["w", "b"]
    assert found["w"].tolist() == [6.0, 12.0] and found["b"] == 5.0


def test_the_same_keys_in_another_order_fit():
    """Where two things need to be nested alike, the order of keys is no difference."""
    f = tg.record(lambda p: p["x"] * p["y"], {"x": 1.0, "y": 1.0})
    assert f.jvp(({"x": 2.0, "y": 3.0},), ({"y": 0.0, "x": 1.0},)) == (6.0, 3.0)

    def chosen(x):
        return tg.cond(x > 0.0, lambda x: {"a": x, "b": 2.0 * x}, lambda x: {"b": 3.0 * x, "a": 4.0 * x}, x)

    found = tg.jacobian(chosen)(-1.0)
    assert found == {"a": 4.0, "b": 3.0} and list(found) == ["a", "b"]

    carry, ys = tg.scan(
        lambda c, x: ({"n": c["n"] + 1, "s": c["s"] + x}, {"u": x, "v": c["n"]} if c["n"] else {"v": c["n"], "u": x}),
        {"s": 0.0, "n": 0},
        np.array([1.0, 2.0, 4.0]),
    )
    assert carry == {"n": 3, "s": 7.0} and ys["u"].tolist() == [1.0, 2.0, 4.0] and ys["v"].tolist() == [0, 1, 2]

    result = minimize(
        lambda p: (p["a"] - 1.0) ** 2 + (p["b"] + 2.0) ** 2,
        {"a": 0.0, "b": 0.0},
        bounds={"b": (-1.0, 5.0), "a": (-9.0, 9.0)},
        method="L-BFGS-B",
    )
    assert np.allclose([result.x["a"], result.x["b"]], [1.0, -1.0])


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1.0}, {"a": 1.0, "c": (2.0, 3.0)}, {"a": 1.0, "b": (2.0,)}, {"a": 1.0, "b": [2.0, 3.0]}, 1.0, None,
        [1.0, (2.0, 3.0)], {"a": (1.0,), "b": (2.0, 3.0)}, {"a": None, "b": (2.0, 3.0)},
        {"a": Model(1.0), "b": (2.0, 3.0)},
    ],
)  # fmt: skip
def test_what_is_nested_otherwise_does_not_fit(other):
    structure = pytree.flatten({"a": 1.0, "b": (2.0, 3.0)})[1]
    assert pytree.leaves_as(structure, {"b": (5.0, 6.0), "a": 4.0}) == [4.0, 5.0, 6.0]
    with pytest.raises(StructureError):
        pytree.leaves_as(structure, other)


def test_a_recording_tells_nested_arguments_from_flat_ones():
    f = tg.record(lambda nothing, pair: pair[0] - pair[1], None, (1.0, 2.0))
    assert f(None, (5.0, 3.0)) == 2.0
    with pytest.raises(ShapeError, match="argument 0: recorded as a NoneType of 0, called with a number"):
        f(5.0, 3.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"w": 1.0, "c": 2.0}, r"keys \['a', 'w'\], called without the keys \['a'\] and with the other keys \['c'\]"),
        ({"a": 1.0, "w": (2.0, (3.0,))}, r"argument 0\['w'\]\[1\]: recorded as a list of 1, called with a tuple of 1"),
        ({"w": (2.0, [3.0, 4.0]), "a": 1.0}, r"0\['w'\]\[1\]: recorded as a list of 1, called with a list of 2"),
    ],
)
def test_what_differs_between_nested_arguments_is_named(given, said):
    recording = tg.record(lambda p: p["a"] * p["w"][0] * p["w"][1][0], {"a": 2.0, "w": (1.0, [3.0])})
    with pytest.raises(ShapeError, match=said):
        recording.grad(given)


def test_keys_in_another_order_are_said():
    """A function may go through a dict in its order, so a replay is not the same."""
    ordered = tg.record(lambda p: next(iter(p.values())) ** 2, {"a": 2.0, "b": 3.0})
    with pytest.raises(ShapeError, match=r"recorded with the keys in the order \['a', 'b'\], called with \['b', 'a'\]"):
        ordered.grad({"b": 4.0, "a": 2.0})


def test_a_gradient_that_is_a_module_is_a_direction():
    model = nn.Linear(2, 1)
    x = np.array([[1.0, 2.0]])

    def loss(model):
        return np.sum(model(x) ** 2)

    gradient = tg.grad(loss)(model)
    _, slope = tg.jvp(loss, (model,), (gradient,))
    square = sum(np.sum(g**2) for g in pytree.flatten(gradient)[0])
    assert np.isclose(slope, square)
    assert pytree.paths(pytree.flatten(model)[1], "m") == ["m.weight", "m.bias"]


def test_a_dataclass_that_lacks_a_field():
    unfinished = object.__new__(Model)
    unfinished.b = 1.0
    with pytest.raises(StructureError, match="a Model lacks a field: .*'w'"):
        pytree.flatten([unfinished])


def test_a_dataclass_that_cannot_be_put_together():
    @dataclasses.dataclass
    class Fixed:
        x: float

    Fixed.x = property(lambda self: 1.0)
    leaves, structure = pytree.flatten(object.__new__(Fixed))
    assert leaves == [1.0]
    with pytest.raises(StructureError, match="cannot set field 'x' of a Fixed"):
        pytree.unflatten(structure, leaves)


def test_too_few_and_too_many_leaves():
    structure = pytree.flatten((1.0, [2.0]))[1]
    for leaves in ([1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match="leaves"):
            pytree.unflatten(structure, leaves)


def test_classes_are_registered_once():
    class Box:
        def __init__(self, x):
            self.x = x

    assert pytree.flatten(Box(1.0))[1] == pytree.flatten(1.0)[1]  # a leaf, until it is registered
    pytree.register(Box, lambda b: ((b.x,), None, ("x",)), lambda _, parts: Box(*parts))
    leaves, structure = pytree.flatten([Box((1.0, 2.0))])
    assert leaves == [1.0, 2.0] and pytree.unflatten(structure, [3.0, 4.0])[0].x == (3.0, 4.0)
    with pytest.raises(ValueError, match="already registered"):
        pytree.register(Box, lambda b: ((b.x,), None, ("x",)), lambda _, parts: Box(*parts))


def test_threads_that_meet_a_dataclass_together():
    for _ in range(30):
        kind = dataclasses.make_dataclass("New", ["x", "y"])
        barrier, found = threading.Barrier(4), []

        def meet(kind=kind, barrier=barrier, found=found):
            barrier.wait()
            found.append(pytree.flatten([kind(1.0, kind(2.0, 3.0))]))

        threads = [threading.Thread(target=meet) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert [leaves for leaves, _ in found] == [[1.0, 2.0, 3.0]] * 4
        assert len({structure for _, structure in found}) == 1
