"""The verb plan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from render_farm.engine.weights.checkpoint import read_checkpoint
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.planning import plan_film
from render_farm.shots import Shot
from render_farm.storage.checkpoints import SegmentMeta, StoredFilm, record_segment, save_segment
from render_farm.storage.layout import SegmentKeys
from render_farm.storage.open import open_store
from render_farm.storage.publish import publish
from render_farm.tiny import MODEL_DIR

ROOT = Path(__file__).parents[4]


def test_plan_draws_windows_and_blocks(cli, manifest):
    result = cli("plan", manifest)
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    assert "long: t2v with tiny, 257 frames of 64x64 (10.7 s at 24), 65 latent frames\n  3 segments, " in text
    for window in ("frames   1-97\n", "frames  98-177, from 81-97\n", "frames 178-257, from 161-177\n"):
        assert window in text
    assert "  prompt 1: a\n  prompt 2-3: b\n" in text
    assert "segment 1: 24 steps, 5 blocks of 5 latent frames\n" in text
    assert "    block 5 │····················████████████████████████████████████████│ steps  9-24\n" in text
    assert " forwards, under 0.01 GPU seconds (predicted)\n" in text
    assert text.splitlines()[-1].startswith("total: 3 films, 5 segments, ")


def test_plan_as_json(cli, manifest):
    plan = json.loads(cli("plan", manifest, "--json", "--jobs", 2).stdout)
    assert [job["job_id"] for job in plan["jobs"]] == ["short", "long"]
    assert [segment["num_kept_frames"] for segment in plan["jobs"][1]["segments"]] == [25, 20, 20]
    assert [segment["prompt"] for segment in plan["jobs"][1]["segments"]] == ["a", "b", "b"]
    assert plan["totals"]["films"] == 3 and plan["totals"]["refused"] == 0


def test_plan_prices_what_a_row_asks_for_and_its_cheaper_relatives(cli, tmp_path):
    path = str(tmp_path / "m.parquet")
    blocks = {"ar_step": 5, "causal_block_size": 5}
    jobs = [
        RenderJob(job_id="full", prompt="a", model="df-14b-540p", num_frames=97, **blocks),
        RenderJob(job_id="few", prompt="a", model="t2v-14b-540p", sampler="distilled"),
        RenderJob(job_id="cached", prompt="a", model="t2v-14b-540p", cache="first_block:0.05"),
    ]
    write_manifest(path, jobs)
    text = cli("plan", path).stdout
    assert "  cost: at most 100 forwards, " in text
    assert "  cost: 140 forwards, " in text  # 50 steps, and 5 more for each of 4 blocks that lag
    assert "    synchronous: ar_step 0, causal_block_size 1: 100 forwards, " in text
    assert "    guidance for half of the steps: cache guidance:0.5: 115 forwards, " in text
    assert "    few steps: sampler distilled and a LoRA for it: 20 forwards, " in text
    full, few, _ = (job["prices"] for job in json.loads(cli("plan", path, "--json").stdout)["jobs"])
    assert [price["num_forwards"] for price in full] == [140, 115, 100, 20]
    assert full[2]["gpu_s"] == pytest.approx(full[0]["gpu_s"] * 100 / 140, rel=1e-3)
    assert [(price["name"], price["num_forwards"]) for price in few] == [("as asked", 4)]


@pytest.mark.slow
def test_plan_says_what_an_output_holds_already(cli, tmp_path):
    """A film of three segments whose last prompt changes, one that is done, and one that is new."""
    store = open_store(tmp_path / "out")
    spec = read_checkpoint(MODEL_DIR, name="tiny", dtype="float32").spec
    long = {"model": "tiny", "num_frames": 257, "base_num_frames": 97, "overlap_history": 17, "seed": 1}
    before = plan_film(RenderJob(job_id="a", prompt=["x", "y", "z"], **long), spec)
    state = StoredFilm(film="a-" + before.render_key, keys=before.segment_keys)
    for index in range(3):
        latents = np.full((1, 1, 1, 1, 1), index, np.float32)
        state = record_segment(store, state, save_segment(store, state, latents, SegmentMeta(attempt="w")))
    (tmp_path / "file").write_bytes(b"x")
    done = plan_film(RenderJob(job_id="done", prompt="x", model="tiny"), spec)
    names = dict.fromkeys(("video.mp4", "poster.jpg"), tmp_path / "file")
    publish(store, f"done-{done.render_key}", "w", names, {"num_frames": 97})
    path = str(tmp_path / "m.parquet")
    changed = RenderJob(job_id="a", prompt=["x", "y", "new"], **long)
    new = RenderJob(job_id="new", prompt="x", model="tiny")
    write_manifest(path, [changed, RenderJob(job_id="done", prompt="x", model="tiny"), new])
    text = cli("plan", path, "--output", tmp_path / "out").stdout
    assert [line.strip() for line in text.splitlines() if "stored" in line] == [
        "stored: 2 of 3 segments",
        "stored: the film is done",
        "stored: 0 of 1 segment",
        f"stored there: 3 of 5 segments, 1 film done; {text.rsplit('; ', 1)[1].strip()}",
    ]
    assert 0 < int(text.rsplit("; ", 1)[1].partition("%")[0]) < 60
    found = json.loads(cli("plan", path, "--output", tmp_path / "out", "--json").stdout)
    assert [job["stored"]["num_segments"] for job in found["jobs"]] == [2, 0, 0]
    assert (found["totals"]["stored_segments"], found["totals"]["done"]) == (3, 1)
    assert "stored_segments" not in json.loads(cli("plan", path, "--json").stdout)["totals"]


def test_plan_counts_what_is_stored_behind_a_cut_and_what_films_share_once(cli, tmp_path):
    """Of two films only the second takes are stored. A segment that follows a missing one continues what is gone."""
    store = open_store(tmp_path / "out")
    spec = read_checkpoint(MODEL_DIR, name="tiny", dtype="float32").spec
    size = {"model": "tiny", "base_num_frames": 97, "overlap_history": 17, "seed": 1}
    take = plan_film(RenderJob(job_id="take", prompt="y", num_frames=257, **size), spec)
    state = StoredFilm(film="take-" + take.render_key, keys=take.segment_keys)
    for index in range(3):
        latents = np.full((1, 1, 1, 1, 1), index, np.float32)
        state = record_segment(store, state, save_segment(store, state, latents, SegmentMeta(attempt="w")))
    store.delete(SegmentKeys(key=take.segment_keys[1]).record)
    path = str(tmp_path / "m.parquet")
    shots = (Shot(prompt="x"), Shot(prompt="y", num_frames=257, cut=True))
    write_manifest(path, [RenderJob(job_id=name, shots=shots, **size) for name in ("a", "b")])
    text = cli("plan", path, "--output", tmp_path / "out").stdout
    assert [line.strip().partition(";")[0] for line in text.splitlines() if "stored" in line] == [
        "stored: 1 of 4 segments",
        "stored: 1 of 4 segments, 3 shared with other films",
        "stored there: 2 of 8 segments, 3 shared by films, 0 films done",
    ]
    found = json.loads(cli("plan", path, "--output", tmp_path / "out", "--json").stdout)
    assert [job["stored"]["left"] for job in found["jobs"]] == [[0, 2, 3], []]
    assert 0 < found["totals"]["work_left"] < found["totals"]["work"] / 2


def test_plan_refuses_rows_with_reasons(cli, tmp_path):
    path = str(tmp_path / "m.parquet")
    refused = RenderJob(job_id="odd", prompt="a", model="tiny", num_frames=97, causal_block_size=4)
    write_manifest(path, [refused])
    every = cli("plan", path)
    assert every.exit_code == 10 and every.stderr.startswith("render-farm: row 1 (job_id=odd): ")
    write_manifest(path, [refused, RenderJob(job_id="fine", prompt="a", model="tiny", num_frames=33)])
    some = cli("plan", path)
    assert some.exit_code == 11 and "1 row refused" in some.stdout
    assert cli("plan", path, "--strict").exit_code == 2
    assert json.loads(cli("plan", path, "--json").stdout)["refused"][0]["job_id"] == "odd"


def test_plan_counts_what_it_does_not_draw(cli, manifest):
    result = cli("plan", manifest, "--jobs", 0)
    assert result.stdout.startswith("... 3 films not drawn (--jobs)\n") and "total: 3 films" in result.stdout


def test_plan_of_models_that_are_elsewhere(cli, tmp_path):
    path = str(tmp_path / "m.parquet")
    write_manifest(path, [RenderJob(job_id="a", prompt="p", model="s3://models/mine", num_frames=33)])
    result = cli("plan", path)
    assert result.exit_code == 0 and "33 frames of 960x544" in result.stdout
    assert "model s3://models/mine was not read" in result.stderr


def test_every_example_can_be_planned(cli, tmp_path):
    for source in ("jobs/demo.csv", "jobs/batch.yaml"):
        path = tmp_path / "m.parquet"
        assert cli("manifest", "build", ROOT / source, "-o", path, "--seeds", 2).exit_code == 0
        assert cli("plan", path, "--strict").exit_code == 0
