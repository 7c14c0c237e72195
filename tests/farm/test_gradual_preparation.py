"""Films whose inputs are ready are rendered while those of others are still read, on a real Ray."""

from __future__ import annotations

import threading

import pytest
from PIL import Image

from render_farm.farm.driver import prepare
from render_farm.farm.driver import render_run as driver
from render_farm.farm.run.request import RunRequest
from tests.helpers import films


@pytest.mark.long
def test_films_are_rendered_while_a_picture_is_still_read(tmp_path, monkeypatch):
    """The picture takes as long as it takes until another film is rendered."""
    monkeypatch.setattr(driver, "_BATCH_S", 0.2)
    has_started, read = threading.Event(), prepare.open_image

    def read_late(uri, *arguments, **named):
        if uri.endswith("late.png"):
            assert has_started.wait(200), "no film was rendered meanwhile"
        return read(uri, *arguments, **named)

    monkeypatch.setattr(prepare, "open_image", read_late)
    for name in ("late", "other"):
        Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / f"{name}.png")
    short = {"num_frames": 21, "num_inference_steps": 1}
    jobs = [
        films.job("late", image=str(tmp_path / "late.png"), **short),
        films.job("gone", image=str(tmp_path / "gone.png"), **short),
        films.job("picture", image=str(tmp_path / "other.png"), **short),
        films.job("plain", **short),
    ]
    request = RunRequest(
        manifest=films.manifest(tmp_path, jobs), output=str(tmp_path / "out"), num_workers=1, device="cpu"
    )
    totals, notes = set(), set()

    def on_snapshot(snapshot) -> None:
        totals.add(snapshot.num_jobs)
        notes.add(snapshot.note)
        if snapshot.segments_done:
            has_started.set()

    outcome = driver.render_run(request, on_snapshot=on_snapshot)
    assert outcome.jobs == {"done": 3, "failed": 1}
    assert outcome.exit_code == 11
    assert list(films.results(tmp_path / "out")) == ["late", "gone", "picture", "plain"]
    assert totals == {4}
    assert "1 row is still being prepared" in notes
