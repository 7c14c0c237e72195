"""The verbs that control a run."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.storage.run_state import load_run_state
from tests.helpers.stored_run import stored_run


@pytest.fixture
def store(tmp_path):
    return stored_run(tmp_path)


def invoke(*arguments: str):
    return CliRunner().invoke(app, [*arguments])


@pytest.mark.slow
def test_the_verbs_read_a_run_by_its_uri_or_by_its_id_and_output(store, monkeypatch):
    done = invoke("pause", f"{store.root_uri}/_runs/night", "--json")
    assert json.loads(done.stdout)["applied"] == "stored"
    monkeypatch.setenv("RENDER_FARM_OUTPUT", store.root_uri)
    assert invoke("resume", "night").exit_code == 0
    assert invoke("cancel", "night", "c").exit_code == 2  # nobody is there to confirm
    assert invoke("cancel", "night", "c", "--yes").exit_code == 0
    assert invoke("explain", "night", "c").stdout.startswith("c: cancelled by name")
    assert invoke("explain", "night", "nobody").exit_code == 14
    assert invoke("pause", "nights").exit_code == 14
    assert invoke("retry", "night").exit_code == 2
    assert invoke("hosts", "list", "night").exit_code == 0


def test_a_run_without_an_output_is_a_usage_error(monkeypatch, tmp_path):
    monkeypatch.delenv("RENDER_FARM_OUTPUT", raising=False)
    monkeypatch.setenv("RENDER_FARM_CONFIG", "")
    assert invoke("pause", "night").exit_code == 2
    assert invoke("pause", "../x", "--output", str(tmp_path)).exit_code == 2


@pytest.mark.slow
def test_the_priority_comes_last(store, monkeypatch):
    monkeypatch.setenv("RENDER_FARM_OUTPUT", store.root_uri)
    assert invoke("priority", "night", "c", "90").exit_code == 0
    assert load_run_state(store, "night").jobs["c"].priority == 90
    assert invoke("priority", "night", "c", "--to", "10").exit_code == 0
    assert load_run_state(store, "night").jobs["c"].priority == 10
    assert invoke("priority", "night", "70").exit_code == 0  # all that are left
    assert load_run_state(store, "night").jobs["c"].priority == 70
    for wrong in (["c"], [], ["c", "101"], ["c", "-1"]):
        assert invoke("priority", "night", *wrong).exit_code == 2


@pytest.mark.slow
def test_a_run_that_nobody_renders_names_the_command_that_starts_it(store, monkeypatch):
    monkeypatch.setenv("RENDER_FARM_OUTPUT", store.root_uri)
    command = f"render-farm continue night --output {store.root_uri}"
    for arguments in (["resume", "night"], ["retry", "night", "--failed"], ["explain", "night"]):
        said = invoke(*arguments)
        assert said.exit_code == 0
        assert command in said.stdout, arguments
    assert "nobody renders run night" in invoke("resume", "night").stdout
    assert json.loads(invoke("resume", "night", "--json").stdout)["continue"] == command
