"""The documentation becomes a site without a warning: no link leads nowhere, and every page of the guide is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GUIDE = sorted((ROOT / "render_farm/guide").glob("*.md"))


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: it comes with the dependency group `docs`")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in GUIDE:
        folder = "" if page.stem == "index" else page.stem
        assert (tmp_path / "site/render_farm/guide" / folder / "index.html").is_file(), page.name
    assert "load_engine" in (tmp_path / "site/reference/render_farm/index.html").read_text()


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.name)
def test_every_page_of_the_guide_opens_with_a_command_and_is_in_the_navigation(page):
    before, _, after = page.read_text().partition("```")
    assert after, "no command to paste"
    assert "\n## " not in before, "the first command comes before the first section"
    assert f"render_farm/guide/{page.name}" in (ROOT / "mkdocs.yml").read_text()
