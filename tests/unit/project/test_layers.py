"""Who may import whom: the layers of CONTRIBUTING.md, checked on the source and by really importing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import render_farm

PACKAGE = Path(render_farm.__file__).parent

# Each row may import the rows above it. Parts of one row may not import each other, except in the first row of a list.
PACKAGES = [
    {
        "errors",
        "backoff",
        "extras",
        "memory_mode",
        "number_text",
        "step_cache",
        "check_mode",
        "drift_mode",
        "shots",
        "job",
        "models",
        "config",
        "uris",
        "store_advice",
    },
    {"planning", "scheduling"},
    {"manifest", "storage", "media", "observability", "tiny"},
    {"engine"},
    {"parallel"},
    {"farm", "report"},
    {"cli"},
    {"api"},
]
ENGINE = [
    {"device", "dtypes", "options", "progress"},
    {"transformer"},
    {"conditioning"},
    {"denoising"},
    {"lora"},
    {"weights", "decoding"},
    {"engine"},
    {"calibrate", "pipelines"},
    {"bench"},
    {"verify"},
]
FARM = [{"run"}, {"control"}, {"ray_cluster"}, {"worker"}, {"coordinator"}, {"driver"}]
RAY_ACTORS = {"actor", "text_worker"}  # the only files of farm/worker that know Ray


def modules(*, but: tuple[str, ...] = ()) -> list[str]:
    """Every module of the package, as it is imported."""
    return sorted(name for name in sources() if name.split(".")[1] not in but and not name.endswith("__main__"))


@cache
def sources() -> dict[str, Path]:
    """Every module below the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = [part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"]
        if parts:
            found[".".join(["render_farm", *parts])] = path
    return found


@cache
def imports(module: str, *, for_types: bool = False) -> frozenset[str]:
    """Modules of the package that `module` imports anywhere, those for type checking only where `for_types`."""
    tree = ast.parse(sources()[module].read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }

    def targets() -> Iterator[str]:
        for node in ast.walk(tree):
            if id(node) in typing_only and not for_types:
                continue
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    yield submodule if submodule in sources() else node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    return frozenset(name for name in targets() if name in sources() and name != module)


def wrong_imports(below: str, rows: list[set[str]]) -> list[str]:
    """Imports below the package `below` that go from an earlier row to a later one, or across a row."""
    level = {name: number for number, names in enumerate(rows) for name in names}
    wrong = []
    for module in sources():
        if not module.startswith(f"{below}."):
            continue
        owner = module.removeprefix(f"{below}.").split(".")[0]
        assert owner in level, f"{module} belongs to no row: add it to the list in this file"
        for name in imports(module):
            if not name.startswith(f"{below}."):
                continue
            part = name.removeprefix(f"{below}.").split(".")[0]
            across = level[part] == level[owner] and level[owner] > 0
            if part != owner and (level[part] > level[owner] or across):
                wrong.append(f"{module} imports {name}")
    return wrong


@pytest.mark.parametrize(
    ("below", "rows"),
    [("render_farm", PACKAGES), ("render_farm.engine", ENGINE), ("render_farm.farm", FARM)],
    ids=["packages", "engine", "farm"],
)
def test_imports_go_from_later_rows_to_earlier_ones_only(below, rows):
    assert wrong_imports(below, rows) == []


def test_no_modules_import_each_other_in_a_circle():
    # A package's __init__ imports its parts, and they find each other through it: only modules that hold code count.
    graph = {
        module: {name for name in imports(module, for_types=True) if sources()[name].name != "__init__.py"}
        for module, path in sources().items()
        if path.name != "__init__.py"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")


def import_without(blocked: str, names: list[str]) -> subprocess.CompletedProcess[str]:
    script = (
        "import importlib, sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {blocked!r}: raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_everything_but_the_farms_actors_imports_without_ray():
    free_of_ray = [
        name
        for name in sources()
        if name.startswith(("render_farm.farm.run", "render_farm.farm.control", "render_farm.farm.worker"))
        and name.rpartition(".")[2] not in RAY_ACTORS
    ]
    done = import_without("ray", modules(but=("farm", "cli")) + sorted(free_of_ray))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_everything_above_the_engine_imports_without_torch():
    done = import_without("torch", modules(but=("farm", "cli", "engine", "parallel", "tiny")))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torch", "ray", "pyarrow", "diffusers"])
def test_the_package_itself_loads_no_heavy_library(library):
    script = f"import render_farm, sys; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0
