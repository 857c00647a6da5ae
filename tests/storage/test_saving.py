"""Recordings in files: what they compute here, in a process without their source, and in C; what cannot be saved."""

import collections
import copy
import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import programs_to_save as programs
import pytest
from checks import rounding

import tapegrad as tg
from tapegrad import errors, pytree
from tapegrad.ops import TABLE, Elementwise, Structured

NAMES = ["branching", "scalars", "gradient of scalars", "arrays", "gradient of arrays", "network",
         "gradient of a network", "recurrent", "gradient of a recurrent layer", "normalised", "gradient of normalised",
         "convolutions", "gradient of convolutions", "matrices", "gradient of matrices", "special", "loop",
         "gradient of a loop", "views", "long rows", "stencil"]  # fmt: skip
SCALAR = [name for name in NAMES if name not in ("views", "branching", "gradient of a loop")]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def recordings():
    found = programs.named()
    assert list(found) == NAMES
    return found


@pytest.fixture
def kept(recordings, tmp_path):
    """Of a name, the recording, the same loaded from a file, and arguments."""

    def keep(name):
        recording, args = recordings[name]
        recording.save(tmp_path / "saved.tape")
        return recording, tg.load(tmp_path / "saved.tape", classes=programs.CLASSES), args

    return keep


def again(recording, tmp_path, **how):
    recording.save(tmp_path / "again.tape")
    return tg.load(tmp_path / "again.tape", **how)


def same(found, expected):
    leaves, structure = pytree.flatten(found)
    others, like = pytree.flatten(expected)
    assert structure == like
    for x, y in zip(leaves, others, strict=True):
        assert type(x) is type(y) and getattr(x, "dtype", None) == getattr(y, "dtype", None)
        if isinstance(y, str):
            assert x == y
        else:
            np.testing.assert_allclose(x, y, rtol=16 * rounding(), atol=rounding())


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_same(name, kept):
    recording, loaded, args = kept(name)
    same(loaded(*args), recording(*args))
    assert (loaded.name, len(loaded), loaded.spec) == (recording.name, len(recording), recording.spec)
    assert loaded.stats().operations == recording.stats().operations
    assert repr(loaded) == repr(recording)


@pytest.mark.parametrize("name", [name for name in SCALAR if not name.startswith("gradient")])
def test_derivatives_are_the_same(name, kept):
    recording, loaded, args = kept(name)
    same(loaded.value_and_grad(*args), recording.value_and_grad(*args))
    same(loaded.vjp(*args)[1](0.5), recording.vjp(*args)[1](0.5))
    floats = pytree.unflatten(*reversed([
        [None if np.asarray(x).dtype.kind != "f" else np.asarray(x) * 0.5 for x in pytree.flatten(args)[0]],
        pytree.flatten(args)[1],
    ]))  # fmt: skip
    same(loaded.jvp(args, floats), recording.jvp(args, floats))
    same(loaded.linearize(*args)[1](*floats), recording.linearize(*args)[1](*floats))
    first = (floats[:1], 0) if len(args) > 1 else (floats, None)
    same(loaded.hvp(args, *first), recording.hvp(args, *first))


@pytest.mark.parametrize("name", ["scalars", "stencil", "gradient of arrays", "loop"])
def test_matrices_and_compiled_code(name, kept):
    recording, loaded, args = kept(name)
    same(loaded.jacobian(*args), recording.jacobian(*args))
    if name == "stencil":
        same(loaded.hessian(*args), recording.hessian(*args))
        found, expected = loaded.hessian(*args, sparse=True), recording.hessian(*args, sparse=True)
        assert (found != expected).nnz == 0 and found.nnz == expected.nnz
    compiled = pickle.loads(pickle.dumps(loaded)).compile()
    np.testing.assert_allclose(compiled(*args), recording(*args), rtol=1e-13)
    assert compiled.stats().runs[0].how == "compiled"


def test_branches(kept):
    recording, loaded, ((x, n, kind),) = *kept("branching")[:2], (kept("branching")[2],)
    for sign in (1.0, -1.0):
        args = {"w": [sign * x["w"][0] * 0.5]}, n + 2, kind
        same(loaded(*args), recording(*args))
    with pytest.raises(errors.ShapeError, match="'steep', called with 'flat'"):
        loaded(x, n, "flat")


def test_a_branch_that_is_not_there(tmp_path):
    def f(x):
        return x * x if x < 1.0 else 2.0 * x

    recording = tg.record(f, 0.5)
    loaded = again(recording, tmp_path)
    assert loaded(0.25) == 0.0625 and loaded.grad(0.25) == 0.5
    for call in (loaded, loaded.grad, loaded.hessian, tg.grad(loaded), lambda x: loaded(tg.Value(x))):
        with pytest.raises(errors.BranchError, match=r"test_saving\.py:\d+, where the truth of a comparison"):
            call(3.0)
    recording(3.0)
    loaded = again(recording, tmp_path)
    assert (loaded(3.0), loaded.grad(3.0), loaded(0.5), len(loaded.programs)) == (6.0, 2.0, 0.25, 2)


@pytest.mark.parametrize("name", ["arrays", "branching", "views", "loop", "matrices"])
def test_loaded_recordings_take_values_and_stand_in_other_functions(name, kept):
    recording, loaded, args = kept(name)

    def total(f):
        def weighted(*args):
            found = [x for x in pytree.flatten(f(*args))[0] if np.ndim(x) or isinstance(x, float | tg.Value)]
            return sum(np.sum(x * x) for x in found if not isinstance(x, str) and np.size(x))

        return weighted

    same(tg.grad(total(loaded))(*args), tg.grad(total(recording))(*args))
    values = pytree.unflatten(*reversed([
        [tg.Value(x) if isinstance(x, np.ndarray | float) else x for x in pytree.flatten(args)[0]],
        pytree.flatten(args)[1],
    ]))  # fmt: skip
    y = total(loaded)(*values)
    y.backward()
    expected = tg.value_and_grad(total(recording))(*args)
    first = pytree.flatten(values[0])[0][0]
    np.testing.assert_allclose(y.data, expected[0], rtol=1e-14)
    np.testing.assert_allclose(first.grad, pytree.flatten(expected[1])[0][0], rtol=1e-13)


def test_values_that_do_not_fit(kept):
    loaded = kept("arrays")[1]
    with pytest.raises(errors.ShapeError, match="recorded with a float64 array"):
        loaded(tg.Value(np.ones((2, 3))), tg.Value(np.ones(3)))
    with pytest.raises(errors.ShapeError, match="2 arguments, called with 1"):
        loaded(tg.Value(np.ones((3, 3))))


def test_in_a_process_without_the_source(kept, tmp_path):
    recording, _, args = kept("network")
    np.savez(tmp_path / "args.npz", *[np.asarray(x) for x in pytree.flatten(args)[0]])
    program = """
import sys
import numpy as np
import tapegrad as tg
loaded = tg.load(sys.argv[1])
with np.load(sys.argv[2]) as given:
    w, b, x, labels = (given[name] for name in given.files)
kind = tg.pytree.kind(tg.pytree.children(loaded.spec.structure)[0])
model = kind(w, b)
value, gradient = loaded.value_and_grad(model, x, labels)
print(kind.__name__, value, gradient.w.tolist(), gradient.b.tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "saved.tape", tmp_path / "args.npz"], cwd=tmp_path,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    value, gradient = recording.value_and_grad(*args)
    assert done.stdout.strip() == f"Layer {value} {gradient.w.tolist()} {gradient.b.tolist()}", done.stderr


def test_all_kinds_of_arguments_and_results(tmp_path):
    f = lambda a, b: {"x": (a["p"][0] * b, [2.5, None]), 7: True, (1, "k"): np.int16(3), "z": np.arange(3) * 1.0}
    args = {"p": (0.5, None, b"raw", 10**30, np.float32(2.0)), 3: [True, "t"]}, np.ones((2, 0, 3))
    recording = tg.record(f, *args)
    loaded = again(recording, tmp_path)
    assert loaded.spec == recording.spec
    found, expected = loaded(*args), recording(*args)
    assert list(found) == list(expected) and found["x"][1] == [2.5, None] and type(found[1, "k"]) is np.int16
    assert found["x"][0].shape == (2, 0, 3)


def test_integers_and_truth_values(tmp_path):
    recording = tg.record(lambda x, n, flags: (np.sum(np.where(flags, x, 0.0)) ** n, n * 2, x > 0.5), np.ones(3), 3,
                          np.array([True, False, True]))  # fmt: skip
    loaded = again(recording, tmp_path)
    for args in ((np.array([0.1, 0.7, 0.2]), 5, np.array([False, True, True])),):
        same(loaded(*args), recording(*args))
    assert type(loaded(np.ones(3), 4, np.ones(3, bool))[1]) is int


def test_saved_again_and_copied(kept, tmp_path):
    _, loaded, args = kept("branching")
    first = (tmp_path / "saved.tape").read_bytes()
    loaded.save(tmp_path / "other.tape")
    assert (tmp_path / "other.tape").read_bytes() == first
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        same(other(*args), loaded(*args))
        other.save(tmp_path / "other.tape")
        assert len(tg.load(tmp_path / "other.tape", classes=programs.CLASSES).programs) == 2


def test_operations_of_users_are_found_by_name(tmp_path):
    declare = """
from tapegrad.ops import unary
bump_to_save = unary("bump_to_save", "z = x^3 e^-x", value=lambda x: x**3 * np.exp(-x),
                     partials=lambda x, z: 3.0 * x * x * np.exp(-x) - z)
"""
    (tmp_path / "declaring_bumps.py").write_text("import numpy as np\n" + declare)
    program = """
import sys
import numpy as np
import tapegrad as tg
if sys.argv[2] == "save":
    import declaring_bumps
    tg.record(lambda x: np.sum(declaring_bumps.bump_to_save(x)), np.ones(3)).save(sys.argv[1])
else:
    if sys.argv[2] == "declared":
        import declaring_bumps
    print(tg.load(sys.argv[1]).grad(np.array([1.0, 2.0, 3.0])).tolist())
"""
    (tmp_path / "main.py").write_text(program)

    def run(what):
        return subprocess.run(
            [sys.executable, "main.py", "saved.tape", what], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    assert run("save").returncode == 0
    x = np.array([1.0, 2.0, 3.0])
    expected = 3.0 * x * x * np.exp(-x) - x**3 * np.exp(-x)
    np.testing.assert_allclose(eval(run("declared").stdout), expected, rtol=1e-15)
    assert "it uses bump_to_save: declare the operation here, too" in run("not declared").stderr


def unknown_kernel(side, k, v):
    return True


def unknown_reverse(side, k, v, g):
    pass


def test_what_cannot_be_saved(tmp_path):
    black = tg.external(np.sin, lambda w, y, x: w * np.cos(x))
    with pytest.raises(errors.UnsupportedError, match="<lambda> cannot be saved: it calls the Python function sin"):
        tg.record(lambda x: black(x), 1.0).save(tmp_path / "f")
    with pytest.raises(errors.UnsupportedError, match="Python function halved"):
        tg.record(tg.checkpoint(halved), 1.0).save(tmp_path / "f")
    with pytest.raises(errors.StructureError, match="an argument was the function <function halved"):
        tg.record(lambda f, x: f(x), halved, 1.0).save(tmp_path / "f")
    with pytest.raises(errors.StructureError, match="a Linear cannot be saved"):
        from tapegrad.nn import Linear

        tg.record(lambda m, x: np.sum(m(x)), Linear(2, 2), np.ones((3, 2))).save(tmp_path / "f")
    with pytest.raises(errors.StructureError, match="a result that depends on no argument: a object"):
        tg.record(lambda x: (x, object()), 1.0).save(tmp_path / "f")
    assert not list(tmp_path.iterdir())


def halved(x):
    return 0.5 * x


def test_loops_without_their_function(kept):
    _, loaded, args = kept("loop")
    with pytest.raises(errors.UnsupportedError, match="all steps of a loop"):
        loaded.jacobian(*args, sparse=True)
    with pytest.raises(errors.UnsupportedError, match="all steps of a loop"):
        loaded.certificate(*args)


def test_certificates_listings_and_patterns(kept):
    recording, loaded, args = kept("arrays")
    assert loaded.certificate(*args) == recording.certificate(*args)
    assert loaded.sparsity(*args).count == recording.sparsity(*args).count
    same(loaded.grad(*args), recording.grad(*args))
    strip = lambda text: text.replace(" ", "")
    assert strip(tg.listing(loaded)) == strip(tg.listing(recording))


def test_labels_go_along(tmp_path):
    def f(x):
        y = np.sin(x)
        y.label = "height"
        return y * y

    assert "height" in tg.listing(again(tg.record(f, 1.0), tmp_path))


def test_classes(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Pair:
        left: object
        right: object

    recording = tg.record(lambda p: Pair(p.right * p.left, p.left), Pair(2.0, 3.0))
    loaded = again(recording, tmp_path, classes=[Pair])
    assert loaded(Pair(2.0, 4.0)) == Pair(8.0, 2.0)
    found = again(recording, tmp_path)
    kind = pytree.kind(pytree.children(found.spec.structure)[0])
    assert kind is not Pair and kind.__name__ == "Pair"
    assert found(kind(2.0, 4.0)).left == 8.0
    assert pytree.kind(pytree.children(again(recording, tmp_path).spec.structure)[0]) is kind
    with pytest.raises(errors.OperationError, match="classes must be a list of classes"):
        again(recording, tmp_path, classes=["Pair"])


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no compiler of C")
def test_a_reader_in_c(tmp_path):
    reader = tmp_path / "read_tape"
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-std=c11", HERE / "read_tape.c", "-o", reader, "-lm"]
    subprocess.run(command, check=True, timeout=100)
    assert len((HERE / "read_tape.c").read_text().splitlines()) <= 100

    def branching(x, y):
        z = np.sin(x[:, None] * y) / (1.0 + np.exp(-x[::-1, None]))
        return (np.sum(z, 0), np.sum(z[:, ::2])) if y[0] > 0.0 else y

    x, y = np.linspace(0.1, 0.9, 4), np.linspace(0.2, 1.5, 3)
    for f, args in ((branching, (x, y)), (tg.grad(lambda y: np.sin(y) * np.exp(y) / y), (0.7,))):
        recording = tg.record(f, *args)
        recording.save(tmp_path / "saved.tape")
        given = [repr(float(z)) for arg in args for z in np.ravel(0.5 * arg)]
        done = subprocess.run([reader, tmp_path / "saved.tape", *given], capture_output=True, text=True, check=False)
        # It prints the first number of each output.
        expected = [np.ravel(z)[0] for z in pytree.flatten(recording(*(0.5 * arg for arg in args)))[0]]
        np.testing.assert_allclose([float(z) for z in done.stdout.split()], expected, rtol=1e-14)
    given = [repr(float(z)) for z in [*x, *-y]]
    tg.record(branching, x, y).save(tmp_path / "saved.tape")
    done = subprocess.run([reader, tmp_path / "saved.tape", *given], capture_output=True, text=True, check=False)
    assert done.returncode and "another branch" in done.stderr


def test_the_format_names_all_operations():
    text = (HERE.parents[1] / "docs" / "tape-format.md").read_text(encoding="utf-8")
    for row in TABLE:
        own = row.name.startswith("special_") or not row.__class__.__module__.startswith("tapegrad")
        if isinstance(row, Elementwise) and not own and row.value.__module__.startswith("tapegrad"):
            assert f"| `{row.name}` | {row.formula.replace('|', chr(92) + '|')} |" in text, row.name
        elif isinstance(row, Structured) and row.forward.__module__.startswith("tapegrad"):
            assert f"`{row.name}`" in text and row.accepts is not None, row.name


def test_a_class_that_load_was_not_given_is_told_from_the_one_it_made(tmp_path):
    pair = collections.namedtuple("pair", "a b")
    tg.record(lambda q: q.a * q.b, pair(1.0, 2.0)).save(tmp_path / "saved.tape")
    with pytest.raises(errors.ShapeError, match=r"another class of that name; .*tg.load\(path, classes=\[pair\]\)"):
        tg.load(tmp_path / "saved.tape")(pair(1.0, 2.0))
    assert tg.load(tmp_path / "saved.tape", classes=[pair])(pair(3.0, 2.0)) == 6.0


def test_a_path_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    recording = tg.record(lambda x: x * x, 1.0)
    for write, name in ((recording.save, "x.tape"), (recording.to_c, "x.c")):
        missing, folder = tmp_path / "missing" / name, tmp_path / name
        folder.mkdir()
        for path, kind in ((missing, FileNotFoundError), (folder, IsADirectoryError)):
            with pytest.raises(kind) as error:
                write(str(path))
            assert error.value.filename == str(path) and ".tmp" not in str(error.value)


def test_what_load_takes_is_said(tmp_path):
    tg.record(lambda x: x * x, 1.0).save(tmp_path / "x.tape")
    for classes in (dict, 3, [3]):
        with pytest.raises(errors.OperationError, match=r"must be a list of classes, as in classes=\[Q\], not"):
            tg.load(tmp_path / "x.tape", classes=classes)
    for path in ((tmp_path / "x.tape").read_bytes(), 3):
        with pytest.raises(errors.OperationError, match="load takes the path of a file, not"):
            tg.load(path)


def test_bytes_in_place_of_a_file(tmp_path):
    from tapegrad.recording import from_bytes

    recording = tg.record(lambda p, x: np.sum(np.sin(p["w"] * x)), {"w": 2.0}, np.ones(3))
    recording.save(tmp_path / "a.tape")
    data = recording.to_bytes()
    assert data == (tmp_path / "a.tape").read_bytes()
    x = np.linspace(0.0, 1.0, 3)
    assert from_bytes(data, "bytes").value_and_grad({"w": 3.0}, x) == recording.value_and_grad({"w": 3.0}, x)
    with pytest.raises(errors.DataError, match="^what was sent: .*cut off"):
        from_bytes(data[:15], "what was sent")
