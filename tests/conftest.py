"""Fixtures that every folder of tests shares, and a mark for the tests that use one of a server."""

from __future__ import annotations

import os

import pytest

# As render_farm.engine does, before any test module loads torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

pytest_plugins = ["tests.helpers.fixtures_s3"]


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "s3_server" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
