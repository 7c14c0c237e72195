"""Runs of chosen rows on a real local Ray: films of another manifest, canaries, and a run that is continued."""

from __future__ import annotations

import json
import subprocess

import pytest

from render_farm.farm.driver.render_run import render_run
from render_farm.farm.run.request import RunRequest
from render_farm.storage.open import open_store
from render_farm.storage.run_state import load_run_state
from tests.helpers import films

SHORT = {"num_frames": 21, "num_inference_steps": 1}


def run(manifest: str, output, **values):
    request = RunRequest(manifest=manifest, output=str(output), num_workers=1, device="cpu", address="local", **values)
    return render_run(request, on_snapshot=lambda snapshot: None)


@pytest.mark.long
def test_films_of_another_manifest_are_refused_and_replaced_when_asked(tmp_path):
    output = tmp_path / "out"
    first = films.manifest(tmp_path, [films.job("a", **SHORT), films.job("b", **SHORT)], "first.parquet")
    chosen = run(first, output, where="job_id == 'a'")
    assert chosen.jobs == {"done": 1}
    assert list(films.results(output)) == ["a"]
    other = films.manifest(tmp_path, [films.job("a", seed=7, **SHORT)], "other.parquet")
    refused = run(other, output)
    assert (refused.jobs, refused.exit_code) == ({"failed": 1}, 10)
    row = films.results(output, refused.run_id)["a"]
    assert row["error_class"] == "FilmExistsError"
    assert chosen.run_id in row["message"]
    assert films.document(output, "a")["run_id"] == chosen.run_id
    assert run(other, output, replace=True).jobs == {"done": 1}
    assert films.document(output, "a")["run_id"] == refused.run_id


@pytest.mark.long
def test_a_canary_that_fails_pauses_the_run_and_continue_goes_on(tmp_path):
    """One of them is refused before anything renders: its picture is missing."""
    output = tmp_path / "out"
    bad = films.job("bad", image="gone.png", **SHORT)
    manifest = films.manifest(tmp_path, [films.job("a", **SHORT), bad, films.job("c", **SHORT)])
    running = films.start_render(
        manifest, "--output", str(output), "--workers", "1", "--device", "cpu", "--canary", "2"
    )
    [run_id] = films_runs(output)
    films.wait_for(lambda: load_run_state(open_store(output), run_id).control.paused, what="the pause")
    states = load_run_state(open_store(output), run_id).jobs
    assert (states["a"].state, states["bad"].state) == ("done", "failed")
    assert not (output / "c").exists()
    running.terminate()
    running.communicate(timeout=120)
    resumed = subprocess.run(films.command("resume", f"{output}/_runs/{run_id}"), capture_output=True, text=True)
    assert "render-farm continue" in resumed.stdout
    again = subprocess.run(
        films.command("continue", run_id, "-o", str(output), "--workers", "1", "--device", "cpu", "--json"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert json.loads(again.stdout)["jobs"] == {"done": 2, "failed": 1}, again.stderr
    films.assert_complete(output, "c", num_frames=21)


def films_runs(output) -> list[str]:
    films.wait_for(lambda: list(output.glob("_runs/*/run.json")), what="the run")
    return [path.name for path in (output / "_runs").iterdir()]
