"""The tests mirror the source: the test of a module lies where the module does, and what tests share is in helpers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[2]
PACKAGE = TESTS.parent / "render_farm"

# Test modules of tests/unit that are about several modules of their package, or about its data.
ABOUT_A_PACKAGE = {
    "engine/lora/test_forms.py",
    "engine/lora/test_fuzz.py",
    "engine/test_finite.py",
    "farm/control/test_garbage_protocol.py",
    "farm/driver/test_costly_rows.py",
    "engine/weights/test_fuzz.py",
    "manifest/test_fuzz.py",
    "manifest/test_scale.py",
    "media/test_colour_tags.py",
    "media/test_fuzz.py",
    "media/test_wild_files.py",
    "planning/test_one_window.py",
    "planning/test_warnings.py",
    "report/test_fuzz.py",
    "scheduling/test_groups.py",
    "scheduling/test_invariants.py",
    "scheduling/test_properties.py",
    "storage/test_fuzz.py",
    "storage/test_protocol.py",
    "tiny/test_checkpoint.py",
}


@cache
def imported(path: Path) -> list[str]:
    """Every module that a file names in an import."""
    return list(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_no_file_imports_from_a_test_module_or_a_conftest():
    wrong = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imported(path)
        if name.startswith("tests.") and any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert wrong == [], "what several tests use belongs to tests/helpers/"


def test_tests_are_imported_by_their_full_names():
    relative = [path.relative_to(TESTS) for path in TESTS.rglob("*.py") for name in imported(path) if name[0] == "."]
    assert relative == []


def test_helpers_hold_no_tests():
    assert [path.name for path in (TESTS / "helpers").rglob("test_*.py")] == []


def test_every_unit_test_is_named_after_the_module_that_it_tests():
    astray = []
    for path in sorted((TESTS / "unit").rglob("test_*.py")):
        place = path.relative_to(TESTS / "unit")
        module = PACKAGE / place.with_name(place.name.removeprefix("test_"))
        if place.parts[0] != "project" and not module.exists() and place.as_posix() not in ABOUT_A_PACKAGE:
            astray.append(f"tests/unit/{place}: there is no render_farm/{module.relative_to(PACKAGE)}")
    assert astray == []


def test_the_list_of_exceptions_is_up_to_date():
    assert [place for place in sorted(ABOUT_A_PACKAGE) if not (TESTS / "unit" / place).exists()] == []
