"""Films whose inputs are ready are rendered while those of others are still read, on a real Ray."""

from __future__ import annotations

from PIL import Image

from render_farm.farm.driver import render_run as driver
from render_farm.farm.run.request import RunRequest
from tests.helpers import films
from tests.helpers.media_files import slow_jpeg


def test_films_are_rendered_while_a_picture_is_still_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "_BATCH_S", 0.2)
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "a.png")
    slow = slow_jpeg(tmp_path / "slow.jpg", num_scans=6_000)  # a quarter of a minute
    short = {"num_frames": 21, "num_inference_steps": 1}
    jobs = [
        films.job("slow", image=str(slow), **short),
        films.job("gone", image=str(tmp_path / "gone.png"), **short),
        films.job("picture", image=str(tmp_path / "a.png"), **short),
        films.job("plain", **short),
    ]
    request = RunRequest(
        manifest=films.manifest(tmp_path, jobs), output=str(tmp_path / "out"), num_workers=1, device="cpu"
    )
    snapshots = []
    outcome = driver.render_run(request, on_snapshot=snapshots.append)
    assert outcome.jobs == {"done": 3, "failed": 1}
    assert outcome.exit_code == 11
    assert list(films.results(tmp_path / "out")) == ["slow", "gone", "picture", "plain"]
    early = [snapshot for snapshot in snapshots if snapshot.note == "1 row is still being prepared"]
    assert any(snapshot.segments_running for snapshot in early), "something is rendered meanwhile"
    assert all(snapshot.num_jobs == 4 for snapshot in snapshots)
    again = driver.render_run(request)
    assert again.jobs == {"done": 3, "failed": 1}
