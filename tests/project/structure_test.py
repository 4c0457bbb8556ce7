"""The structure of the code: which package may import which, and how long things may be.

Imports are read from the source, imports inside functions included.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Modules of mtf_switch that belong to no package; every package may import them.
SHARED = {"errors", "machine", "network", "report", "value_rules", "whole_file"}

_BELOW_RUNS = {
    *("model", "model_dirs", "lines", "layers", "config", "tasks", "upstream", "programs")
}

# Package -> the other packages that it may import.
MAY_IMPORT = {
    "upstream": set(),
    "layers": set(),
    "config": set(),
    "tasks": set(),
    "model_dirs": {"config"},
    "lines": {"tasks"},
    "model": {"layers", "config"},
    "runs": _BELOW_RUNS,
    "downstream": {"runs", *_BELOW_RUNS},
    "programs": set(),
    "pjrt": {"runs", *_BELOW_RUNS},
    "planning": {"runs", *_BELOW_RUNS},
    "conversion": {"runs", *_BELOW_RUNS},
    "analysis": {"runs", *_BELOW_RUNS},
    "reproduction": {"downstream", "planning", "programs", "runs", *_BELOW_RUNS},
    "distillation": {"runs", *_BELOW_RUNS},
    "serving": {"runs", *_BELOW_RUNS},
}
# No package imports these two.
MAY_IMPORT.update(demo=set(MAY_IMPORT), cli=set(MAY_IMPORT))

MAX_LINES_PER_FILE = 350
MAX_LINES_PER_FUNCTION = 60
# The largest number of modules in a chain of imports from the command line.
MAX_IMPORT_CHAIN = 12
CODE_FOLDERS = ("mtf_switch", "tasks", "benchmarks", "tests", "docs")
NAMES_THAT_SAY_NOTHING = {"common", "helpers", "misc", "util", "utils"}

# Test folders without a package of their own: `gin` is for the gin files, `project` for all.
OTHER_TEST_FOLDERS = {"gin", "goldens", "project", "support"}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """mtf_switch/layers/router.py -> "mtf_switch.layers.router"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in python_files("mtf_switch", "tasks")}


def find_package(module: str) -> str:
    """The row of the table: "layers" of "mtf_switch.layers.router", and "tasks"."""
    first, *others = module.split(".")
    return others[0] if first == "mtf_switch" and others else first


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (module, symbol) of each import of a file; `import module` has no symbol."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """The modules of MODULES that a file imports."""
    found = set()
    for module, symbol in imports(path):
        submodule = f"{module}.{symbol}"
        found.add(submodule if submodule in MODULES else module)
    return found & MODULES.keys()


def test_the_table_has_every_package() -> None:
    folders = {path.parent.name for path in (ROOT / "mtf_switch").glob("*/__init__.py")}
    assert folders | {"tasks"} == MAY_IMPORT.keys()
    modules = {path.stem for path in (ROOT / "mtf_switch").glob("*.py")} - {"__init__"}
    assert modules <= SHARED


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    allowed = {package, *SHARED, *MAY_IMPORT[package]}
    found = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if find_package(module) == package
        for imported in sorted(imported_modules(path))
        if imported != "mtf_switch" and find_package(imported) not in allowed
    ]
    assert found == []


def test_shared_modules_import_no_package() -> None:
    for module, path in MODULES.items():
        if find_package(module) in SHARED:
            assert {find_package(imported) for imported in imported_modules(path)} <= SHARED


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: imported_modules(path) for module, path in MODULES.items()}
    # Raises a CycleError that names the modules of a circle.
    graphlib.TopologicalSorter(graph).prepare()


def test_chains_of_imports_are_short() -> None:
    graph = {module: imported_modules(path) for module, path in MODULES.items()}
    chains: dict[str, list[str]] = {}
    for module in graphlib.TopologicalSorter(graph).static_order():
        below = max((chains[imported] for imported in graph[module]), key=len, default=[])
        chains[module] = [module, *below]
    longest = max(chains.values(), key=len)
    assert len(longest) <= MAX_IMPORT_CHAIN, " > ".join(longest)


def test_no_test_file_imports_another() -> None:
    test_files = {path.stem for path in (ROOT / "tests").rglob("*_test.py")}
    for path in python_files("tests"):
        shared = test_files & {module for module, _ in imports(path)}
        assert not shared, f"{path}: move what it takes from {shared} to tests/support"


def test_tests_mirror_the_packages() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in python_files("tests")}
    tested = {folder.parts[0] for folder in folders if folder.parts}
    assert tested - OTHER_TEST_FOLDERS == MAY_IMPORT.keys()
    assert all(len(folder.parts) <= 1 for folder in folders)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_files_and_functions_are_short() -> None:
    too_long = []
    for path in python_files(*CODE_FOLDERS):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES_PER_FILE:
            too_long.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for function in functions(path):
            lines = function.end_lineno - function.lineno + 1
            if lines > MAX_LINES_PER_FUNCTION:
                too_long.append(f"{path.relative_to(ROOT)}: {function.name} has {lines} lines")
    assert too_long == []


def test_every_module_has_a_name_that_says_what_it_holds() -> None:
    for path in python_files(*CODE_FOLDERS):
        words = itertools.chain(path.parent.name.split("_"), path.stem.split("_"))
        assert not NAMES_THAT_SAY_NOTHING.intersection(words), path
