"""A worker's environment is set before torch reads it, and what a person has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from render_farm.farm.worker.process_environment import set_environment


def test_what_is_set_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PYTORCH_ALLOC_CONF": "backend:native"})
    set_environment()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "backend:native"
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


def test_nothing_that_a_worker_is_made_of_imports_torch_before() -> None:
    code = "import sys, render_farm.farm.worker.actor; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
