"""A headless Chromium. Without one these tests are skipped, except where RENDER_FARM_NEEDS_BROWSER says to fail."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="package")
def chromium():
    """A browser that starts no service of its own; pages of `file:` may read files beside them. It ends with its tests:
    while it runs, its event loop is that of the process."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        needed = os.environ.get("RENDER_FARM_NEEDS_BROWSER")
        (pytest.fail if needed else pytest.skip)(
            "no Chromium is here (apt-get install chromium; pip install playwright)"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    """Where pictures of the pages go: `$RENDER_FARM_SCREENSHOTS`, else a temporary folder."""
    folder = Path(os.environ.get("RENDER_FARM_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
