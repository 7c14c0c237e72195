"""What `submit` and `run_status` do from Python, without a cluster. tests/farm/test_python_api.py has one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import render_farm
from render_farm import RunRequest, Settings, Submitted, api, load_settings, run_status, submit
from render_farm.cli.rendering.submit import secret_variables, settings_toml
from render_farm.errors import NotFoundError, UsageError
from render_farm.farm.driver.ray_job import Submission
from render_farm.farm.run.timeouts import Timeouts
from render_farm.manifest.reader import load_manifest
from render_farm.media.limits import InputLimits
from render_farm.observability.settings import NotifySettings
from render_farm.planning.group_options import GroupOptions
from tests.helpers.synthetic_run import write_run

CHANGED = Settings(
    model="df-1.3b-540p",
    previews=False,
    max_failed="5%",
    gpu_price_per_hour=2.5,
    timeouts=Timeouts(hang_floor_s=5),
    inputs=InputLimits(protocols=("s3", "https"), allowed_roots=("/a",)),
    group=GroupOptions(gpus_per_node=8),
    notify=NotifySettings(webhook_url='https://é.example/"x"\\y'),
)


def test_every_name_is_there_and_importing_the_package_loads_nothing_heavy() -> None:
    for name in render_farm.__all__:
        assert getattr(render_farm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rendr_run'"):
        render_farm.rendr_run  # noqa: B018
    code = "import sys, render_farm; print({'torch', 'ray', 'pyarrow', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("settings", [Settings(), CHANGED, replace(Settings(), max_failed="1")])
def test_settings_arrive_as_they_were_sent(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("\n".join(settings_toml(settings)), encoding="utf-8")
    assert load_settings(file=str(file), environment=secret_variables(settings)) == settings
    assert "é.example" not in file.read_text()


def test_a_submitted_prompt_travels_as_a_manifest_with_every_column(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[tuple[Submission, str | None, object]] = []

    def take(submission: Submission, address: str | None) -> Submitted:
        job = load_manifest(submission.files["manifest.parquet"], strict=True)[0].job
        file = tmp_path / "farm.toml"
        file.write_bytes(submission.files["farm.toml"])
        settings = load_settings(file=str(file), environment=dict(submission.environment))
        sent.append((submission, address, (job, settings)))
        return Submitted(run_id="a", job_id="a-1", dashboard="http://head:8265", joined=False)

    monkeypatch.setattr(api.ray_job, "submit", take)
    request = RunRequest(
        output=str(tmp_path / "out"),
        prompt="a fox",
        overrides={"num_frames": 33, "owner": "ads"},
        num_workers=2,
        ulysses="auto",
        strict=True,
        timeout_s=60.0,
        deadline=datetime(2027, 1, 1, 6, tzinfo=UTC),
        settings=CHANGED,
    )
    done = submit(request, address="http://head:8265", env=["A=b"], credentials=False)
    assert (done.job_id, done.joined) == ("a-1", False)
    (submission, address, (job, settings)) = sent[0]
    assert address == "http://head:8265" and submission.environment["A"] == "b"
    assert (job.prompts, job.num_frames, job.owner) == (("a fox",), 33, "ads")
    assert settings == CHANGED
    words = set(submission.arguments)
    assert {"render", "manifest.parquet", "--workers=2", "--ulysses=auto", "--strict", "--timeout=60.0"} <= words
    assert {"--address=auto", f"--run-id={submission.run_id}", "--deadline=2027-01-01T06:00:00+00:00"} <= words
    assert not [word for word in words if word.startswith(("--prompt", "--num-frames"))]


def test_what_cannot_be_submitted_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        submit(RunRequest(output="memory://x", prompt="p"))
    with pytest.raises(UsageError, match="num_frames"):
        submit(RunRequest(output=str(tmp_path), prompt="p", overrides={"num_frames": 0}))


def test_the_status_of_a_run_is_found_by_its_id_or_uri(tmp_path: Path) -> None:
    write_run(tmp_path, num_films=0)
    now = run_status("night", output=str(tmp_path))
    assert (now.state, now.is_over, now.jobs) == ("failed", True, {"done": 38, "failed": 2})
    assert run_status(f"{tmp_path}/_runs/night").jobs == now.jobs
    with pytest.raises(NotFoundError, match="no run 'morning'"):
        run_status("morning", output=str(tmp_path))
