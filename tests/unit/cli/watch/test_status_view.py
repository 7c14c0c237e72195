"""The live view of a run in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from render_farm.cli.watch.status_view import status_view
from render_farm.report.status import RunStatus, SegmentWork


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_all_of_it_in_its_width(width):
    works = [
        SegmentWork(
            worker=f"worker-{n}.{n}", job_id=f"a-film-with-a-long-name-{n}", doing="segment 2/5 step 14/50", since_s=9
        )
        for n in range(40)
    ]
    works[0] = replace(works[0], attempt=2, helpers=("worker-1.1",), fraction=0.5)
    now = RunStatus(
        run_id="nightly-2026-11-21-1a2b3c4d",
        output="s3://bucket/films",
        state="running",
        num_jobs=1200,
        jobs={"done": 700, "running": 40, "waiting": 457, "failed": 3},
        num_segments=3600,
        segments_done=2100,
        segments_per_h=400.5,
        steps_per_s=12.25,
        eta_s=3 * 3600.0,
        last_event_s=2.0,
        is_live=True,
        device="cuda",
        num_workers=40,
        workers_busy=40,
        workers=works,
    )
    problems = ["  3 films failed: InputError: image s3://inputs/fox.png: there is no such object", "    Check it."]
    console = Console(width=width, height=24, record=True, file=io.StringIO(), highlight=False)
    console.print(status_view(now, problems, height=24))
    lines = console.export_text().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    text = "\n".join(lines)
    for said in (
        "700 of 1,200 films done",
        "457 waiting",
        "58%",
        "segments 2,100/3,600",
        "ETA 3:00:00",
        "40 GPUs",
        "12.25",
    ):
        assert said in text
    assert "worker-0.0 +1" in text and "segment 2/5 step 14/50, attempt 2" in text and "more" in text
    assert "InputError" in text
