"""What the player shows is what the sweeps compute: adjoints end as the gradient, and every contribution adds up."""

import json
import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import GraphError
from tapegrad.ops import BY_NAME, TABLE, Elementwise
from tapegrad.player import html_of
from tapegrad.player.partials import partials
from tapegrad.player.trace import Trace, plain

MATRIX = np.arange(6.0).reshape(2, 3) / 7.0


def data(recording, *args, limit=200, numbers=64, source=False):
    """What the page holds, as a browser reads it."""
    return json.loads(json.dumps(Trace(recording, args, limit, numbers, source).data(), allow_nan=False))


def numbers(x):
    return np.array([float(y) for y in (x if isinstance(x, list) else [x])])


def final_adjoints(page):
    """The adjoints of the inputs as they stand at the end, by name."""
    found = {e["name"]: np.zeros(e["count"]) for e in page["entries"] if e["kind"] == "input"}
    for seed in page["seeds"]:
        found[page["entries"][seed["to"]]["name"]] = numbers(seed["after"])
    for step in page["reverse"]:
        for part in step["parts"]:
            if "to" in part:
                found[page["entries"][part["to"]]["name"]] = numbers(part["after"])
    return found


def polynomial(x, y):
    z = x * y
    z = np.sin(z) + z * z
    return z**3 / (1.0 + x)


def branching(x, n):
    y = x
    for _ in range(n):
        y = y * x if y > 0.5 else y - x
    return max(y, x) + tg.where(x > 1.0, np.exp(x), 0.0)


def perceptron(w, b, x):
    hidden = np.tanh(x @ w + b)
    return tg.cross_entropy(hidden[:, ::-1] * hidden, [0, 2, 1])


def shapes(x):
    y = np.concatenate([x[1:], x[:-1] * 2.0])
    return np.sum(np.sort(y)[::2] * x[0]) + np.max(x) + np.mean(x.reshape(2, 2) @ x.reshape(2, 2))


def loop(x):
    return np.sum(tg.scan(lambda c, _: (0.5 * c + np.cos(c), None), x, None, 20)[0])


def solved(x):
    return np.sum(np.linalg.solve(x + 3.0 * np.eye(3), np.ones(3)) ** 2)


def unused(x, y):
    return x + 1.0


CASES = {
    "polynomial": (polynomial, (0.3, -1.2), True),
    "branching": (branching, (1.3, 4), True),
    "unused": (unused, (1.0, 2.0), True),
    "perceptron": (perceptron, (MATRIX, np.ones(3) / 3, np.ones((3, 2)) * [[0.1], [0.5], [-0.3]]), False),
    "shapes": (shapes, (np.array([0.3, 2.0, -1.0, 0.7]),), False),
    "loop": (loop, (np.array([0.1, 0.2]),), False),
    "solved": (solved, (np.arange(9.0).reshape(3, 3) / 10,), False),
    "float32": (polynomial, (np.float32(0.5), np.float32(2.0)), True),
}


@pytest.mark.parametrize("name", CASES)
def test_adjoints_end_as_the_gradient(name):
    f, args, exact = CASES[name]
    recording = tg.record(f, *args, compile=False)
    page = data(recording)
    found = final_adjoints(page)
    inputs = [e["name"] for e in page["entries"] if e["kind"] == "input"]
    for n, (own, arg) in enumerate(zip(inputs, args, strict=True)):
        if isinstance(arg, int):
            continue
        wanted = np.asarray(recording.grad(*args, argnums=n)).reshape(-1)
        if exact:
            # For numbers the page has what the sweep leaves, to the last bit.
            kind = np.float32 if name == "float32" else np.float64
            assert found[own].astype(kind).tolist() == wanted.astype(kind).tolist()
        else:
            assert np.allclose(found[own], wanted, rtol=1e-12, atol=1e-13)
    result = page["entries"][page["seeds"][0]["to"]]
    assert np.allclose(numbers(result["value"]), recording(*args), rtol=1e-6 if name == "float32" else 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_contributions_add_up(name):
    f, args, _ = CASES[name]
    page = data(tg.record(f, *args), limit=1000)
    entries = page["entries"]
    adjoints = {n: np.zeros(e["count"]) for n, e in enumerate(entries)}
    for seed in page["seeds"]:
        adjoints[seed["to"]] = numbers(seed["after"])
    passed = 0
    for step in page["reverse"]:
        # An instruction passes on the adjoint that has arrived.
        assert np.array_equal(adjoints[step["of"]], numbers(step["adjoint"]))
        for part in step["parts"]:
            add = numbers([x or 0.0 for x in part["add"]] if isinstance(part["add"], list) else part["add"])
            adjoints[part["to"]] = adjoints[part["to"]] + add
            if "partial" in part:
                assert part["amount"] == pytest.approx(step["adjoint"] * part["partial"], rel=1e-6, abs=1e-300)
            passed += 1
        for part in step["parts"]:
            assert np.allclose(adjoints[part["to"]], numbers(part["after"]), rtol=1e-6 if name == "float32" else 1e-14)
    assert passed


@pytest.mark.parametrize("name", ["polynomial", "branching"])
def test_steps_left_out_change_nothing(name):
    f, args, _ = CASES[name]
    recording = tg.record(f, *args)
    whole, short = data(recording), data(recording, limit=4)
    for own in ("x", "y") if name == "polynomial" else ("x",):
        assert final_adjoints(short)[own].tolist() == final_adjoints(whole)[own].tolist()
    fold = [e for e in short["entries"] if e["kind"] == "fold"]
    assert len(fold) == 1 and "left out" in short["notes"][0] and len(short["forward"]) == 5
    assert fold[0]["count"] == len(whole["forward"]) - 4
    assert whole["notes"] == []


def test_a_very_long_tape():
    def f(x):
        for _ in range(20_000):
            x = x * 0.9 + 0.1 * np.sin(x)
        return x

    recording = tg.record(f, 2.0)
    page = data(recording, limit=20)
    assert len(page["entries"]) < 30 and page["instructions"] > 80_000
    assert final_adjoints(page)["x"].tolist() == [recording.grad(2.0)]


def test_the_arguments_are_those_given_else_the_latest():
    recording = tg.record(lambda x: x * x, 3.0, compile=False)
    assert data(recording)["entries"][0]["value"] == 3.0
    recording.grad(5.0)
    assert data(recording)["entries"][0]["value"] == 5.0
    page = data(recording, 7.0)
    assert page["entries"][1]["value"] == 49.0 and final_adjoints(page)["x"].tolist() == [14.0]
    # Another branch than the one recorded.
    recording = tg.record(lambda x: x * x if x > 0.0 else -x, 3.0)
    assert final_adjoints(data(recording, -2.0))["x"].tolist() == [-1.0]
    assert any(e["kind"] == "guard" for e in data(recording, -2.0)["entries"])


def test_formulas_with_names_and_numbers():
    def f(x, y):
        z = x * y
        z.label = "z"
        return np.sin(z) * 2.0

    page = data(tg.record(f, 0.5, 2.0))
    steps = {page["entries"][s["of"]]["sign"] + str(i): s for i, s in enumerate(page["reverse"])}
    sine = steps["sin1"]["parts"][0]
    assert (sine["name"], sine["rule"], sine["rule_numbers"]) == ("z", "cos(z)", "cos(1)")
    assert sine["partial"] == math.cos(1.0) and sine["amount"] == 2.0 * math.cos(1.0)
    by_x, by_y = steps["*2"]["parts"]
    assert (by_x["rule"], by_x["rule_numbers"], by_y["rule"]) == ("y", "2", "x")
    product = page["entries"][page["forward"][0]]
    assert (product["name"], product["text"], product["numbers"], product["value"]) == ("z", "x * y", "0.5 * 2", 1.0)


def test_arrays_are_named_and_cut():
    recording = tg.record(lambda x, w: np.sum((x @ w)[:, 0] * 2.0), np.ones((5, 3)), np.ones((3, 2)))
    page = data(recording, numbers=4)
    x, w = page["entries"][:2]
    assert (x["shape"], x["count"], x["value"]) == ([5, 3], 15, [1.0] * 4) and w["shape"] == [3, 2]
    product = next(e for e in page["entries"] if e.get("sign") == "@")
    assert product["name"] == f"V{product['slot']}" and product["shape"] == [5, 2]
    part = next(p for s in page["reverse"] for p in s["parts"] if p["name"].startswith(product["name"] + "["))
    assert part["name"] == f"{product['name']}[:, 0]" and part["add"] == [2.0, None, 2.0, None]


def test_sums_of_a_broadcast_operand_say_so():
    page = data(tg.record(lambda x, k: np.sum(x * k), np.arange(3.0), 2.0))
    parts = {p["name"]: p for s in page["reverse"] for p in s["parts"]}
    assert parts["k"]["sum"] and parts["k"]["amount"] == 3.0 and "sum" not in parts["x"]


def test_results_of_several_numbers_and_of_none():
    recording = tg.record(lambda x: (x * 2.0, np.sum(x) * 3.0), np.ones(3))
    page = data(recording)
    assert "gradient of their sum" in page["notes"][0] and len(page["seeds"]) == 2
    assert final_adjoints(page)["x"].tolist() == [5.0, 5.0, 5.0]
    # A number that is returned twice counts twice.
    assert final_adjoints(data(tg.record(lambda x: (x, x), 1.0)))["x"].tolist() == [2.0]
    page = data(tg.record(lambda x: 1.0, 2.0))
    assert page["reverse"] == [] and "no reverse sweep" in page["notes"][0]
    assert data(tg.record(lambda n: n * 2, 3))["reverse"] == []


def test_numbers_that_are_not_finite():
    page = data(tg.record(lambda x: np.log(x) * 2.0 - np.exp(x), 1.0), -1.0)
    values = [e["value"] for e in page["entries"]]
    assert values.count("nan") == 3 and final_adjoints(page)["x"][0] < -2.0
    page = data(tg.record(lambda x: 1.0 / x, 1.0), 0.0)
    assert page["entries"][-1]["value"] == "inf" and final_adjoints(page)["x"].tolist() == [-math.inf]
    assert [plain(x) for x in (math.nan, math.inf, -math.inf, np.float32(0.1))] == ["nan", "inf", "-inf", 0.1]


# ---- the user's lines --------------------------------------------------------------------------------------


def helper(x):
    y = x * 2.0
    return y + 1.0


def calling(x):
    a = np.sin(x)
    b = helper(a) * helper(x) - a
    return np.sum([b, a]) if False else b / a


def lines(recording, *args):
    """For each step its sign, and the text of its line."""
    page = data(recording, *args, source=True)
    text = [{n: line.strip() for n, line in file["lines"]} for file in page["files"]]
    return [(e["sign"], text[e["line"][0]][e["line"][1]]) for e in page["entries"] if "line" in e], page


def test_each_instruction_has_its_line():
    found, page = lines(tg.record(calling, 0.5))
    product = "b = helper(a) * helper(x) - a"
    assert found == [
        ("sin", "a = np.sin(x)"), ("*", "y = x * 2.0"), ("+", "return y + 1.0"), ("*", "y = x * 2.0"),
        ("+", "return y + 1.0"), ("*", product), ("-", product), ("/", "return np.sum([b, a]) if False else b / a"),
    ]  # fmt: skip
    assert page["files"][0]["name"] == "test_trace.py"


def test_lines_where_dead_code_was_recorded_and_branches_were_taken():
    def f(x):
        np.cos(x)
        if x > 1.0:
            x = x * 3.0
        return x - 1.0

    found, _ = lines(tg.record(f, 2.0))
    assert found[-2:] == [("*", "x = x * 3.0"), ("-", "return x - 1.0")]
    assert lines(tg.record(f, 2.0), 0.0)[0][-1] == ("-", "return x - 1.0")


def test_no_lines_rather_than_wrong_ones():
    calls = []

    def other(x):
        calls.append(1)
        return x * 2.0 if len(calls) % 2 else np.sin(x) + 1.0

    def fails(x):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError
        return x * 2.0

    assert lines(tg.record(other, 1.0))[0] == []
    calls.clear()
    assert lines(tg.record(fails, 1.0))[0] == []
    # Text that stands in no file has no lines to be shown.
    scope = {}
    exec("def f(x):\n    return x * 2.0", scope)
    assert lines(tg.record(scope["f"], 1.0))[0] == []
    assert data(tg.record(polynomial, 1.0, 2.0))["files"] == []


# ---- formulas of derivatives -------------------------------------------------------------------------------


_FUNCTIONS = ("sin", "cos", "cosh", "sinh", "exp", "log", "sqrt", "hypot", "sign", "floor")
_SIGNS = {"·": "*", "^": "**", "≤": "<=", "≥": ">=", "≠": "!=", "[": "(", "]": ")", " = ": " == "}


@pytest.mark.parametrize("row", [r for r in TABLE if isinstance(r, Elementwise)], ids=lambda r: r.name)
def test_formulas_are_the_rules(row):
    """What is written evaluates to what the rule computes."""
    rng = np.random.default_rng(0)
    scope = {name: getattr(np, name) for name in _FUNCTIONS}
    scope |= {"where": np.where, "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x))}
    names = ["a", "b", "c"][: row.arity]
    for _ in range(5):
        given = [float(rng.uniform(low, high)) for low, high in row.samples]
        result = float(row.compute(*given))
        wanted = getattr(row.partials, "py_func", row.partials)(*given, result)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for rule, slope in zip(partials(row, names, "z", [*given, result]), wanted, strict=True):
            if rule is None or any(name in rule.text for name in ("shield", "special_", "digamma", "(z, ")):
                continue
            text = rule.text
            for sign, python in _SIGNS.items():
                text = text.replace(sign, python)
            try:
                found = eval(text, {**scope, **dict(zip(names, given, strict=True)), "z": result})
            except NameError:
                continue
            # Constants are written with four digits.
            assert float(found) == pytest.approx(float(slope), rel=1e-3), rule.text


def test_brackets_stand_where_they_must():
    assert partials(BY_NAME["divide"], ["-1", "-2"], "0.5")[1].text == "-0.5 / (-2)"
    assert partials(BY_NAME["divide"], ["1", "-2"], "-0.5")[1].text == "-(-0.5) / (-2)"
    assert partials(BY_NAME["divide"], ["-1", "-2"], "0.5")[0].text == "1 / (-2)"
    assert partials(BY_NAME["sigmoid"], ["x"], "y")[0] == ("y · (1 - y)", True)
    assert partials(BY_NAME["erf"], ["x"], "y")[0].text == "1.128 · exp(-(x · x))"


# ---- the page ----------------------------------------------------------------------------------------------


def test_a_page_is_one_file_that_fetches_nothing(tmp_path):
    path = tg.record(polynomial, 1.0, 2.0).to_html(tmp_path / "page.HTML", 3.0, 4.0)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and text.rstrip().endswith("</html>")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert "default-src 'none'" in text and str(tmp_path) not in text and "{{" not in text


@pytest.mark.parametrize("label", ["</script><script>alert(1)</script>", "<!--", "{{script}}", "'\"&<b>", "\u2028\x00"])
def test_hostile_labels_stay_data(label):
    def f(x):
        y = x * 2.0
        y.label = label
        return np.sin(y)

    text = html_of(tg.record(f, 1.0))
    assert text.count("</script>") == 2 and text.count("<script") == 2
    held = text.split('id="data">')[1].split("</script>")[0]
    assert any(label in e["name"] or repr(label) == e["name"] for e in json.loads(held)["entries"])


def test_what_cannot_be_played(tmp_path):
    recording = tg.record(polynomial, 1.0, 2.0)
    with pytest.raises(GraphError, match=r"saved as \.html, not as 'page\.txt'"):
        recording.to_html(tmp_path / "page.txt")
    with pytest.raises(GraphError, match="limit must be 2 or more, it is 1"):
        recording.to_html(tmp_path / "page.html", limit=1)
    with pytest.raises(GraphError, match="numbers must be 1 or more, it is 0"):
        recording.to_html(tmp_path / "page.html", numbers=0)
    with pytest.raises(tg.errors.ShapeError):
        recording.to_html(tmp_path / "page.html", np.ones(3), 2.0)
    assert not list(tmp_path.iterdir())
