"""Prints requirements for pip from pyproject.toml and requirements.lock.

usage: requirements.py torch             the version of torch that the lock was made with
       requirements.py torch-range       the versions of torch that pyproject.toml allows
       requirements.py declared NAME...  what pyproject.toml declares as dependencies and in these extras and groups
       requirements.py locked NAME...    the lines of these packages in the lock, with their hashes
       requirements.py needed NAME...    the lines of what pyproject.toml declares so, and of all that it needs

torch is left out everywhere, because it is installed by itself.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "pyproject.toml").exists() else HERE.parent  # an image has all three files in one folder


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    """The package of a requirement or of a line in the lock, as the lock spells it."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def declared(names: list[str]) -> list[str]:
    """The dependencies, and those of the extras and groups `names` with what these include."""
    project, groups = pyproject()["project"], pyproject()["dependency-groups"]
    found, waiting, seen = list(project["dependencies"]), list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        entries = project["optional-dependencies"].get(name) or groups.get(name)
        if entries is None:
            sys.exit(f"pyproject.toml has neither an extra nor a group {name}")
        for entry in entries:
            if isinstance(entry, dict):
                waiting.append(entry["include-group"])
            elif entry.startswith(f"{project['name']}["):
                waiting += entry.partition("[")[2].rstrip("]").split(",")
            else:
                found.append(entry)
    return found


def without_torch(requirements: list[str]) -> list[str]:
    return [requirement for requirement in requirements if name_of(requirement) != "torch"]


def torch_pin() -> str:
    entries = pyproject()["tool"]["uv"]["dependency-metadata"]
    return next(f"torch=={entry['version']}" for entry in entries if entry["name"] == "torch")


def lock() -> dict[str, str]:
    """Each package's requirement and the indented lines that continue it."""
    blocks = re.findall(r"^[a-z0-9].*\n(?: .*\n)*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return {name_of(block): block.rstrip() for block in blocks}


def locked(names: list[str]) -> list[str]:
    blocks = lock()
    missing = [name for name in names if name not in blocks]
    if missing:
        sys.exit(f"requirements.lock has no {', '.join(missing)}. `make lock` renews it.")
    return [blocks[name] for name in names]


def needed(names: list[str]) -> list[str]:
    """The lock names, below each package, the packages that need it. Read the other way round, that is what to install:
    all of it, or a little more, as the lock does not say which extras of a package need another."""
    asked = {name_of(requirement) for requirement in declared(names)}
    blocks = lock()
    if "triton" not in asked:  # builds of torch that need it bring it
        blocks.pop("triton")
    found, waiting = set(), asked
    while waiting:
        found |= waiting
        waiting = {
            name
            for name, block in blocks.items()
            if name not in found and found & set(re.findall(r"^    #(?: via)? +(\S+)$", block, re.MULTILINE))
        }
    return locked(sorted(found - {"torch"}))


def main(arguments: list[str]) -> None:
    match arguments:
        case ["torch"]:
            lines = [torch_pin()]
        case ["torch-range"]:
            lines = [line for line in declared(["worker"]) if name_of(line) == "torch"]
        case ["declared", *names]:
            lines = without_torch(declared(names))
        case ["locked", *names] if names:
            lines = locked(names)
        case ["needed", *names]:
            lines = needed(names)
        case _:
            sys.exit(__doc__)
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
