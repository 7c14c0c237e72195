"""`doctor --model`: whether a job fits, on GPUs of every size and on none."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
from typer.testing import CliRunner

from render_farm.cli.doctor import fit
from render_farm.cli.doctor.checks import GIB, Status
from render_farm.cli.doctor.fit import check_fit
from render_farm.cli.main import app
from render_farm.planning.memory import usable_bytes


def gpu(size_gib: float) -> dict[str, Any]:
    return {"name": f"a GPU of {size_gib:g}", "free": 0, "total": int(size_gib * GIB)}


def statuses(model: str, gpus: list[dict[str, Any]], **parameters: Any) -> list[Status]:
    return [finding.status for finding in check_fit(model, parameters, gpus).findings]


@pytest.mark.parametrize(("free_gib", "host"), [(512, Status.OK), (40, Status.NOTE)])
def test_each_gpu_is_held_against_what_the_job_needs(
    monkeypatch: pytest.MonkeyPatch, free_gib: int, host: Status
) -> None:
    monkeypatch.setattr(fit, "available_memory_bytes", lambda: free_gib * GIB)
    found = check_fit("df-14b-720p", {}, [gpu(24), gpu(80), gpu(140)])
    assert [finding.status for finding in found.findings] == [Status.OK, Status.BROKEN, Status.OK, Status.OK, host]
    need, small, *_, parked = found.findings
    assert "73.1 GiB for the films that 3 workers finish while they render" in parked.detail
    assert "t2v 1280x720, windows of 121 frames, bfloat16" in need.detail
    assert "a GPU of 24 has 24.0 GiB" in small.detail
    assert "column memory" in small.advice
    assert found.estimate is not None
    assert 24 * GIB < found.estimate.least_bytes < 80 * GIB


def test_the_exact_size_decides() -> None:
    estimate = check_fit("df-1.3b-540p", {}, [gpu(80)]).estimate
    assert estimate is not None
    total = ceil(estimate.least_bytes / usable_bytes(100) * 100)
    enough = {"name": "enough", "total": total}
    assert statuses("df-1.3b-540p", [enough])[1] is Status.OK
    assert statuses("df-1.3b-540p", [enough | {"total": total - 2}])[1] is Status.BROKEN


def test_blocks_that_cannot_be_kept_are_a_note() -> None:
    blocks = {"num_frames": 97, "base_num_frames": 97, "causal_block_size": 5, "ar_step": 5}
    assert statuses("df-14b-540p", [gpu(80)], **blocks)[1] is Status.OK, "full attention keeps none"
    blocks["block_attention"] = "causal"
    assert statuses("df-14b-540p", [gpu(80)], **blocks)[1] is Status.NOTE
    assert statuses("df-14b-540p", [gpu(180)], **blocks)[1] is Status.OK


def test_a_smaller_job_needs_less() -> None:
    needs = [
        check_fit("df-1.3b-540p", parameters, [gpu(80)]).estimate
        for parameters in ({}, {"height": 272, "width": 480}, {"num_frames": 17}, {"num_frames": 1457})
    ]
    full, small, short, long = (need.least_bytes for need in needs if need is not None)
    assert small < full == long
    assert short <= full


def test_fit_without_a_gpu_names_the_gpu_it_would_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "available_memory_bytes", lambda: 8 * GIB)
    here = check_fit("df-14b-540p", {}, []).findings[1]
    assert here.status is Status.NOTE
    assert "it would fit a GPU of" in here.detail
    tiny = check_fit("tiny", {}, []).findings[1]
    assert tiny.status is Status.OK


@pytest.mark.parametrize(
    ("model", "parameters", "said"),
    [
        ("df-1.3b-540p", {"height": 100}, "height"),
        ("t2v-14b-540p", {"task": "v2v"}, "v2v"),
        ("no-such-model", {}, "neither a preset nor a folder"),
    ],
)
def test_what_cannot_be_rendered_is_said(model: str, parameters: dict[str, Any], said: str) -> None:
    (finding,) = check_fit(model, parameters, [gpu(80)]).findings
    assert finding.status is Status.BROKEN
    assert said in finding.detail


def test_a_size_without_a_model_is_refused() -> None:
    refused = CliRunner().invoke(app, ["doctor", "--height", "128"])
    assert refused.exit_code == 2
    assert "--height is for --model" in refused.stderr
