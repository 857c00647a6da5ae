"""The ambient tape: memory stays flat, handles stay right, edits and stale handles are noticed, threads are apart."""

import gc
import os
import sys
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import InPlaceError, StaleValueError, TapeMismatchError, ThreadError
from tapegrad.tape import current_tape


def in_thread(f):
    """The result of f in another thread, or its exception, raised here."""
    result = []

    def run():
        try:
            result.append((f(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = result[0]
    if error is not None:
        raise error
    return value


# Memory


def test_a_loop_of_new_scalar_expressions_keeps_memory_flat():
    w, target = Value(0.5, label="w"), Value(2.0)
    sizes = []
    for step in range(10_000):
        loss = target * 0.0
        for _ in range(8):
            loss = loss + (w * 1.5 - target).tanh() ** 2 + w.sin() * 0.1
        if step % 10 == 0:
            loss.backward()
            w.data -= 1e-4 * w.grad
            w.zero_grad()
        sizes.append(len(current_tape().values))
    assert max(sizes) <= 1_000_000
    assert w.label == "w"


def test_a_loop_that_never_looks_keeps_memory_flat():
    a = Value(1.5)
    sizes = []
    for step in range(300_000):
        loss = a * a
        if step % 10_000 == 9_999:
            sizes.append(len(current_tape().values))
    assert loss.item() == 2.25
    assert max(sizes) <= 1_000_000


def test_a_loop_of_arrays_keeps_memory_flat(rng):
    w = Value(rng.normal(size=(50, 20)))
    sizes = []
    for _ in range(1500):
        loss = np.tanh(w @ rng.normal(size=(20, 10))).sum()
        loss.backward()
        w.zero_grad()
        sizes.append(len(current_tape().values))
    assert max(sizes) <= 1_000_000


def churn(n=140_000):
    """Record and drop so much that the tape forgets what nobody refers to."""
    a = Value(1.0)
    for _ in range(n):
        a * a
    gc.collect()
    current_tape().collect()


def test_handles_kept_across_collections_keep_values_and_gradients():
    x = Value(np.arange(6.0).reshape(2, 3), label="x")
    kept = [x, x.T, x[::-1, 1:], x[1, 2]]
    y = np.sin(x) * 2.0
    z = y.sum()
    z.backward()
    values = [np.array(v.data) for v in [*kept, y, z]]
    grads = [np.array(v.grad) for v in [*kept, y, z]]
    middle = Value(7.0, label="middle")
    for _ in range(3):
        churn()
        for v, value, grad in zip([*kept, y, z], values, grads):
            np.testing.assert_array_equal(v.data, value)
            np.testing.assert_array_equal(v.grad, grad)
    assert x.label == "x" and middle.label == "middle" and middle.item() == 7.0
    z.backward()
    np.testing.assert_array_equal(x.grad, 2 * grads[0])
    late = (x * kept[1].T + middle).sum()
    late.backward()
    np.testing.assert_allclose(x.grad, 2 * grads[0] + 2 * x.numpy(), rtol=1e-15)


def test_what_a_kept_value_depends_on_is_kept():
    def build():
        a, b = Value(2.0), Value([1.0, 2.0, 3.0])
        unused = [Value(float(i)) for i in range(5000)]
        return a, (a * b).cumsum()[1] ** 2, len(unused)

    a, y, _ = build()
    churn()
    y.backward()
    assert y.item() == 36.0 and a.grad == 36.0


def test_values_from_every_part_of_a_long_run_stay_right(rng):
    kept, expected = [], []
    a = Value(1.0)
    for i in range(120_000):
        b = a * float(i)
        if i % 997 == 0:
            kept.append(b)
            expected.append(float(i))
        if i % 1500 == 0:
            kept.append(Value(np.full(3, float(i))) * a)
            expected.append([float(i)] * 3)
    churn()
    for v, e in zip(kept, expected):
        assert v.tolist() == e
    total = sum(v.sum() for v in kept)
    total.backward()
    assert a.grad == sum(np.sum(e) for e in expected)


@pytest.mark.parametrize("operand", [Value, float], ids=["values", "constants"])
def test_operands_survive_a_collection_in_the_middle_of_an_operation(operand):
    # Each constant was last used thousands of instructions ago, so that nothing but the running operation needs it.
    a = Value(np.ones(3))
    b = Value(1.0)
    for i in range(150_000):
        c = operand(float(i % 5003))
        if i % 2:
            np.multiply(b, c)
        else:
            a * c
    assert (a * operand(77.0)).tolist() == [77.0] * 3


def test_leaves_that_are_views_survive():
    rows = [Value(np.full((2, 2000), float(i)))[1, ::500] for i in range(100)]
    churn()
    assert [r.tolist() for r in rows] == [[float(i)] * 4 for i in range(100)]


# In-place edits


def test_an_edit_that_would_break_a_gradient_raises():
    a = Value(3.0, label="a")
    b = a * a
    a.data = 4.0
    with pytest.raises(InPlaceError, match="'a'.*multiply"):
        b.backward()
    assert b.item() == 9.0
    c = a * a
    c.backward()
    assert c.item() == 16.0 and a.grad == 8.0


def test_an_edit_after_backward_is_fine():
    a = Value(3.0)
    for expected in (6.0, 12.0):
        (a * a).backward()
        assert a.grad == expected
        a.data *= 2
        a.zero_grad()


def test_an_edit_of_another_leaf_is_fine():
    a, b = Value(3.0), Value(4.0)
    c = a * a
    b.data = 5.0
    c.backward()
    assert a.grad == 6.0


def test_edits_of_parts_are_noticed():
    x = Value([1.0, 2.0, 3.0])
    y = x[0] * x[1]
    x[2].data = 9.0
    y.backward()
    assert x.grad.tolist() == [2.0, 1.0, 0.0]
    z = (x * x).sum()
    x[1].data = 0.0
    with pytest.raises(InPlaceError):
        z.backward()


def test_a_later_small_edit_does_not_hide_an_earlier_large_one():
    x = Value([1.0, 2.0, 3.0])
    z = x[1] * x[1]
    x.data = [5.0, 5.0, 5.0]
    x[0].data = 1.0
    with pytest.raises(InPlaceError):
        z.backward()
    y = Value([1.0, 2.0, 3.0])
    z = y[1] * y[1]
    y.data = [5.0, 5.0, 5.0]
    w = y[0] * 2.0
    y.data = [6.0, 6.0, 6.0]
    with pytest.raises(InPlaceError):
        z.backward()
    with pytest.raises(InPlaceError):
        w.backward()


def test_edits_are_remembered_across_collections():
    x = Value(2.0)
    y = x * x
    x.data = 5.0
    churn()
    with pytest.raises(InPlaceError):
        y.backward()


def test_data_of_a_result_cannot_be_assigned():
    a = Value(3.0)
    with pytest.raises(InPlaceError, match="multiply"):
        (a * a).data = 1.0
    with pytest.raises(InPlaceError, match="sin"):
        np.sin(Value([1.0, 2.0])).data = [0.0, 0.0]


# Stale handles


def test_a_handle_past_a_rewind_is_stale():
    tape = current_tape()
    a = Value(2.0)
    a.item()
    length = len(tape)
    b = a * 3.0
    x = Value(np.ones(4))
    assert b.item() == 6.0
    tape.rewind(length)
    for use in (
        lambda: b.item(),
        lambda: b.grad,
        lambda: b.backward(),
        lambda: b.data,
        lambda: x.sum().item(),
        lambda: repr(x),
    ):
        with pytest.raises(StaleValueError):
            use()
    assert (a * 3.0).item() == 6.0


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(
    "use",
    [
        lambda a: a + 1.0,
        lambda a: 2.0 * a,
        lambda a: a.sin(),
        lambda a: a * a,
        lambda a: np.exp(a),
        lambda a: Value(1.0) * a,
    ],
)
def test_using_a_stale_handle_raises_and_loses_nothing(use, keep):
    tape = current_tape()
    kept = Value(5.0)
    kept.item()
    a = Value(1.0)
    other = Value([1.0, 2.0])
    tape.rewind(keep)
    for stale in (a, other):
        with pytest.raises(StaleValueError):
            use(stale).tolist()
    b = Value(2.0)
    c = b * 3.0
    c.backward()
    assert c.item() == 6.0 and b.grad == 3.0
    if keep:
        assert kept.item() == 5.0


def test_rewinding_to_nowhere():
    tape = current_tape()
    Value(1.0)
    for length in (-1, 10**6):
        with pytest.raises(ValueError):
            tape.rewind(length)
    assert Value(2.0).item() == 2.0


def test_new_values_do_not_revive_stale_handles():
    tape = current_tape()
    a = Value(1.0)
    tape.rewind(0)
    for i in range(100):
        Value(float(i)).item()
    with pytest.raises(StaleValueError):
        a.item()


# Threads


def test_each_thread_has_a_tape_of_its_own():
    mine = current_tape()

    def other():
        a = Value(2.0)
        (a * a).backward()
        return current_tape(), a.grad

    theirs, grad = in_thread(other)
    assert theirs is not mine and grad == 4.0


def test_many_threads_record_at_once():
    results = [None] * 6

    def work(i):
        x = Value(np.full(3, float(i)))
        for _ in range(200):
            y = (x * x).sum()
        y.backward()
        results[i] = x.grad.tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [[2.0 * i] * 3 for i in range(6)]


@pytest.mark.parametrize(
    "use",
    [
        lambda v: v * 2.0, lambda v: 2.0 + v, lambda v: v * v, lambda v: v.sin(), lambda v: np.exp(v),
        lambda v: v * np.ones(3),
        lambda v: v.backward(), lambda v: setattr(v, "data", 1.0), lambda v: Value(1.0) * v, lambda v: v * Value(1.0),
        lambda v: tg.stack([Value(1.0), v]), lambda v: tg.stack([v, v]), lambda v: np.sum(v),
    ],
)  # fmt: skip
def test_a_value_of_another_thread_is_refused(use):
    v = Value(3.0)
    v.item()
    with pytest.raises((ThreadError, TapeMismatchError), match="thread"):
        in_thread(lambda: repr(use(v)))
    w = v * v
    w.backward()
    assert w.item() == 9.0 and v.grad == 6.0


def test_values_of_two_dtypes_are_refused():
    a, b = Value(1.0), Value(np.float32(1.0))
    with pytest.raises(tg.errors.DTypeError, match="float64.*float32|float32.*float64"):
        a * b
    assert (a * 2.0).item() == 2.0 and (b * 2.0).item() == 2.0


def test_a_loop_of_detached_steps_keeps_memory_flat():
    """Also where nobody looks, and the kind of what was detached is known afterwards."""
    for start in (np.full(1000, 0.5), 0.5):
        h, sizes = Value(start), []
        chosen = Value(np.arange(3), requires_grad=False).detach()
        for _ in range(40_000 if np.ndim(start) == 0 else 2000):
            h = np.tanh(h * 1.1).detach()
            sizes.append(len(current_tape().values))
        assert max(sizes) <= 200_000
        number = 0.5
        for _ in range(len(sizes)):
            number = np.tanh(number * 1.1)
        np.testing.assert_allclose(h.data, number, rtol=1e-12)
        assert Value([4.0, 5.0, 6.0])[chosen].data.tolist() == [4.0, 5.0, 6.0]


def test_a_loop_of_calls_keeps_few_of_them():
    matrix = Value(2.0 * np.eye(50))
    step = tg.checkpoint(lambda x: np.sin(x) @ x)
    for _ in range(200):
        np.linalg.inv(matrix).data, step(matrix).data
        assert len(current_tape().calls) <= 20


class Interrupted(BaseException):
    pass


def training(seed, steps=30):
    """Numbers of a loop that makes, keeps and forgets instructions of all kinds."""
    rng = np.random.default_rng(seed)
    w, s, found = Value(rng.normal(size=20)), Value(0.3), []
    for i in range(steps):
        a = rng.normal(size=(6, 20))
        loss = np.sum(np.tanh(a @ w) * s) + np.sum(w[::2] * w[1::2])
        for j in range(8):
            loss = loss + s * 0.5 * j + (s * w[j]).sin()
        loss.backward()
        found += [loss.data, *w.grad, s.grad]
        w.zero_grad()
        w.data -= 1e-3 * a[0]
        if i % 10 == 9:
            current_tape().collect()
    return found


@pytest.mark.parametrize("error", [Interrupted, MemoryError])
def test_a_tape_that_is_interrupted_anywhere_is_whole(error):
    """At the calls in what writes and tidies tapes, for there interrupts come: what is computed after is right."""
    expected = training(1)
    files = tuple(f"tape{os.sep}{name}.py" for name in ("writing", "collect", "addresses", "tape"))
    left = 0

    def profile(frame, event, arg):
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(files):
            left -= 1
            if left == 0:
                raise error

    before, interrupted = sys.getprofile(), 0
    for after in range(1, 6000, 37):
        left = after
        older = Value(np.arange(4.0))
        current_tape().evaluate()
        sys.setprofile(profile)
        try:
            training(2)
        except error:
            interrupted += 1
        finally:
            sys.setprofile(before)
        assert older.data.tolist() == [0.0, 1.0, 2.0, 3.0]
        assert training(1) == expected
    assert interrupted > 50
