"""A run that cannot start."""

from __future__ import annotations

import importlib.util

import pytest

from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.settings import Settings
from render_farm.media.provenance_settings import ProvenanceSettings


def test_signing_without_its_package_ends_a_run_before_it_writes(monkeypatch, tmp_path):
    """Its manifest is not looked for either. The command line makes a usage error of it (`test_extras.py`)."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "c2pa" else real(name))
    provenance = ProvenanceSettings(certificate="/a.pem", private_key="/b.pem")
    request = RunRequest(manifest="none.csv", output=str(tmp_path / "out"), settings=Settings(provenance=provenance))
    with pytest.raises(ModuleNotFoundError) as caught:
        render_run(request)
    assert caught.value.name == "c2pa" and not (tmp_path / "out").exists()
