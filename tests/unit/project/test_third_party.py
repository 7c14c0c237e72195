"""THIRD_PARTY.md names what the lock installs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "THIRD_PARTY.md").read_text()
ROW = re.compile(r"^\| ([a-z0-9-]+) \| (\S+) \| (.+) \|$", re.MULTILINE)


def test_every_dependency_is_named_with_its_locked_version_and_a_licence():
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==([^ ]+) ", lock, re.MULTILINE))
    rows = {name: version for name, version, _ in ROW.findall(PAGE) if name != "package"}
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert canonicalize_name(Requirement(text).name) in rows, "run `make third-party`"
    assert {name: locked[name] for name in rows if name in locked} == {
        name: version for name, version in rows.items() if name in locked
    }, "run `make third-party`"
    assert len(rows) > 60


def test_what_needs_a_look_is_there():
    for word in ("GPL", "H.264", "NVIDIA", "--build-arg FFMPEG=system"):
        assert word in PAGE


def test_the_page_is_made_by_its_script():
    made = subprocess.run([sys.executable, ".ci/third_party.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.partition("## Packages")[0] == PAGE.partition("## Packages")[0]
