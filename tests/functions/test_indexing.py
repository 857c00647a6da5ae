"""Gathering by index arrays, joining, choosing; and views, which never appear on the tape."""

import numpy as np
import pytest
from checks import check

import tapegrad as tg
from tapegrad import errors
from tapegrad.errors import IntegerInputError, ShapeError

MASK = np.array([[True, False, True, False], [False, False, True, True], [True, True, True, False]])
INDICES = {
    "list": [2, 0, 0],
    "array": np.array([1, 1, 2]),
    "negative": np.array([-1, -3, 0]),
    "matrix": np.array([[0, 1], [2, 2]]),
    "uint8": np.array([0, 2], np.uint8),
    "rows and columns": (np.array([0, 2, 2]), np.array([3, 0, 0])),
    "rows and one column": (np.array([0, 2]), 1),
    "broadcast": (np.array([[0], [2]]), np.array([3, 1])),
    "slice and array": (slice(None, None, -1), np.array([3, 0, 0])),
    "array and slice": (np.array([2, 0]), slice(1, None, 2)),
    "array and new axis": (np.array([2, 0]), None),
    "ellipsis": (Ellipsis, [0, -1]),
    "mask": MASK,
    "mask of rows": np.array([True, False, True]),
    "mask of columns": (slice(None), np.array([True, False, False, True])),
    "no rows": np.zeros(3, bool),
    "empty list": [],
}


@pytest.mark.parametrize("name", INDICES)
def test_index_arrays(name, rng):
    index = INDICES[name]
    check(lambda x: x[index], rng.normal(size=(3, 4)), rng=rng)
    check(lambda x: x.T[::-1].T[::-1][index], rng.normal(size=(3, 4)), rng=rng)


def test_index_arrays_in_three_dimensions(rng):
    x = rng.normal(size=(3, 4, 5))
    i, j = np.array([0, 2, 1]), np.array([4, 4, 0])
    for index in (i, (i, i), (i, slice(None), j), (slice(None), i, j), (i[:, None], i, j), (0, i), (Ellipsis, j, None)):
        check(lambda x, index=index: x[index], x, rng=rng)


def test_index_arrays_in_float32(rng):
    check(lambda x: x[[2, 0, 2]], rng.normal(size=(3, 4)), dtype=np.float32, rng=rng)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_take_and_repeat(axis, rng):
    x = rng.normal(size=(3, 4))
    check(lambda x: np.take(x, [2, 0, -1], axis=axis), x)
    check(lambda x: np.take(x, [[2, 0], [1, 1]], axis=axis), x)
    check(lambda x: np.take(x, 1, axis=axis), x)
    check(lambda x: np.repeat(x, 2, axis=axis), x)
    check(lambda x: np.repeat(x.T, 3, axis=axis), x)


def test_take_along_axis_and_sort(rng):
    x = rng.permutation(np.arange(12.0)).reshape(3, 4)
    order = np.argsort(x, 1)
    check(lambda x: np.take_along_axis(x, order, 1), x)
    for axis in (0, 1, -1, None):
        check(lambda x, axis=axis: np.sort(x, axis=axis), x)
    assert np.argmax(tg.Value(x), 1).tolist() == np.argmax(x, 1).tolist()
    assert np.argsort(tg.Value(x)).tolist() == np.argsort(x).tolist()


def test_comparisons_pick_elements(rng):
    x = rng.normal(size=(3, 4))
    check(lambda x: x[x > 0], x)
    check(lambda x: x[(x > 0) & ~(x > 1)], x)
    check(lambda x: x[x[:, 0] > 0], x)
    check(lambda x: x[:, 1:][x[:, 1:] < 0], x)


def test_flags_stay_flags_in_views_and_copies():
    a = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
    x = tg.Value(a)
    flags, expected = x > 0, a > 0
    assert x[1][flags[1]].tolist() == a[1][expected[1]].tolist()
    assert x.T[flags.T].tolist() == a.T[expected.T].tolist()
    assert x.T.reshape(-1)[flags.T.reshape(-1)].tolist() == a.T.reshape(-1)[expected.T.reshape(-1)].tolist()
    joined = np.concatenate([flags[0], flags[1]])
    assert x.reshape(-1)[joined].tolist() == a.reshape(-1)[np.concatenate([expected[0], expected[1]])].tolist()
    assert x[flags.copy()].tolist() == a[expected].tolist()


def test_index_values_that_were_given_as_integers(rng):
    x = rng.normal(size=(3, 4))
    index = tg.Value([2, 0, -1], requires_grad=False)
    check(lambda x: x[index], x, reference=lambda x: x[[2, 0, -1]])
    check(lambda x: x[np.arange(3), index], x, reference=lambda x: x[np.arange(3), [2, 0, -1]])
    check(lambda x: x.T[index], x, reference=lambda x: x.T[[2, 0, -1]])


# Joining and choosing


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_concatenate(axis, rng):
    x, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    check(lambda x, y: np.concatenate([x, y, x], axis=axis), x, y)
    check(lambda x, y: np.concatenate((x.T, y[:, ::-1].T), axis=axis), x, y)
    check(lambda x: np.concatenate([np.ones((3, 4)), x], axis=axis), x)


def test_concatenate_of_different_lengths(rng):
    check(lambda x, y, z: np.concatenate([x, y, z]), rng.normal(size=3), np.zeros(0), rng.normal(size=1))
    check(lambda x, y: np.concatenate([x, y], 1), rng.normal(size=(2, 3)), rng.normal(size=(2, 1)))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_stack(axis, rng):
    x, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    check(lambda x, y: np.stack([x, y], axis=axis), x, y)


def test_stacks_of_rows_and_columns(rng):
    x, y = rng.normal(size=3), rng.normal(size=3)
    for f in (np.vstack, np.hstack, np.column_stack):
        check(lambda x, y, f=f: f([x, y]), x, y)
        check(lambda x, y, f=f: f([x, y]), np.outer(x, y), np.outer(y, y))
    a, b = tg.Value(1.0), tg.Value(2.0)
    s = tg.stack([[a, 3.0], [b, a]])
    assert s.tolist() == [[1.0, 3.0], [2.0, 1.0]]
    s.sum().backward()
    assert (a.grad, b.grad) == (2.0, 1.0)


@pytest.mark.parametrize("width", [2, (1, 0), ((1, 2), (0, 3)), ((2, 1),)], ids=str)
def test_pad(width, rng):
    check(lambda x: np.pad(x, width), rng.normal(size=(3, 4)))
    check(lambda x: np.pad(x, width, constant_values=-2.5), rng.normal(size=(3, 4)))


def test_tile_roll_diff_flip_split(rng):
    x = rng.normal(size=(3, 4))
    for reps in (2, (2,), (2, 3), (2, 1, 2), (1, 1)):
        check(lambda x, reps=reps: np.tile(x, reps), x)
    for shift, axis in ((1, None), (-2, 0), (5, 1), ((1, -1), (0, 1)), (2, (0, -1)), ((1, 2), 1), ((1, 2), None)):
        check(lambda x, s=shift, a=axis: np.roll(x, s, a), x)
    for n, axis in ((1, -1), (2, 0), (1, 0)):
        check(lambda x, n=n, a=axis: np.diff(x, n, a), x)
    for axis in (None, 0, 1, (0, 1)):
        check(lambda x, a=axis: np.flip(x, a), x)
    for parts, axis in ((2, 1), ([1], 0), ([1, 3], 1), (1, 0)):
        check(lambda x, p=parts, a=axis: np.split(x, p, a)[0] * 2, x)
        check(lambda x, p=parts, a=axis: np.split(x, p, a)[-1] * 2, x)
    with pytest.raises(ValueError):
        np.split(tg.Value(x), 3, axis=1)
    assert [p.shape for p in np.array_split(tg.Value(x), 3, axis=1)] == [(3, 2), (3, 1), (3, 1)]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: np.roll(x, 1.5), IntegerInputError, r"a shift must be an integer.*not 1\.5"),
        (lambda x: np.roll(x, [[1, 2]], 0), IntegerInputError, "a sequence of integers"),
        (lambda x: np.roll(x, (1, 2), (0, 1, 0)), ShapeError, "2 shifts do not go with 3 axes"),
        (lambda x: np.roll(x, 1, 2), ShapeError, "roll"),
        (lambda x: np.take(x, [0.5], 0), IntegerInputError, "take: indices must be integers, not float64"),
        (lambda x: np.broadcast_to(x[0, 0], -1), ShapeError, r"not negative, not \(-1,\)"),
        (lambda x: np.broadcast_to(x[0, 0], (2, True)), ShapeError, r"integers.*not \(2, True\)"),
    ],
)
def test_what_must_be_whole_numbers_is_refused_where_it_is_given(call, error, text):
    with pytest.raises(error, match=text):
        call(tg.Value(np.ones((3, 4))))


def test_diagonals_and_triangles(rng):
    x = rng.normal(size=(3, 4))
    for k in (-2, -1, 0, 1, 3):
        check(lambda x, k=k: np.diagonal(x, k), x)
        check(lambda x, k=k: np.diag(x, k), x)
        check(lambda x, k=k: np.diag(x[0], k), x)
        check(lambda x, k=k: np.tril(x, k), x)
        check(lambda x, k=k: np.triu(x, k), x)
    check(lambda x: np.diagonal(x, 1, 2, 0), rng.normal(size=(3, 4, 5)))


def test_where_and_clip(rng):
    x, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 1))
    check(lambda x, y: np.where(MASK, x, y), x, y)
    check(lambda x, y: np.where(x > y, x * y, 2.0), x, y)
    check(lambda x, y: np.where(MASK[0], 1.0, x), x, y)
    check(lambda x: np.clip(x, -0.5, 0.7), x)
    check(lambda x: np.clip(x, -0.5, None), x)
    check(lambda x: np.clip(x, None, 0.7), x)
    check(lambda x: x.clip(min=-0.5, max=0.25), x)
    check(lambda x, y: np.clip(x, y, y + 1), x, y)


def test_clip_with_nan_bounds():
    x = np.array([0.5, -1.0, np.nan])
    for bounds in ((np.nan, 1.0), (0.0, np.nan), (0.0, 1.0)):
        np.testing.assert_array_equal(np.clip(tg.Value(x), *bounds).data, np.clip(x, *bounds))


def test_rounding_has_zero_gradient(rng):
    x = tg.Value(rng.normal(size=5) * 10)
    for f in (np.floor, np.ceil, np.trunc, np.rint, np.round, lambda x: np.round(x, 1), lambda x: x // 1.0):
        y = f(x)
        np.testing.assert_array_equal(y.data, f(x.numpy()))
        (y.sum() + x.sum() * 0.0).backward()
        assert x.grad.tolist() == [0.0] * 5


# Views

VIEWS = {
    "reshape": lambda x: x.reshape(4, 6),
    "reshape back": lambda x: x.reshape(-1).reshape(2, -1, 4),
    "np.reshape": lambda x: np.reshape(x, (6, 4)),
    "ravel": lambda x: np.ravel(x),
    "transpose": lambda x: x.T,
    "np.transpose": lambda x: np.transpose(x, (1, 2, 0)),
    "swapaxes": lambda x: np.swapaxes(x, 0, -1),
    "moveaxis": lambda x: np.moveaxis(x, 0, 1),
    "slice": lambda x: x[1:, ::2, 1:3],
    "negative step": lambda x: x[::-1, ::-2, 3:0:-1],
    "empty slice": lambda x: x[:, 2:1],
    "element": lambda x: x[1, 2, 3],
    "negative element": lambda x: x[-1, -2, -3],
    "row": lambda x: x[1],
    "column": lambda x: x[..., 2],
    "new axis": lambda x: x[:, None, ..., None],
    "broadcast": lambda x: np.broadcast_to(x, (5, 2, 3, 4)),
    "broadcast column": lambda x: np.broadcast_to(x[:, :1], (2, 3, 4)),
    "expand_dims": lambda x: np.expand_dims(x, (0, -1)),
    "squeeze": lambda x: np.squeeze(x[:1]),
    "flip": lambda x: np.flip(x, (0, 2)),
    "diagonal": lambda x: np.diagonal(x, 0, 1, 2),
    "split": lambda x: np.split(x, 2, axis=2)[1],
    "reshape of a transposed view": lambda x: x.transpose(2, 0, 1).reshape(4, 6),
    "reshape of every other row": lambda x: x[:, ::-1].reshape(2, 3, 2, 2),
    "unpacked": lambda x: list(x)[1],
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_never_appear_on_the_tape(name, rng):
    array = rng.normal(size=(2, 3, 4))
    x = tg.Value(array)
    tape = tg.current_tape()
    before = len(tape)
    seen = VIEWS[name](x)
    assert len(tape) == before
    np.testing.assert_array_equal(seen.data, VIEWS[name](array))
    assert seen.shape == np.shape(VIEWS[name](array))
    assert len(tape) == before
    if seen.size:
        check(lambda x: np.sin(VIEWS[name](x)) * 2, array, rng=rng)


def test_reshape_copies_only_where_it_must():
    array = np.arange(6.0).reshape(2, 3)
    x = tg.Value(array)
    before = len(tg.current_tape())
    y = x.T.reshape(-1)
    assert len(tg.current_tape()) == before + 1
    assert y.tolist() == array.T.reshape(-1).tolist()
    check(lambda x: x.T.reshape(2, 3) * 2, array)


def test_integer_arrays_that_are_arguments_index_beside_slices():
    rng = np.random.default_rng(3)
    a, t = rng.normal(size=(4, 5)), rng.normal(size=(3, 4, 5))
    y, z = np.array([1, 4, 0, 2]), np.array([2, 0, 3, 3])
    for f, x in (
        (lambda x, y, z: x[:, y], a), (lambda x, y, z: x[z, y], a), (lambda x, y, z: x[np.arange(4), y], a),
        (lambda x, y, z: x[1, y], a), (lambda x, y, z: x[1:3, y], a), (lambda x, y, z: x[..., y], t),
        (lambda x, y, z: x[:, z, y], t), (lambda x, y, z: x[1, :, y], t), (lambda x, y, z: x[:2, z, 1:], t),
        (lambda x, y, z: x[:2, None, z], t), (lambda x, y, z: x[[0, 2, 1, 1], :, y], t),
        (lambda x, y, z: x[::-1, z][..., y], t),
        (lambda x, y, z: x[np.array([True, False, True, False]), y[:2]], a),
    ):  # fmt: skip
        recording = tg.record(f, x, y, z)
        for yy, zz in ((y, z), (y[::-1], z[::-1]), (np.array([-1, -5, 3, 3]), np.array([-1, 0, -4, 1]))):
            np.testing.assert_array_equal(recording(x, yy, zz), f(x, yy, zz))
            weight = rng.normal(size=np.shape(f(x, yy, zz)))
            expected = np.zeros(x.shape)
            np.add.at(expected.reshape(-1), f(np.arange(x.size).reshape(x.shape), yy, zz), weight)
            gradient = tg.grad(lambda x, y, z, f=f, w=weight: np.sum(f(x, y, z) * w))(x, yy, zz)
            np.testing.assert_allclose(gradient, expected, rtol=1e-13)
        assert recording.stats().branches == 1
    with pytest.raises(errors.IndexRangeError):
        tg.record(lambda x, y: x[:, y], a, y)(a, y + 4)
    with pytest.raises(IndexError):
        tg.record(lambda x, y: x[:, :, y], a, y)


def test_sums_by_integers_that_are_arguments():
    w, y = np.array([1.0, -2.0, 0.5, 3.0]), np.array([1, 0, 1, 2])
    recording = tg.record(lambda w, y: np.bincount(y, weights=w, minlength=4), w, y)
    for yy in (y, y[::-1], np.array([3, 3, 3, 0])):
        np.testing.assert_array_equal(recording(w, yy), np.bincount(yy, weights=w, minlength=4))
    assert recording.stats().branches == 1
    np.testing.assert_array_equal(recording(w, y + 3), np.bincount(y + 3, weights=w, minlength=4))
    with pytest.raises(ValueError, match="negative"):
        recording(w, y - 1)
    gradient = tg.grad(lambda w, y: np.sum(np.bincount(y, weights=w) ** 2))
    for yy in (y, y + 1, y[::-1]):
        np.testing.assert_allclose(gradient(w, yy), 2.0 * np.bincount(yy, weights=w)[yy])


def test_a_choice_by_integers_that_are_arguments():
    x, y = np.arange(6.0).reshape(2, 3), np.array([1, 0, 2])
    choices = lambda x: [x[0], x[1] * 2.0, x[0] * x[1]]
    recording = tg.record(lambda x, y: np.choose(y, choices(x)), x, y)
    for yy in (y, y[::-1], np.array([2, 2, 0])):
        np.testing.assert_array_equal(recording(x, yy), np.choose(yy, choices(x)))
    assert recording.stats().branches == 1
    for yy in (y + 1, y - 1):
        with pytest.raises(errors.IndexRangeError):
            recording(x, yy)
    for mode in ("wrap", "clip"):
        recording = tg.record(lambda x, y, m=mode: np.choose(y, choices(x), mode=m), x, y)
        for yy in (y, y + 4, y - 5):
            np.testing.assert_array_equal(recording(x, yy), np.choose(yy, choices(x), mode=mode))


def test_masks_of_values_are_guards():
    def f(x):
        chosen = x[x > 0.0]
        return np.sum(chosen**2) + np.sum(x[np.where(x < -1.0)])

    gradient = tg.grad(f)
    for x in (np.array([1.0, -2.0, 3.0]), np.array([2.0, -3.0, 1.0]), np.array([-2.0, -0.5, 3.0]), np.zeros(3)):
        expected = np.where(x > 0.0, 2.0 * x, np.where(x < -1.0, 1.0, 0.0))
        np.testing.assert_array_equal(gradient(x), expected)


def test_whole_numbers_of_values_index():
    table = np.array([1.0, 4.0, 9.0, 16.0, 25.0])

    def between(x, t):
        i = np.floor(x).astype(int)
        return np.sum(t[i] + (x - i) * (t[i + 1] - t[i]))

    slope = tg.grad(between, argnums=(0, 1))
    for x in (np.array([0.5, 2.25]), np.array([3.5, 0.0]), np.array([0.75, 2.5])):
        by_x, by_t = slope(x, table)
        i = np.floor(x).astype(int)
        np.testing.assert_allclose(by_x, table[i + 1] - table[i])
        weights = np.zeros(5)
        np.add.at(weights, i, 1.0 - (x - i))
        np.add.at(weights, i + 1, x - i)
        np.testing.assert_allclose(by_t, weights)


def test_tuples_and_ranges_are_index_arrays():
    x = np.arange(12.0).reshape(3, 4)
    for index in [((0, 1, 0), (3, 3, 2)), (slice(None), (0, 1)), range(2), (range(3), 1), ((0, 2), ..., None)]:
        np.testing.assert_array_equal(tg.record(lambda x, i=index: x[i], 0.0 * x)(x), x[index])
    with pytest.raises(errors.UnsupportedError, match="indexed by float"):
        tg.Value(x)[1.0]
