"""The files that a folder's README lists exist in that folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOPS = ("render_farm", "dashboards", "cluster", "jobs", "tests")
READMES = sorted(path for top in TOPS for path in (ROOT / top).rglob("README.md"))
_FILE = re.compile(r"`([\w/.-]+\.(?:py|yaml|yml|json|csv|sbatch|cron))`")


def listed(readme: Path) -> list[str]:
    """Names of files in the first column of its tables."""
    first_cells = [line.split("|")[1] for line in readme.read_text().splitlines() if line.startswith("|")]
    return [name for cell in first_cells for name in _FILE.findall(cell)]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_listed_in_readmes_exist(readme):
    folder = readme.parent
    assert [name for name in listed(readme) if not any(folder.rglob(name))] == []


def test_readmes_list_files_at_all():
    assert len(listed(ROOT / "render_farm/farm/README.md")) > 40
    assert len(listed(ROOT / "render_farm/engine/README.md")) > 30
