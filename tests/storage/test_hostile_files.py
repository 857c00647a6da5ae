"""Files that are damaged, cut off or made to do harm: each is refused with an error that says what is wrong."""

import json
import struct

import fuzz_load
import numpy as np
import programs_to_save as programs
import pytest

import tapegrad as tg
from tapegrad import errors
from tapegrad.functions.products import affine
from tapegrad.ops import BY_NAME, structured
from tapegrad.storage.container import Section, packed, unpacked

OPCODE, OUT, A, B, C = range(5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    at = tmp_path_factory.mktemp("files") / "saved.tape"
    found = {}
    for name, (recording, _) in programs.named().items():
        recording.save(at)
        found[name] = at.read_bytes()
    return found


@pytest.fixture
def refused(tmp_path):
    """Load bytes and return what is said of them."""

    def load(data, kind=errors.DataError, **how):
        (tmp_path / "hostile.tape").write_bytes(data)
        with pytest.raises(kind) as caught:
            tg.load(tmp_path / "hostile.tape", **how)
        assert str(tmp_path / "hostile.tape") in str(caught.value)
        return str(caught.value)

    return load


def edited(data, kind, change, number=0):
    """A file in which one section was changed in place, with a right checksum."""
    sections = [Section(s.kind, s.number, s.data.copy()) for s in unpacked(data)]
    chosen = next(s for s in sections if (s.kind, s.number) == (kind, number))
    made = change(chosen.data.reshape(-1, 5) if kind == "ROWS" else chosen.data)
    if made is not None:
        sections = [s._replace(data=made) if s is chosen else s for s in sections]
    return packed(sections)


def described(data, change):
    """A file whose description was changed."""

    def both(raw):
        tree = json.loads(raw.tobytes().decode())
        change(tree)
        return np.frombuffer(json.dumps(tree).encode(), np.uint8)

    return edited(data, "META", both)


def set_to(at, value):
    def change(numbers):
        numbers[at] = value

    return change


def test_the_container(files, refused, tmp_path):
    data = files["arrays"]
    assert "no file that a recording was saved in" in refused(b"")
    assert "no file that a recording was saved in" in refused(b"\x93NUMPY" + data[6:])
    assert "cut off within its header" in refused(data[:20])
    assert f"it has {len(data)} bytes, and has {len(data) - 1}" in refused(data[:-1])
    assert "version 2 of the format" in refused(data[:8] + struct.pack("<I", 2) + data[12:])
    for at in (24, 40, 100, len(data) // 2, len(data) - 1):
        assert "checksum" in refused(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    assert "table of" in refused(fuzz_load.with_checksum(data[:24] + struct.pack("<I", 2**32 - 1) + data[28:]))
    assert "goes on after its last section" in refused(fuzz_load.with_checksum(data + bytes(64)))
    entry = 32 + 32 * 3
    for at, value in ((16, struct.pack("<Q", 2**63)), (24, struct.pack("<Q", 2**62)), (16, struct.pack("<Q", 64))):
        moved = data[: entry + at] + value + data[entry + at + 8 :]
        assert "is not where it must be" in refused(fuzz_load.with_checksum(moved))
    assert "of an unknown kind" in refused(fuzz_load.with_checksum(data[: entry + 8] + b"\x09" + data[entry + 9 :]))
    with pytest.raises(FileNotFoundError):
        tg.load(tmp_path / "missing.tape")


INSTRUCTIONS = [
    ("scalars", lambda r: r.__setitem__((-1, A), 2**32 - 1), "reads a number that is not computed before it"),
    ("scalars", lambda r: r.__setitem__((-1, A), r[-1, OUT]), "reads a number that is not computed before it"),
    ("scalars", lambda r: r.__setitem__((-1, OUT), 2**31), "do not follow each other"),
    ("scalars", lambda r: r.__setitem__((-1, OPCODE), 3000), "an operation without a name"),
    ("scalars", lambda r: r.__setitem__((-1, OPCODE), 0), "the operation .* leaf, which cannot stand there"),
    ("scalars", lambda r: r.__setitem__((-1, OPCODE), 65536), "leaf, which cannot stand there"),
    ("scalars", lambda r: r.__setitem__((-1, OPCODE), 65537), "expect, which cannot stand there"),
    ("scalars", lambda r: r.__setitem__((0, B), 2**32 - 1), "inputs of"),
    ("scalars", lambda r: r.__setitem__((2, B), 2**32 - 1), "numbers for constants of"),
    ("scalars", lambda r: r.__setitem__((2, A), 2), "a leaf has an operand"),
    ("branching", lambda r: r.__setitem__((r[:, OPCODE] == 1, B), 0), "a guard compares with what is no constant"),
    ("stencil", lambda r: r.__setitem__((-1, A), 2**32 - 1), "no record of its own"),
    ("stencil", lambda r: r.__setitem__((-1, A), 1), "no record of its own"),
    ("stencil", lambda r: r.__setitem__((-1, B), 1000), "numbers, of which|no record of its own"),
]


@pytest.mark.parametrize(("name", "change", "message"), INSTRUCTIONS)
def test_instructions(name, change, message, files, refused):
    import re

    assert re.search(message, said := refused(edited(files[name], "ROWS", change))), said


def test_records_and_parameters(files, refused):
    # The first record of the stencil is one of an elementwise run: kind, length, out, count, operands, ...
    data = files["stencil"]
    first = next(s.data for s in unpacked(data) if s.kind == "SIDE")
    operands = int(first[4])
    params = 5 + 3 * operands
    for at, value, message in (
        (0, 1, "cannot have the parameters"), (0, 7, "cannot have the parameters"), (1, 2**40, "no record"),
        (1, 0, "no record"), (2, 0, "no record"), (3, 1, "no record"), (4, 99, "no record"), (4, -1, "no record"),
        (5, 2**40, "reaches places"), (5, -3, "reaches places"), (6, -(2**62), "reaches places"),
        (7, 2**62, "reaches places"), (params, 2**40, "cannot have the parameters"),
        (params + 1, 2**62, "as large as"), (params + 1, 2**33, "makes"), (params + 1, -1, "makes"),
        (params + 2, 1, "strides of its mode"),
        (params + 2, 9, "strides of its mode"), (params + 3, 2**40, "said to reach"),
        (params + 3, -(2**63), "as large as"),
    ):  # fmt: skip
        said = refused(edited(data, "SIDE", set_to(at, value)))
        assert message in said, (at, value, said)
    # Of two records that are alike but for their kind the second is looked at too.
    assert "cannot have the parameters" in refused(edited(data, "SIDE", set_to(29, 1))), "a square, as the first"
    assert "cannot have the parameters" in refused(edited(data, "SIDE", set_to(58, 1)))
    assert "records end at" in refused(edited(data, "SIDE", lambda x: np.append(x, 0)))
    assert "the side array at 3" in refused(edited(files["scalars"], "SIDE", lambda x: np.zeros(3, np.int64)))


def single(name, f, *args, tmp_path):
    """The file of a function, and the position of the parameters in the record of its first instruction of a name."""
    tg.record(f, *args).save(tmp_path / "single.tape")
    data = (tmp_path / "single.tape").read_bytes()
    sections = {s.kind: s.data for s in unpacked(data)}
    rows = sections["ROWS"].reshape(-1, 5)
    names = sections["OPER"].tobytes().decode().split("\n")
    k = int(rows[rows[:, OPCODE] == names.index(name) + 65536][0, A])
    return data, k + 5 + 3 * int(sections["SIDE"][k + 4])


X, V, I = np.arange(1.0, 13.0).reshape(3, 4), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 2])
STRUCTURED = {
    "sum": (lambda x: np.sum(x, 0), (X,), {0: -1, 1: 2**62, 2: 0, 3: 2**61, 4: 5, 5: -1, 6: 2}),
    "max": (lambda x: np.max(x, 1), (X,), {0: 2, 1: 0, 4: -(2**62), 6: 0}),
    "cumsum": (lambda x: np.cumsum(x, 1), (X,), {0: 2**40, 1: 3, 4: 2}),
    "gather": (lambda x, i: x[i], (X, I), {0: 2, 1: 4, 2: 2**62, 3: 3}),
    "concatenate": (lambda x, y: np.concatenate([x, y[None]]), (X, V), {0: 2, 1: 2**40, 2: -1, 3: 40}),
    "matmul": (lambda x: x @ x.T, (X,), {0: 2, 1: 2**31, 2: 40, 3: -1, 4: 2**41, 5: 2, 6: 3, 9: 2**31}),
    "affine": (lambda x, b: affine(x.T, x, b), (X, V), {0: 2, 1: 40, 2: -1, 3: 2**40, 6: 1}),
    "cross_entropy": (tg.cross_entropy, (X, np.array([0, 1, 2])), {0: 4, 1: 0}),
    "at_labels": (tg.nll_loss, (X, np.array([0, 1, 2])), {0: 4, 1: 0}),
    "moments": (tg.batch_norm, (X,), {0: 2, 1: 0, 2: -1, 3: 2**62, 4: 0}),
    "normalize": (tg.batch_norm, (X,), {0: 2, 1: 0, 2: -1, 3: 2**62, 4: 0, 5: 2}),
    "normalize_groups": (lambda x: tg.layer_norm(x, 4), (X,), {0: 2, 1: 0, 2: -1, 3: 2**62}),
    "argsort": (lambda x: np.sort(x, 1), (X,), {0: 1, 1: 2**61, 4: 9}),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_parameters_of_structured_operations(name, tmp_path, refused):
    f, args, changes = STRUCTURED[name]
    data, params = single(name, f, *args, tmp_path=tmp_path)
    side = next(s.data for s in unpacked(data) if s.kind == "SIDE")
    for at, value in changes.items():
        if int(side[params + at]) == value:
            continue
        said = refused(edited(data, "SIDE", set_to(params + at, value)))
        assert any(words in said for words in ("cannot have", "makes", "said to reach")), (at, value, said)


def test_assemble(tmp_path):
    gradient = tg.grad(lambda x: x[0, 1] * np.sum(x[1:, 1:] ** 2))
    data, start = single("assemble", gradient, X, tmp_path=tmp_path)
    side = next(s.data for s in unpacked(data) if s.kind == "SIDE")
    refused = 0
    for at in range(start, len(side)):
        for value in (-1, 2**62, 13, int(side[at]) + 1):
            (tmp_path / "changed.tape").write_bytes(edited(data, "SIDE", set_to(at, value)))
            # A part may stand elsewhere in the result, or go through its axes in another order, so not every change is
            # a fault; but none may reach other places than the result's.
            try:
                found = tg.load(tmp_path / "changed.tape", compile=False)
            except errors.DataError:
                refused += 1
            else:
                assert abs(value) < 14 and np.isfinite(found(X)).all()
    assert refused > 20


def test_outputs_labels_and_sizes(files, refused):
    data = files["views"]
    for at, value, message in (
        (0, 9, "described by other numbers"), (1, 2**40, "is said to stand"), (1, -1, "is said to stand"),
        (2, 65, "described by other numbers"), (2, -1, "described by other numbers"), (3, 2**40, "result of shape"),
        (3, 0, "result of shape"), (3, -1, "result of shape"), (5, 2**40, "is said to stand"),
    ):  # fmt: skip
        said = refused(edited(data, "OUTS", set_to(at, value)))
        assert message in said, (at, value, said)
    assert "behind those of the last result" in refused(edited(data, "OUTS", lambda x: np.append(x, 0)))
    for at, value, message in (
        (0, 16, "other types"), (0, 4, "other types"), (1, 3, "inputs of"), (1, -1, "inputs"), (2, 2**40, "declared"),
        (3, 2, "list of 2"), (4, 0, "0 of 0 branches"), (4, 9, "of the kind 9"),
    ):  # fmt: skip
        said = refused(edited(files["arrays"], "PROG", set_to(at, value)))
        assert message in said, (at, value, said)
    for label in ([2**20, 1, "x"], [0, 2**20, "x"], [-1, 1, "x"], [0, 1], [0, 1, 2], None):
        changed = described(data, lambda tree, label=label: tree["programs"][0]["labels"].append(label))
        assert "label" in refused(changed)


def test_the_description(files, refused):
    data = files["branching"]
    for change, message in (
        (lambda tree: tree.pop("name"), "must have the entries"),
        (lambda tree: tree.update(more=1), "must have the entries"),
        (lambda tree: tree.update(programs=[]), "there are other sections"),
        (lambda tree: tree["arguments"]["leaves"].pop(), "nested otherwise"),
        (lambda tree: tree["arguments"].update(names=["os.system()"]), "its arguments are called"),
        (lambda tree: tree["arguments"].update(nested=["leaf"]), "nested otherwise"),
        (lambda tree: tree["arguments"].update(nested=["module", []]), "is no structure"),
        (lambda tree: set_to(0, ["input", "object", [3], False])(tree["arguments"]["leaves"]), "is no dtype"),
        (lambda tree: set_to(0, ["input", "float64", [10**9] * 9, False])(tree["arguments"]["leaves"]), "inputs of"),
        (lambda tree: set_to(0, ["input", "float64", [-3], False])(tree["arguments"]["leaves"]), "a length"),
        (lambda tree: tree["programs"][0].update(calls=[{"call": "eval"}]), "no function of tapegrad's"),
        (lambda tree: tree["programs"][0].update(result=["leaf"]), "nested as 1"),
    ):
        said = refused(described(data, change))
        assert message in said, said
    deep = "[" * 100_000 + "]" * 100_000
    assert "damaged" in refused(edited(data, "META", lambda raw: np.frombuffer(deep.encode(), np.uint8)))
    nested = ["leaf"]
    for _ in range(200):
        nested = ["tuple", [nested]]
    assert "is no structure" in refused(described(data, lambda tree: tree["arguments"].update(nested=nested)))


def test_memory_is_limited(files, refused):
    assert "2000 allowed" in refused(files["long rows"], memory_limit=16_000)
    with pytest.raises(ValueError, match="a memory limit"):
        tg.load("x", memory_limit=0)


def test_loops(files, refused):
    def loop(**changes):
        return described(files["loop"], lambda tree: tree["programs"][1]["calls"][0].update(changes))

    for changes, message in (
        ({"program": 1}, "the program of a step"), ({"program": -1}, "the program of a step"),
        ({"count": 3001}, "calls function 0 for 3001 numbers"), ({"count": -1}, "a number of steps"),
        ({"states": 1}, "a number of states"),
        ({"states": 2**50, "count": 2**50}, "more than may be kept"), ({"start": 2**60}, "the first step"),
        ({"carry": []}, "is no step with"), ({"carry": [[2, True]]}, "is no step with"), ({"xs": [[1, 1]]}, "truth"),
        ({"numbered": True}, "is no step with"), ({"ys": [[0, True]]}, "a size"),
    ):  # fmt: skip
        said = refused(loop(**changes))
        assert message in said, (changes, said)


def test_functions_of_arrays(files, refused):
    def call(number, **changes):
        return described(files["matrices"], lambda tree: tree["programs"][0]["calls"][number].update(changes))

    calls = json.loads(unpacked(files["matrices"])[0].data.tobytes())["programs"][0]["calls"]
    solve = next(i for i, c in enumerate(calls) if c["function"] == ["tuple", [["str", "solve"]]])
    for changes, message in (
        ({"function": ["tuple", [["str", "system"]]]}, "is no function of arrays"),
        ({"function": ["str", "solve"]}, "is no function of arrays"),
        ({"shapes": [[3, 3], [2**40, 1]]}, "shape"), ({"shapes": [[9, 1], [3, 1]]}, ""),
        ({"shapes": [[3, 3]]}, ""), ({"constants": [None]}, ""), ({"constants": [["float", "0x1p+0"], None]}, "shape"),
    ):  # fmt: skip
        said = refused(call(solve, **changes))
        assert message in said, (changes, said)


def test_operations_that_say_nothing_of_parameters(tmp_path, files, refused):
    if "twice_without_rule" not in BY_NAME:
        structured("twice_without_rule", "z = 2 x", arity=1, forward=lambda side, k, v: True,
                   reverse=lambda side, k, v, g: None, tangent=lambda side, k, v, t: None,
                   views=lambda p: ([((p[0],), None)], (p[0],)), params=lambda shape: [shape[0]])  # fmt: skip
    with pytest.raises(errors.UnsupportedError, match="twice_without_rule is declared without the rule `accepts`"):
        tg.record(lambda x: BY_NAME["twice_without_rule"](x), np.ones(3)).save(tmp_path / "f")
    names = lambda raw: np.frombuffer(raw.tobytes().replace(b"sum", b"twice_without_rule"), np.uint8)
    assert "declared without the rule `accepts`" in refused(edited(files["stencil"], "OPER", names))


def test_a_few_hundred_damaged_files(files, tmp_path):
    total, faults = fuzz_load.run(list(files.values()), seed=1, first=0, count=400, chunk=400, folder=tmp_path)
    assert not faults, faults[0]
    assert sum(total.values()) == 400 and total["refused"] > 200 and total["replayed"] > 10
