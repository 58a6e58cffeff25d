"""The layers of the package, read from its imports; and what every module promises."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "jtl"

# A module imports only from what stands before it here.
ORDER = [
    *(
        "errors",
        "tree",
        "rng",
        "platforms",
        "identity",
        "config",
        "assets",
        "data",
        "models",
        "weights",
        "engine",
    ),
    *("training", "experiment", "study", "report", "export", "cli", "__main__"),
]
# What research code imports must not bring the reading of files with it.
FORBIDDEN = {("engine", "config"), ("engine", "data")}
# Only the outermost shell may set options of the process, and only when it is called.
MAY_SET_JAX_OPTIONS = ("experiment", "cli")

Graph = dict[str, set[str]]


def find_modules(package: Path) -> dict[str, Path]:
    """Every module's file under its dotted name, a package under its own."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def import_graph(package: Path) -> Graph:
    """Which modules of the package each of them imports, anywhere in its text."""
    modules = find_modules(package)
    return {name: set(_imported(name, path, modules)) for name, path in modules.items()}


def _imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    for named in _named_in_imports(ast.parse(path.read_text("utf-8")), name, path):
        target = named
        while target and target not in modules:  # `from package.module import name`
            target = target.rpartition(".")[0]
        if target and target != name:
            yield target
        # Python runs the __init__.py of every folder on the way, but for those it is in already.
        while target := target.rpartition(".")[0]:
            if target in modules and not f"{name}.".startswith(f"{target}."):
                yield target


def _named_in_imports(tree: ast.Module, name: str, path: Path) -> Iterator[str]:
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=module, names=aliases, level=level):
                above = home.split(".")[: len(home.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield from (f"{base}.{alias.name}" for alias in aliases)
            case ast.Call(func=function, args=[ast.Constant(value=str(target)), *_]):
                if ast.unparse(function).endswith("import_module"):
                    yield target


def find_cycle(graph: Graph) -> list[str]:
    """The modules of one import cycle; none if there is no cycle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def wrong_arrows(graph: Graph) -> list[str]:
    """One line for each import against the order, and for each module without a place in it."""
    lines = []
    for name, targets in graph.items():
        room = _room(name)
        if room is None:
            continue  # the package's own __init__.py: see test_the_package_itself_imports_nothing
        if room not in ORDER:
            lines.append(f"{name} has no place in the order")
            continue
        for target in sorted(targets):
            other = _room(target)
            if other is None:
                lines.append(f"{name} imports the whole package")
            elif other in ORDER and ORDER.index(other) > ORDER.index(room):
                lines.append(f"{name} imports {target}, which stands after it")
            elif (room, other) in FORBIDDEN:
                lines.append(f"{name} imports {target}, which {room} may never import")
    return lines


def _room(name: str) -> str | None:
    return name.split(".")[1] if "." in name else None


def undocumented(path: Path) -> list[str]:
    """What lacks a docstring in a file: the module, public classes and functions."""
    tree = ast.parse(path.read_text("utf-8"))
    lines = [] if ast.get_docstring(tree) else [f"{path}: opens with no docstring"]
    return lines + [
        f"{path}:{node.lineno}: {node.name} has no docstring"
        for node in _public(tree)
        if not ast.get_docstring(node)
    ]


def unannotated(path: Path) -> list[str]:
    """The public functions and methods in a file that lack an annotation."""
    return [
        f"{path}:{node.lineno}: {node.name} is not fully annotated"
        for node in _public(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and not _is_annotated(node)
    ]


def _public(body: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in body.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def _is_annotated(function: ast.FunctionDef) -> bool:
    every = function.args
    arguments = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
    named = [each for each in arguments if each and each.arg not in ("self", "cls")]
    return function.returns is not None and all(each.annotation for each in named)


def jax_options_set(package: Path) -> list[str]:
    """Where an option of jax is set at import, or anywhere in a room that may not."""
    lines = []
    for name, path in find_modules(package).items():
        tree = ast.parse(path.read_text("utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "jax.config.update":
                continue
            if id(node) not in inside or _room(name) not in MAY_SET_JAX_OPTIONS:
                lines.append(f"{path}:{node.lineno}: sets an option of jax")
    return lines


@pytest.fixture
def plant(tmp_path):
    """Makes a package `jtl` in a fresh folder from file texts, and returns its folder."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / "jtl" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path / "jtl"

    return make


def test_no_import_cycle():
    assert find_cycle(import_graph(PACKAGE)) == []


def test_every_import_points_to_the_left():
    assert wrong_arrows(import_graph(PACKAGE)) == []


def test_the_graph_holds_the_imports_that_are_there():
    graph = import_graph(PACKAGE)
    assert "jtl.errors" in graph["jtl.rng"]
    assert "jtl.config.build" in graph["jtl.config"]
    assert "jtl.config.dialect" in graph["jtl.config.document"]


def test_the_package_itself_imports_nothing():
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    eager = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in eager] == [
        "import importlib",
        "from typing import TYPE_CHECKING, Any",
    ]


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_module_and_public_name_has_a_docstring():
    assert [line for path in PACKAGE.rglob("*.py") for line in undocumented(path)] == []


def test_every_public_function_is_annotated():
    assert [line for path in PACKAGE.rglob("*.py") for line in unannotated(path)] == []


def test_no_module_sets_an_option_of_jax_at_import():
    assert jax_options_set(PACKAGE) == []


def test_nothing_points_outside_the_project():
    outside = "../" + "shared"
    folders = (".ci", "benchmarks", "configs", "constraints", "jtl", "tests")
    files = [path for folder in folders for path in (PROJECT / folder).rglob("*")]
    files += [*PROJECT.glob("*.*"), PROJECT / "LICENSE"]
    texts = [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    assert len(texts) > 10
    assert [str(path) for path in texts if outside.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "import jtl.b", "b.py": "import jtl.a"},
        {"a.py": "def f():\n    from jtl.b import g", "b.py": "from jtl import a"},
        {"a.py": "from . import b", "b.py": "from .c import x", "c.py": "from .a import y"},
        {"p/__init__.py": "from jtl.p.a import f", "p/a.py": "from jtl.p import g"},
        {
            "p/__init__.py": "from jtl.p.a import f",
            "p/a.py": "import jtl.q.b",
            "q/__init__.py": "import jtl.p",
            "q/b.py": "",
        },
        {"a.py": "import importlib\nimportlib.import_module('jtl.b')", "b.py": "import jtl.a"},
    ],
    ids=["plain", "in a function", "relative", "__init__", "__init__ on the way", "by name"],
)
def test_a_planted_cycle_is_found(plant, files):
    assert find_cycle(import_graph(plant({"__init__.py": "", **files})))


def test_an_init_that_gathers_its_modules_is_no_cycle(plant):
    package = plant(
        {
            "__init__.py": "",
            "p/__init__.py": "from jtl.p.b import f",
            "p/a.py": "",
            "p/b.py": "from jtl.p.a import g\nfrom jtl.p import a",
        }
    )
    assert find_cycle(import_graph(package)) == []
    assert import_graph(package)["jtl.p.b"] == {"jtl.p.a"}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (
            {"tree.py": "from jtl.engine import step", "engine/step.py": ""},
            "jtl.tree imports jtl.engine.step, which stands after it",
        ),
        (
            {"models/a.py": "def f():\n    import jtl.weights.b", "weights/b.py": ""},
            "jtl.models.a imports jtl.weights.b, which stands after it",
        ),
        (
            {"engine/step.py": "from jtl.data.sources import x", "data/sources.py": ""},
            "jtl.engine.step imports jtl.data.sources, which engine may never import",
        ),
        (
            {"engine/a.py": "from ..config import build", "config/__init__.py": ""},
            "jtl.engine.a imports jtl.config, which engine may never import",
        ),
        ({"helpers.py": ""}, "jtl.helpers has no place in the order"),
        ({"training/a.py": "import jtl"}, "jtl.training.a imports the whole package"),
    ],
)
def test_a_planted_wrong_arrow_is_found(plant, files, line):
    assert wrong_arrows(import_graph(plant({"__init__.py": "", **files}))) == [line]


def test_a_planted_gap_in_documentation_is_found(plant):
    text = "class A:\n    def f(self, x) -> None: ...\n    def _g(self): ...\n"
    path = plant({"a.py": text}) / "a.py"
    assert [line.rpartition(": ")[2] for line in undocumented(path)] == [
        "opens with no docstring",
        "A has no docstring",
        "f has no docstring",
    ]
    assert [line.rpartition(": ")[2] for line in unannotated(path)] == ["f is not fully annotated"]


def test_a_planted_option_of_jax_is_found(plant):
    update = "jax.config.update('jax_enable_x64', True)\n"
    in_function = f"def f():\n    {update}"
    files = {"cli/a.py": in_function, "cli/b.py": update, "engine/c.py": in_function}
    found = jax_options_set(plant(files))
    assert [line.split("jtl/")[-1].split(":")[0] for line in found] == ["cli/b.py", "engine/c.py"]
