"""A worker's environment is set before torch reads it, and what a person has set stays."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from render_farm.farm.worker import process_environment
from render_farm.farm.worker.process_environment import set_environment


def test_what_is_set_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PYTORCH_ALLOC_CONF": "backend:native"})
    set_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "backend:native"
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


@pytest.mark.slow
def test_nothing_that_a_worker_is_made_of_imports_torch_before() -> None:
    code = "import sys, render_farm.farm.worker.actor; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_pinned_memory_is_neither_rounded_nor_kept_where_torch_can_be_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(process_environment, "version", lambda name: "2.13.1+cu130")
    set_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True,pinned_max_cached_size_mb:32"
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(process_environment, "version", lambda name: "2.12.0")
    set_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_this_torch_knows_the_name() -> None:
    [library] = Path(find_spec("torch").submodule_search_locations[0], "lib").glob("libc10.so")  # type: ignore[union-attr, index]
    assert b"pinned_max_cached_size_mb" in library.read_bytes()
