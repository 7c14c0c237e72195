"""Films of shots through a worker and a local Ray: cuts, pictures, previews, and segments shared with other films."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from render_farm import load_engine
from render_farm.farm.worker.film_worker import FilmWorker
from render_farm.media.mp4 import read_frames
from render_farm.media.preview import read_playlist
from render_farm.planning import with_inputs_read
from render_farm.shots import Shot
from render_farm.storage.checkpoints import load_film_state
from render_farm.storage.layout import FilmKeys
from render_farm.storage.open import open_store
from tests.helpers import films
from tests.helpers.film_tasks import film_task

CIRCLE, SQUARE = "a red circle moving right", "a blue square"
OF_SHOTS = {"prompt": None, "num_frames": None, "seed": 11, "addnoise_condition": 20}
CUT = [
    Shot(prompt=CIRCLE),
    Shot(prompt=SQUARE, num_frames=8),
    Shot(prompt=SQUARE, num_frames=37, cut=True),
    Shot(prompt=CIRCLE),
]
"""Five segments of 6, 2, 6, 4 and 4 latent frames, the last three after a cut."""
TAKE = {"prompt": [SQUARE, SQUARE, CIRCLE], "num_frames": 53, "seed": 11, "addnoise_condition": 20}
"""The film of the second take alone."""


@pytest.fixture(scope="module")
def engine():
    return load_engine("tiny", device="cpu")


def rendered(task, *, moving: bool = False) -> list[int]:
    """Render and publish a film. Returns the segments that were rendered for it."""
    worker, steps = FilmWorker("w"), set()
    for segment in range(task.plan.num_segments):
        if moving and segment:
            worker.close()
            worker = FilmWorker(f"w{segment}")
        worker.render_segment(task, segment, on_step=lambda step: steps.add(step.segment))
    worker.finish_film(task)
    worker.close()
    return sorted(steps)


@pytest.mark.slow
def test_a_film_with_a_cut_that_moves_after_every_segment_is_the_engines(engine, tmp_path):
    task = replace(film_task(engine, tmp_path, shots=CUT, **OF_SHOTS), previews=True)
    assert rendered(task, moving=True) == [0, 1, 2, 3, 4]
    ours = engine.render(films.job("a", shots=CUT, **{**films.THREE_SEGMENTS, **OF_SHOTS}))
    assert np.array_equal(films.latents(tmp_path, "a"), ours.latents.numpy())
    films.assert_complete(tmp_path, "a", num_frames=29 + 53)
    ours.save(tmp_path / "ours.mp4")
    pairs = zip(read_frames(tmp_path / "ours.mp4"), read_frames(tmp_path / "a" / "video.mp4"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    store = open_store(task.output)
    parts = read_playlist(store.read_bytes(FilmKeys(film=task.work_key).preview("preview.m3u8")).decode())
    # Decoding starts again at the cut. A busy machine may publish the film before the last parts can be watched.
    frames = [round(seconds * 24) for _, seconds in parts]
    assert frames and frames == [21, 8, 21, 16][: len(frames)]


@pytest.mark.slow
def test_the_document_says_which_shots_and_leaves_the_cut_out_of_the_seam_score(engine, tmp_path):
    rendered(film_task(engine, tmp_path, shots=CUT, **OF_SHOTS))
    document = films.document(tmp_path, "a")
    assert document["segment_prompts"] == [CIRCLE, SQUARE, SQUARE, SQUARE, CIRCLE]
    assert document["parameters"]["prompts"] == [CIRCLE, SQUARE, SQUARE, CIRCLE]
    shots = document["parameters"]["shots"]
    assert [shot["prompt"] for shot in shots] == document["parameters"]["prompts"]
    assert [(shot["num_frames"], shot["starts_take"]) for shot in shots] == [
        (21, True),
        (8, False),
        (37, True),
        (16, False),
    ]
    seams = {seam["segment"]: seam for seam in document["seams"]}
    assert [seams[segment]["frame"] for segment in (1, 2, 3, 4)] == [21, 29, 50, 66]
    assert document["seam_score"] == seams[3]["score"]


@pytest.mark.slow
def test_a_take_and_its_own_film_are_rendered_once(engine, tmp_path):
    whole = film_task(engine, tmp_path, "whole", shots=CUT, **OF_SHOTS)
    assert rendered(whole) == [0, 1, 2, 3, 4]
    assert rendered(film_task(engine, tmp_path, "alone", **TAKE)) == []
    assert films.document(tmp_path, "alone")["reused_segments"] == 3
    other = tmp_path / "other"
    assert rendered(film_task(engine, other, "alone", **TAKE)) == [0, 1, 2]
    assert rendered(film_task(engine, other, "whole", shots=CUT, **OF_SHOTS)) == [0, 1]
    assert np.array_equal(films.latents(other, "whole"), films.latents(tmp_path, "whole"))
    video = "whole/video.mp4"
    assert (other / video).read_bytes() == (tmp_path / video).read_bytes()
    frames = zip(films.latents(other, "alone")[0, 0], films.latents(other, "whole")[0, 0, 8:], strict=True)
    assert all(np.array_equal(one, two) for one, two in frames)


@pytest.mark.slow
def test_a_shot_may_start_from_a_picture(engine, tmp_path):
    pictures = {}
    for name, seed in (("one", 1), ("two", 2)):
        pictures[name] = str(tmp_path / f"{name}.png")
        pixels = np.random.default_rng(seed).integers(0, 255, (48, 40, 3), np.uint8)
        Image.fromarray(pixels).save(pictures[name])
    shots = [
        Shot(prompt=CIRCLE, image=pictures["one"]),
        Shot(prompt=SQUARE, cut=True),
        Shot(prompt=SQUARE, cut=True, image=pictures["two"], num_frames=37),
    ]
    job = films.job("a", shots=shots, **{**films.THREE_SEGMENTS, **OF_SHOTS})
    ours = engine.render(job)
    takes = [
        {"prompt": CIRCLE, "num_frames": 21, "image": pictures["one"]},
        {"prompt": SQUARE, "num_frames": 21},
        {"prompt": SQUARE, "num_frames": 37, "image": pictures["two"]},
    ]
    alone = [engine.render(films.job("t", **{**films.THREE_SEGMENTS, **OF_SHOTS, **take})) for take in takes]
    assert np.array_equal(ours.latents.numpy(), np.concatenate([video.latents.numpy() for video in alone], axis=2))
    frames = zip(ours.frames, (frame for video in alone for frame in video.frames), strict=True)
    assert all(np.array_equal(one, other) for one, other in frames)
    assert ours.plan.segment_keys == tuple(key for video in alone for key in video.plan.segment_keys)
    task = film_task(engine, tmp_path, shots=shots, **OF_SHOTS)
    task = replace(task, plan=with_inputs_read(task.plan, dict(ours.plan.job.input_digests)))
    assert rendered(task, moving=True) == [0, 1, 2, 3]
    assert np.array_equal(films.latents(tmp_path, "a"), ours.latents.numpy())
    shown = films.document(tmp_path, "a")["parameters"]
    assert (shown["image"], shown["shots"][2]["image"]) == (pictures["one"], pictures["two"])
    assert [name for name, _ in shown["input_digests"]] == ["image", "image of shot 3"]


@pytest.mark.long
def test_a_run_renders_a_film_of_shots_and_shares_its_take(tmp_path):
    jobs = [
        films.job("whole", shots=CUT, **{**films.THREE_SEGMENTS, **OF_SHOTS}),
        films.job("alone", **{**films.THREE_SEGMENTS, **TAKE}),
    ]
    done = films.render(
        films.manifest(tmp_path, jobs), "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    rows = films.results(tmp_path / "out")
    assert (rows["whole"]["segments"], rows["whole"]["frames"], rows["alone"]["frames"]) == (5, 82, 53)
    assert rows["whole"]["reused_segments"] + rows["alone"]["reused_segments"] == 3
    films.assert_complete(tmp_path / "out", "whole", num_frames=82)
    document = films.document(tmp_path / "out", "whole")
    state = load_film_state(open_store(str(tmp_path / "out")), f"whole-{document['render_key']}")
    assert len(state.segments) in (0, 5), "the work folder is removed with the run or kept whole"
