"""Prints requirements for pip from pyproject.toml and requirements.lock.

usage: requirements.py torch          the version of torch that the lock was made with
       requirements.py torch-range    the versions of torch that pyproject.toml allows
       requirements.py dependencies   what pyproject.toml declares, torch left out: it is installed by itself
       requirements.py locked NAME... the lines of these packages in the lock, with their hashes
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE if (HERE / "pyproject.toml").exists() else HERE.parent  # an image has all three files in one folder


def declared() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def is_torch(requirement: str) -> bool:
    return re.match(r"torch\b(?!-)", requirement) is not None


def torch_pin() -> str:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["dependency-metadata"]
    return next(f"torch=={entry['version']}" for entry in entries if entry["name"] == "torch")


def locked(names: list[str]) -> list[str]:
    """Each package's requirement and the indented lines that continue it."""
    blocks = re.findall(r"^[a-z0-9].*\n(?: .*\n)*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    by_name = {block.partition("==")[0].partition("[")[0]: block.rstrip() for block in blocks}
    missing = [name for name in names if name not in by_name]
    if missing:
        sys.exit(f"requirements.lock has no {', '.join(missing)}. `make lock` renews it.")
    return [by_name[name] for name in names]


def main(arguments: list[str]) -> None:
    match arguments:
        case ["torch"]:
            lines = [torch_pin()]
        case ["torch-range"]:
            lines = [requirement for requirement in declared() if is_torch(requirement)]
        case ["dependencies"]:
            lines = [requirement for requirement in declared() if not is_torch(requirement)]
        case ["locked", *names] if names:
            lines = locked(names)
        case _:
            sys.exit(__doc__)
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
