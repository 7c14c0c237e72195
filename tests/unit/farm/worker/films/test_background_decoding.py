"""Which pictures a film is compared with, by the checks."""

from __future__ import annotations

import pytest
from PIL import Image

from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.worker.films.background_decoding import _pictures
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset


@pytest.mark.parametrize(
    ("first_segments", "compared"), [(0, {"image", "last_image"}), (1, {"image"}), (3, {"image", "last_image"})]
)
def test_a_draft_without_the_last_segment_does_not_end_with_the_last_image(tmp_path, first_segments, compared):
    for name in "ab":
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
    job = RenderJob(
        job_id="a",
        prompt="x",
        image=str(tmp_path / "a.png"),
        last_image=str(tmp_path / "b.png"),
        num_frames=53,
        base_num_frames=21,
        overlap_history=5,
        height=32,
        width=32,
    )
    plan = plan_film(job, spec_of_preset("tiny", fingerprint="f"), first_segments=first_segments)
    assert set(_pictures(FilmTask(run_id="night", output=str(tmp_path), model="tiny", plan=plan))) == compared
