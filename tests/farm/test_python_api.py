"""The farm from Python, as a notebook uses it: what README and guide show, run in cells of one namespace."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from tests.helpers import films

CELLS = (
    """
from render_farm import RenderJob, RunRequest, load_engine, render_run, run_status, submit
""",
    """
snapshots = []
outcome = render_run(
    RunRequest(output=OUTPUT, prompt="a red circle", overrides=SMALL, device="cpu", num_workers=1, address="local"),
    on_snapshot=snapshots.append,
)
""",
    """
now = run_status(outcome.run_id, output=OUTPUT)
""",
    """
video = load_engine("tiny", device="cpu").render(RenderJob(job_id="a", prompt="a red circle", **SMALL))
shown = video._repr_html_()
""",
)
SMALL = {"num_frames": 17, "height": 32, "width": 32, "num_inference_steps": 2}


@pytest.mark.long
@pytest.mark.slow
def test_a_notebook_renders_a_run_looks_at_it_and_shows_a_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells: dict = {"OUTPUT": str(tmp_path / "films"), "SMALL": SMALL}
    for cell in CELLS:
        exec(cell, cells)
    outcome, now, shown = cells["outcome"], cells["now"], cells["shown"]
    assert (outcome.state, outcome.jobs, outcome.exit_code) == ("done", {"done": 1}, 0)
    assert (now.state, now.num_jobs) == ("done", 1)
    assert cells["snapshots"][-1].state == "done"
    found = re.fullmatch(r'<video .*width="32" height="32" src="data:video/mp4;base64,(.+)"></video>', shown)
    assert found is not None and base64.b64decode(found[1])[4:8] == b"ftyp"
    monkeypatch.setattr("render_farm.engine.decoding.video._MOST_SHOWN_BYTES", 100)
    long = load_again(cells)
    link = re.fullmatch(r'<a href="file://(.+\.mp4)">a: 0 MiB of MP4</a>', long._repr_html_())
    assert link is not None and Path(link[1]).stat().st_size > 100
    del long
    cells.pop("again")
    assert not Path(link[1]).exists()


def load_again(cells: dict) -> object:
    exec('again = load_engine("tiny", device="cpu").render(RenderJob(job_id="a", prompt="a", **SMALL))', cells)
    return cells["again"]


@pytest.mark.long
def test_a_run_is_submitted_and_watched_from_python(ray_head, tmp_path: Path) -> None:
    from render_farm import RunRequest, run_status, submit

    output = str(tmp_path / "films")
    request = RunRequest(output=output, prompt="a red circle", overrides=SMALL, device="cpu", num_workers=1)
    run_id = submit(request, address=ray_head.job_server).run_id
    films.wait_for(lambda: (tmp_path / "films/_runs" / run_id).exists(), timeout_s=200, what="the run's folder")
    films.wait_for(lambda: run_status(run_id, output=output).is_over, timeout_s=200, what="the run's end")
    assert run_status(run_id, output=output).jobs == {"done": 1}
