"""The README and the pages of docs/ do what they say: their Python runs, and their commands name what exists.

The python blocks of one `## ` section of the README, and of a whole page of docs/, share a namespace and run in
order, in an empty folder. Blocks written as a console session (with `>>>`) are checked as doctests, output included.
Shell blocks are read, not run. A
block in another language must be in INERT, so that none is passed over by accident. A block that needs a
program from outside Python says so in the line above it; where that program is missing, its section ends
there, skipped with the reason:

    <!-- requires: dot -->
"""

import atexit
import doctest
import importlib.util
import itertools
import re
import shlex
import shutil
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# Scripts made of blocks stay until the end of the run: what reads its own source reads it late.
SCRIPTS = Path(tempfile.mkdtemp(prefix="readme-"))
atexit.register(shutil.rmtree, SCRIPTS, ignore_errors=True)
SHELL = {"bash", "console"}
INERT = {"text", "bibtex", "toml", "mermaid"}
PYTHON = {"python", "python3"}
# Commands whose arguments are checked only where they are paths, and those that are not looked into at all.
TOOLS = {"tapegrad", "mkdocs", "pytest", "ruff", "mypy", "numba", "dot", "cat", "ls"}
FOREIGN = {"git", "apt", "apt-get", "brew", "conda", "source"}
OPTIONFLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@dataclass
class Block:
    language: str
    section: str
    line: int  # of the first line of code, from 1
    requires: str | None
    code: str


@dataclass
class Open:
    """A fence that has not been closed yet."""

    fence: str
    indent: int
    language: str
    line: int
    requires: str | None
    lines: list[str] = field(default_factory=list)


def blocks(text):
    """The fenced code blocks of a Markdown text."""
    found, section, opened, above = [], "(before the first section)", None, ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"( *)(`{3,}|~{3,})\s*([^`\s]*)", line)
        if opened:
            if fence and fence[2].startswith(opened.fence) and not fence[3]:
                code = "".join(f"{line}\n" for line in opened.lines)
                found.append(Block(opened.language, section, opened.line, opened.requires, code))
                opened = None
            else:
                cut = min(opened.indent, len(line) - len(line.lstrip()))
                opened.lines.append(line[cut:])
        elif fence:
            requires = re.fullmatch(r"\s*<!-- requires: (\S+) -->\s*", above)
            opened = Open(fence[2], len(fence[1]), fence[3], number + 1, requires and requires[1])
        elif line.startswith("## "):
            section = line[3:].strip()
        above = line
    assert opened is None, f"the block at line {opened.line} is never closed"
    return found


def sections(found):
    """The python blocks, by section."""
    grouped = {}
    for block in found:
        if block.language == "python":
            grouped.setdefault(block.section, []).append(block)
    return grouped


def execute(code, line, namespace, filename=str(README)):
    """Run one block in `namespace`, with the line numbers of the README in its errors."""
    if re.search(r"^>>> ", code, flags=re.MULTILINE):
        test = doctest.DocTestParser().get_doctest(code, namespace, "README", filename, line - 1)
        report = []
        doctest.DocTestRunner(optionflags=OPTIONFLAGS).run(test, out=report.append, clear_globs=False)
        namespace.update(test.globs)
        assert not report, "".join(report)
    else:
        # A file of its own, for what reads its own source, as rules do; the lines are those of the README.
        script = SCRIPTS / f"{Path(filename).stem}_line{line}.py"
        script.write_text("\n" * (line - 1) + code, encoding="utf-8")
        exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), namespace)


def commands(block):
    """The commands of a shell block, each as (line, words): joined lines joined, `a && b` taken apart."""
    line, pending = block.line, ""
    for offset, text in enumerate(block.code.splitlines()):
        if block.language == "console" and not pending:
            if not text.startswith("$ "):
                continue  # output
            text = text[2:]
        pending, line = pending + text, line if pending else block.line + offset
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        lexer = shlex.shlex(pending, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words, pending = [], ""
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                if words:
                    yield line, words
                words = []
            else:
                words.append(word)
    assert not pending, f"README.md:{line}: the last line is continued nowhere"


def complaint(words, root=ROOT):
    """What is wrong with one command, or None."""
    while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
        words = words[1:]
    if not words:
        return None
    command, *rest = words
    if command == "sudo":
        return complaint(rest, root)
    if command == "cd":
        there = rest and (rest[0] == "tapegrad" or (root / rest[0]).is_dir())
        return None if there else f"no such folder: {' '.join(rest)}"
    if command in PYTHON:
        return python_complaint(rest, root)
    if command in {"pip", "pip3"}:
        return pip_complaint(rest, root)
    if command == "make":
        rules = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE))
        missing = [word for word in rest if "=" not in word and word not in rules]
        return f"no such rule: {missing[0]}" if missing else None
    if command in FOREIGN:
        return None
    if command in TOOLS:
        return missing_path(rest, root)
    if "/" in command:
        return missing_path(words, root)
    return f"unknown command: {command}"


def python_complaint(words, root):
    match words:
        case ["-c", code, *_]:
            compile(code, "-c", "exec")
            return None
        case ["-m", "pip", *rest]:
            return pip_complaint(rest, root)
        case ["-m", "venv", *_]:
            return None
        case ["-m", module, *rest]:
            try:
                known = importlib.util.find_spec(module)
            except ModuleNotFoundError:
                known = None
            return missing_path(rest, root) if known else f"no such module: {module}"
        case [option, *rest] if option.startswith("-"):
            return python_complaint(rest, root)
        case _:
            return missing_path(words, root)


def pip_complaint(words, root):
    """`pip install` of this project may name only extras that it has."""
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        if (named := re.fullmatch(r"(?:tapegrad|\.)\[(.*)\]", word)) and (
            unknown := {extra.strip() for extra in named[1].split(",")} - extras.keys()
        ):
            return f"no such extra: {', '.join(sorted(unknown))}"
    return None


def missing_path(words, root):
    for word in words:
        path = word.partition("::")[0]
        if word.startswith("-") or "://" in word or not ("/" in path or path.endswith(".py")):
            continue
        if not (root / path).exists():
            return f"no such file: {path}"
    return None


# ---- the pages ---------------------------------------------------------------------------------------------

FOUND = {page.relative_to(ROOT).as_posix(): blocks(page.read_text(encoding="utf-8")) for page in PAGES}
SECTIONS = [
    *(("README.md", section) for section in sections(FOUND["README.md"])),
    *((page, None) for page, found in FOUND.items() if page != "README.md" and sections(found)),
]
SHELLS = [(page, block) for page, found in FOUND.items() for block in found if block.language in SHELL]


def test_readme_has_python():
    assert sections(FOUND["README.md"]), "README.md has no ```python block"


def test_every_block_is_accounted_for():
    known = {"python"} | SHELL | INERT
    strays = [
        f"{page}:{block.line}: {block.language or 'no language'}"
        for page, found in FOUND.items()
        for block in found
        if block.language not in known
    ]
    assert not strays, f"blocks in a language that is not one of {sorted(known)}: {'; '.join(strays)}"


@pytest.mark.parametrize(("page", "section"), SECTIONS)
def test_python_runs(page, section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    if section == "Compiled programs":
        # It says what is done where nobody says anything.
        monkeypatch.delenv("TAPEGRAD_COMPILE", raising=False)
    namespace = {"__name__": "__main__"}
    found = sections(FOUND[page])
    for block in found[section] if section else itertools.chain(*found.values()):
        if block.requires and not shutil.which(block.requires):
            pytest.skip(f"{page}:{block.line}: needs the program {block.requires}")
        execute(block.code, block.line, namespace, page)


@pytest.mark.parametrize(("page", "block"), SHELLS, ids=lambda x: x if isinstance(x, str) else f"line{x.line}")
def test_commands_name_what_exists(page, block):
    said = list(commands(block))
    assert said, f"{page}:{block.line}: a block without a command"
    wrong = [f"{page}:{line}: {fault}" for line, words in said if (fault := complaint(words))]
    assert not wrong, "\n".join(wrong)


# ---- the checks themselves ---------------------------------------------------------------------------------

SAMPLE = """\
```python
zero = 0
```
## First
```python
## no heading
one = 1
```
<!-- requires: dot -->
~~~~python
```
~~~~
## Second
- a list
  ```bash
  pytest
    indented
  ```
"""


def test_blocks_are_found():
    found = blocks(SAMPLE)
    assert [(b.language, b.section, b.line, b.requires) for b in found] == [
        ("python", "(before the first section)", 2, None),
        ("python", "First", 6, None),
        ("python", "First", 11, "dot"),
        ("bash", "Second", 16, None),
    ]
    assert found[1].code == "## no heading\none = 1\n"
    assert found[3].code == "pytest\n  indented\n"
    assert list(sections(found)) == ["(before the first section)", "First"]
    with pytest.raises(AssertionError, match="line 2 is never closed"):
        blocks("```python\n")


def test_blocks_are_executed():
    namespace = {}
    execute("one = 1\n", 5, namespace)
    execute(">>> two = one + 1\n>>> two\n2\n", 9, namespace)
    assert namespace["two"] == 2
    with pytest.raises(AssertionError, match=r"(?s)line 9.*Expected:\s+3\s+Got:\s+2"):
        execute(">>> two\n3\n", 9, namespace)
    with pytest.raises(ZeroDivisionError) as error:
        execute("one\none / 0\n", 20, namespace)
    assert error.traceback[-1].lineno + 1 == 21


def test_commands_are_found():
    code = "$ A=1 pytest \\\n  tests && ruff check .  # all\noutput\n$ ls | cat\n"
    assert list(commands(Block("console", "", 3, None, code))) == [
        (3, ["A=1", "pytest", "tests"]),
        (3, ["ruff", "check", "."]),
        (6, ["ls"]),
        (6, ["cat"]),
    ]
    assert list(commands(Block("bash", "", 1, None, "# remark\n\npytest -q\n"))) == [(3, ["pytest", "-q"])]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("pip install tapegrad", None),
        ('pip install "tapegrad[examples]"', None),
        ("python -m pip install -e '.[test,bench]'", None),
        ("pip install tapegrad[everything]", "no such extra: everything"),
        ("git clone https://example.org/tapegrad", None),
        ("cd tapegrad", None),
        ("cd nowhere", "no such folder: nowhere"),
        ("X=1 pytest tests/test_readme.py::test_readme_has_python", None),
        ("pytest tests/test_nothing.py", "no such file: tests/test_nothing.py"),
        ("python tests/test_readme.py --epochs 3", None),
        ("python -X dev nothing.py", "no such file: nothing.py"),
        ("python -m pytest", None),
        ("python -m tapegrad.nothing", "no such module: tapegrad.nothing"),
        ("python -m nothing.at.all", "no such module: nothing.at.all"),
        ("make test", None),
        ("make haste", "no such rule: haste"),
        (".ci/run", None),
        (".ci/walk", "no such file: .ci/walk"),
        ("sudo apt install graphviz", None),
        ("frobnicate", "unknown command: frobnicate"),
    ],
)
def test_commands_are_judged(command, fault):
    assert complaint(shlex.split(command)) == fault
