"""Who may import whom: the layers of CONTRIBUTING.md, checked on the source and by really importing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import render_farm

PACKAGE = Path(render_farm.__file__).parent
LAYERS = [
    {"errors", "memory_mode", "step_cache", "job", "models", "config", "uris"},
    {"planning", "scheduling"},
    {"manifest", "storage", "media", "observability", "tiny"},
    {"engine"},
    {"parallel"},
    {"farm", "report"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules(*, but: tuple[str, ...] = ()) -> list[str]:
    """Every module of the package, as it is imported."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in but or parts[-1] == "__main__":
            continue
        found.append(".".join(["render_farm", *(part for part in parts if part != "__init__")]))
    return found


def imports_at_run_time(path: Path) -> list[str]:
    """Names of the package's parts that a module imports, those for type checking left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("render_farm."):
            names.append(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("render_farm.")]
    return names


def test_imports_go_from_later_layers_to_earlier_ones_only():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        owner = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if owner in ("__init__", "tiny"):  # `tiny` is a script and its data; it is imported for MODEL_DIR alone
            continue
        for name in imports_at_run_time(path):
            if name not in (owner, "__version__") and (
                LEVEL[name] > LEVEL[owner] or (LEVEL[name] == LEVEL[owner] and LEVEL[owner] > 0)
            ):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


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


def test_everything_but_the_farm_imports_without_ray():
    done = import_without("ray", modules(but=("farm", "cli")))
    assert done.returncode == 0, done.stderr


def test_everything_above_the_engine_imports_without_torch():
    done = import_without("torch", modules(but=("farm", "cli", "engine", "parallel", "tiny")))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("library", ["torch", "ray", "pyarrow", "diffusers"])
def test_the_package_itself_loads_no_heavy_library(library):
    script = f"import render_farm, sys; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0
