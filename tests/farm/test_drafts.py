"""Drafts: the first segments of films under names of their own, and films that continue from them bit for bit."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from render_farm import load_engine
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.manifest.reader import load_manifest
from render_farm.planning import plan_film
from tests.helpers import films
from tests.helpers.film_tasks import film_task

CPU = ("--workers", "1", "--device", "cpu")


def rendered(task) -> list[int]:
    worker, steps = FilmWorker("w"), set()
    for segment in range(task.plan.num_segments):
        worker.render_segment(task, segment, on_step=lambda step: steps.add(step.segment))
    worker.finish_film(task)
    worker.close()
    return sorted(steps)


@pytest.mark.slow
def test_a_film_continues_from_its_draft(tmp_path):
    engine = load_engine("tiny", device="cpu")
    task = film_task(engine, tmp_path, "a.draft", seed=5)
    job = films.job("a.draft", seed=5, **films.THREE_SEGMENTS)
    draft = replace(task, plan=plan_film(job, engine.spec, first_segments=1))
    assert rendered(draft) == [0]
    document = films.document(tmp_path, "a.draft")
    assert document["draft"] == "a draft: 1 of the film's 3 segments"
    assert document["parameters"]["first_segments"] == 1
    assert rendered(film_task(engine, tmp_path, seed=5)) == [1, 2]
    assert rendered(film_task(engine, tmp_path / "fresh", seed=5)) == [0, 1, 2]
    assert np.array_equal(films.latents(tmp_path, "a"), films.latents(tmp_path / "fresh", "a"))
    video = "a/video.mp4"
    assert (tmp_path / video).read_bytes() == (tmp_path / "fresh" / video).read_bytes()
    assert films.document(tmp_path, "a")["reused_segments"] == 1
    assert "draft" not in films.document(tmp_path, "a")


@pytest.mark.long
def test_a_draft_night_a_pick_and_the_chosen_film(tmp_path):
    output = tmp_path / "out"
    jobs = [films.job(name, seed=seed, **films.THREE_SEGMENTS) for name, seed in (("a", None), ("b", 2), ("c", 3))]
    manifest = films.manifest(tmp_path, jobs)
    drafts = films.render(manifest, "--output", str(output), "--first-segments", "1", "--json", *CPU)
    assert drafts.returncode == 0, drafts.stderr
    run_id = json.loads(drafts.stdout)["run_id"]
    assert run_id.endswith("-first-1")
    rows = films.results(output, run_id)
    assert {name: (row["segments"], row["frames"], row["message"]) for name, row in rows.items()} == {
        f"{name}.draft": (1, 21, "a draft: 1 of the film's 3 segments") for name in "abc"
    }
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith("_")) == [
        "a.draft",
        "b.draft",
        "c.draft",
    ]
    chosen = str(tmp_path / "chosen.parquet")
    picked = subprocess.run(
        films.command("pick", f"{output}/_runs/{run_id}", "a", "c.draft", "-o", chosen), capture_output=True, text=True
    )
    assert picked.returncode == 0, picked.stderr
    assert [row.job for row in load_manifest(chosen)] == [jobs[0], jobs[2]]
    done = films.render(chosen, "--output", str(output), "--json", *CPU)
    assert done.returncode == 0, done.stderr
    rows = films.results(output, json.loads(done.stdout)["run_id"])
    assert {name: (row["segments"], row["reused_segments"]) for name, row in rows.items()} == {"a": (3, 1), "c": (3, 1)}
    fresh = films.render(chosen, "--output", str(tmp_path / "fresh"), *CPU)
    assert fresh.returncode == 0, fresh.stderr
    for name in "ac":
        video = f"{name}/video.mp4"
        assert (output / video).read_bytes() == (tmp_path / "fresh" / video).read_bytes()
    films.assert_complete(output, "b.draft", num_frames=21)
    continued = subprocess.run(
        films.command("continue", run_id, "-o", str(output), *CPU, "--json"), capture_output=True, text=True
    )
    assert json.loads(continued.stdout)["jobs"] == {"done": 3}, continued.stderr
