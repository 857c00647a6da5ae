"""What holds of the source as a whole: imports go down only, names are documented, files stay short."""

import ast
import graphlib
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tapegrad"

# A module or package may import from its own floor (without a cycle) and from those below. The package
# itself, tapegrad/__init__.py, stands above them all: it imports any of them, and none imports from it.
FLOORS = {
    "attached": 0,
    "batch": 10,
    "cache": 0,
    "errors": 0,
    "interrupts": 0,
    "names": 0,
    "pickling": 0,
    "threads": 0,
    "captures": 1,
    "pytree": 0,
    "compiled": 1,
    "layout": 1,
    "ops": 2,
    "sweeps": 3,
    "tape": 4,
    "value": 5,
    "functions": 5,
    "arguments": 6,
    "carried": 5,
    "adjoint": 6,
    "program": 6,
    "native": 7,
    "storage": 7,
    "export": 7,
    "njit": 7,
    "sparse": 7,
    "recording": 8,
    "transforms": 9,
    "made": 9,
    "recorded": 9,
    "calls": 9,
    "looping": 8,
    "flow": 9,
    "c_functions": 10,
    "checking": 10,
    "debugging": 10,
    "inspect": 10,
    "nn": 10,
    "optim": 10,
    "optimize": 10,
    "dask": 11,
    "scipy": 11,
    "player": 11,
    "command": 12,
    "__main__": 13,
}
ROOT = "tapegrad"
DOCUMENTED = [
    "tapegrad", "tapegrad.dask", "tapegrad.debugging", "tapegrad.inspect", "tapegrad.nn", "tapegrad.optim",
    "tapegrad.optimize", "tapegrad.player",
    "tapegrad.sparse",
    "tapegrad.scipy.integrate", "tapegrad.scipy.interpolate", "tapegrad.scipy.linalg", "tapegrad.scipy.signal",
    "tapegrad.scipy.sparse", "tapegrad.scipy.special",
    "tapegrad.scipy.stats",
]  # fmt: skip
MAX_LINES = 400


def sources(package=PACKAGE):
    return sorted(package.rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def top_level(package=PACKAGE):
    """Names of the modules and packages directly inside the package."""
    names = {path.relative_to(package).parts[0].removesuffix(".py") for path in sources(package)}
    return names - {"__init__"}


def targets(path, package=PACKAGE):
    """(line, dotted name in parts) of each import of the package from itself, wherever in the file it stands."""
    folder = [ROOT, *path.relative_to(package).parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else []
            base = start + (node.module.split(".") if node.module else [])
            found = [[*base, alias.name] for alias in node.names]
        else:
            continue
        yield from ((node.lineno, target) for target in found if target[0] == ROOT)


def imports(path, package=PACKAGE):
    """(line, top-level name) of each import of the package from itself; ROOT for what tapegrad/__init__.py defines."""
    names = top_level(package)
    for line, target in targets(path, package):
        below = target[1] if len(target) > 1 else ROOT
        yield line, below if below in names else ROOT


def faults(package, floors):
    """What is wrong with the imports of the package, as messages."""
    found = []
    edges = {name: set() for name in floors}
    for name in sorted(top_level(package) - floors.keys()):
        found.append(f"tapegrad/{name}: its floor is not declared; add it to FLOORS in {Path(__file__).name}")
    for path in sources(package):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        if name not in floors:  # __init__, or reported above
            continue
        for line, target in imports(path, package):
            where = f"tapegrad/{path.relative_to(package)}:{line}"
            if target == ROOT:
                found.append(f"{where}: imports from the package itself, not from the defining module")
            elif target not in floors:
                found.append(f"{where}: imports {target}, whose floor is not declared")
            elif floors[target] > floors[name]:
                found.append(
                    f"{where}: {name} (floor {floors[name]}) imports {target} (floor {floors[target]}); "
                    "imports go down only"
                )
            elif target != name:
                edges[name].add(target)
    if circle := cycle(edges):
        found.append(f"imports in a cycle on one floor: {' <- '.join(circle)}")
    for name in sorted(top_level(package)):
        if circle := cycle(modules_of(name, package)):
            found.append(f"imports in a cycle inside tapegrad/{name}: {' <- '.join(circle)}")
    return found


def cycle(edges):
    """Names that import each other in a circle; [] if none do."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def modules_of(name, package=PACKAGE):
    """For each module of a folder, by its dotted name, which of them it imports. The folder itself is its __init__."""
    paths = {}
    for path in sources(package):
        parts = [ROOT, *path.relative_to(package).with_suffix("").parts]
        if parts[1] == name:
            paths[".".join(parts).removesuffix(".__init__")] = path
    edges = {module: set() for module in paths}
    for module, path in paths.items():
        for _, target in targets(path, package):
            # What is imported may be a module, or a name in one.
            while target and ".".join(target) not in paths:
                target = target[:-1]
            if target and ".".join(target) != module:
                edges[module].add(".".join(target))
    return edges


def test_imports_go_down_only():
    assert sources(), f"no sources in {PACKAGE}"
    assert not (found := faults(PACKAGE, FLOORS)), "\n".join(found)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("low.py", "from tapegrad.high import f", "low.py:1: low (floor 0) imports high (floor 1)"),
        ("low.py", "import tapegrad.high", "low (floor 0) imports high"),
        ("low.py", "from tapegrad import high", "low (floor 0) imports high"),
        ("low.py", "from . import high", "low (floor 0) imports high"),
        ("low.py", "from .high.inner import f", "low (floor 0) imports high"),
        ("low.py", "def f():\n    from tapegrad.high import g", "low.py:2: low (floor 0)"),
        ("low.py", "if TYPE_CHECKING:\n    import tapegrad.high", "low.py:2: low (floor 0)"),
        ("low.py", "import tapegrad", "imports from the package itself"),
        ("low.py", "from tapegrad import grad", "imports from the package itself"),
        ("high/inner.py", "from .. import grad", "imports from the package itself"),
        ("stray.py", "", "tapegrad/stray: its floor is not declared"),
        ("stray/kernels.py", "", "tapegrad/stray: its floor is not declared"),
        ("low.py", "import tapegrad.beside", "imports in a cycle on one floor"),
        ("high/inner.py", "from tapegrad.high.other import f", "imports in a cycle inside tapegrad/high"),
        ("high/inner.py", "from .other import f", "imports in a cycle inside tapegrad/high"),
        ("high/inner.py", "from tapegrad.high import other", "imports in a cycle inside tapegrad/high"),
        ("high/inner.py", "def f():\n    import tapegrad.high.other", "imports in a cycle inside tapegrad/high"),
        ("high/inner.py", "if TYPE_CHECKING:\n    from . import other", "imports in a cycle inside tapegrad/high"),
        ("high/__init__.py", "from tapegrad.high.other import f\nfrom tapegrad.high.inner import g", None),
        ("high/inner.py", "from tapegrad.high.third import f", None),
        ("low.py", "import numpy\nfrom tapegrad.low import f", None),
        ("high/inner.py", "from . import third\nfrom .third import f\nfrom ..low import g", None),
        ("__init__.py", "from tapegrad.high import f\nfrom tapegrad import low", None),
    ],
)
def test_the_import_check_sees(tmp_path, file, text, message):
    package = tmp_path / "tapegrad"
    (package / "high").mkdir(parents=True)
    (package / "low.py").touch()
    (package / "beside.py").write_text("import tapegrad.low")
    (package / "high" / "__init__.py").touch()
    (package / "high" / "inner.py").touch()
    (package / "high" / "third.py").touch()
    (package / "high" / "other.py").write_text("from tapegrad.high.inner import g")
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(text)
    found = faults(package, {"low": 0, "beside": 0, "high": 1})
    if message is None:
        assert not found
    else:
        assert len(found) == 1 and message in found[0], found


def undocumented(module):
    """Public classes and functions of a module without a docstring of their own."""
    for name in module.__all__:
        thing = getattr(module, name)
        doc = thing.__doc__ or ""
        # A dataclass without a docstring gets its signature for one.
        if callable(thing) and (not doc.strip() or doc.startswith(f"{name}(")):
            yield f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_names_have_docstrings(name):
    path = PACKAGE.parent / name.replace(".", "/")
    if not path.is_dir() and not path.with_suffix(".py").is_file():
        pytest.skip(f"{name} does not exist")
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert module.__all__, f"{name} exports nothing"
    assert not (bare := list(undocumented(module))), f"no docstring: {', '.join(bare)}"


def test_no_print():
    printing = [
        f"tapegrad/{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing, f"print is called in {', '.join(printing)}"


def test_files_can_be_read_in_one_sitting():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    long = [f"tapegrad/{path.relative_to(PACKAGE)} ({n})" for path, n in lengths.items() if n > MAX_LINES]
    assert not long, f"over {MAX_LINES} lines: {', '.join(long)}"
