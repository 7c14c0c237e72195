"""What `submit` sends to the cluster; tests/farm/test_submit.py sends it for real."""

from __future__ import annotations

import inspect
import json
import os
import shlex

import fsspec
import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.cli.rendering.flags import arguments_of
from render_farm.cli.rendering.render import render
from render_farm.cli.rendering.submit import submit
from render_farm.farm.driver import ray_job as farm_submit
from render_farm.job import RenderJob
from render_farm.manifest.reader import load_manifest
from render_farm.manifest.writer import write_manifest


@pytest.fixture
def sent(monkeypatch):
    """Submissions, which go nowhere."""
    found = []

    def take(submission, address):
        found.append((submission, address))
        return farm_submit.Submitted(run_id="a", job_id="a-1", dashboard="http://head:8265", joined=False)

    monkeypatch.setattr(farm_submit, "submit", take)
    for name in ("RENDER_FARM_OUTPUT", "RENDER_FARM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return found


def call(*arguments: str):
    return CliRunner().invoke(app, ["submit", *arguments], catch_exceptions=False)


def test_every_flag_of_render_is_one_of_submit():
    ours, theirs = (set(inspect.signature(verb).parameters) for verb in (submit, render))
    assert theirs <= ours
    assert ours - theirs == {"env", "working_dir", "pip", "runtime_env", "with_code"}


def test_a_local_manifest_goes_along_and_its_inputs_keep_their_place(sent, tmp_path):
    (tmp_path / "m").mkdir()
    path = tmp_path / "m/films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    done = call(str(path), "--output", str(tmp_path / "out"), "--workers", "2", "--strict", "--max-failed", "5%")
    assert done.exit_code == 0, done.stderr
    (submission, address) = sent[0]
    assert address is None
    assert submission.files == {"films.parquet": str(path)}
    assert done.stdout.strip() == submission.run_id and submission.run_id.startswith("films-")
    words = list(submission.arguments)
    assert words[:2] == ["render", "films.parquet"] and "--strict" in words and "--workers=2" in words
    assert {f"--output={tmp_path}/out", f"--relative-to={tmp_path}/m", "--address=auto"} <= set(words)
    assert f"--run-id={submission.run_id}" in words
    assert "render-farm watch" in done.stderr


def test_a_folder_of_parts_goes_along_as_one_file(sent, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(2):
        write_manifest(str(folder / f"part-{number}.parquet"), [RenderJob(job_id=f"a{number}", prompt="p")])
    assert call(str(folder), "--output", str(tmp_path / "out")).exit_code == 0
    (path := tmp_path / "joined.parquet").write_bytes(sent[0][0].files["films"])
    assert [row.job_id for row in load_manifest(str(path))] == ["a0", "a1"]


def test_rays_own_commands_are_told_of_a_token_that_was_found_here(sent, tmp_path, monkeypatch):
    def with_token(submission, address):
        os.environ["RAY_AUTH_MODE"] = "token"
        return farm_submit.Submitted(run_id="a", job_id="a-1", dashboard="http://head:8265", joined=False)

    path = tmp_path / "films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "  ray job logs a-1" in call(str(path), "--output", "s3://bucket/films").stderr
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(farm_submit, "submit", with_token)
    assert "  RAY_AUTH_MODE=token ray job logs a-1" in call(str(path), "--output", "s3://bucket/films").stderr


def test_one_output_is_one_however_it_is_written(sent, tmp_path):
    path = tmp_path / "films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    for output in ("s3://bucket/films", "s3://bucket/films/", "s3a://bucket/films"):
        assert call(str(path), "--output", output).exit_code == 0
    assert {submission.output for submission, _ in sent} == {"s3://bucket/films"}


def test_one_prompt_and_settings(sent, tmp_path):
    settings = tmp_path / "my.toml"
    settings.write_text('model = "df-1.3b-540p"\n[notify]\nwebhook_url = "https://example.com/topsecret"\n')
    flags = [
        "--prompt",
        "it's a 'test'; rm -rf",
        "--steps",
        "2",
        "-o",
        "s3://b/out",
        "--config",
        str(settings),
        "--json",
    ]
    done = call(*flags)
    assert done.exit_code == 0, done.stderr
    document, (submission, _) = json.loads(done.stdout), sent[0]
    assert document["run"] == f"s3://b/out/_runs/{document['run_id']}" and document["joined"] is False
    assert 'model = "df-1.3b-540p"' in submission.files["farm.toml"].decode().splitlines()
    assert submission.environment["RENDER_FARM_NOTIFY_WEBHOOK_URL"] == "https://example.com/topsecret"
    assert "topsecret" not in f"{submission} {submission.files}"
    assert shlex.split(shlex.join(submission.arguments)) == list(submission.arguments)
    assert {"--prompt=it's a 'test'; rm -rf", "--steps=2", "--config=farm.toml"} <= set(submission.arguments)
    assert "--json" not in submission.arguments


def test_signed_addresses_are_not_on_the_job_s_command_line(sent, tmp_path):
    """Ray's dashboard shows it."""
    signed = "https://host/a.png?X-Amz-Signature=topsecret"
    done = call("--prompt", "p", "--image", signed, "--num-frames", "33", "-o", "s3://b/out")
    assert done.exit_code == 0, done.stderr
    submission, _ = sent[0]
    assert "topsecret" not in f"{submission.arguments} {submission.run_id}"
    (tmp_path / "it.parquet").write_bytes(submission.files["prompt.parquet"])
    [row] = load_manifest(str(tmp_path / "it.parquet"))
    assert (row.job.image, row.job.num_frames) == (signed, 33)
    assert "prompt.parquet" in submission.arguments and not [w for w in submission.arguments if "--prompt" in w]
    path = tmp_path / "films.parquet"
    write_manifest(str(path), [RenderJob(job_id="a", prompt="p")])
    fsspec.filesystem("memory").put_file(str(path), "/signed/films.parquet?sig=topsecret")
    assert call("memory://signed/films.parquet?sig=topsecret", "-o", "s3://b/out").exit_code == 0
    submission, _ = sent[1]
    assert "topsecret" not in f"{submission.arguments}" and "manifest.parquet" in submission.arguments
    assert "--relative-to=memory://signed" in submission.arguments
    assert submission.files == {"manifest.parquet": path.read_bytes()}


def test_a_bad_manifest_is_found_before_anything_is_sent(sent, tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"no")
    assert call(str(tmp_path / "m.parquet"), "-o", "s3://b/out").exit_code == 2
    assert call(str(tmp_path / "none.parquet"), "-o", "s3://b/out").exit_code == 14
    assert call("--prompt", "p", "-o", "memory://x").exit_code == 2
    assert call("--prompt", "p", "-o", "s3://b/out", "--env", "NOT_SET_ANYWHERE").exit_code == 2
    assert sent == []


def test_packages_and_a_runtime_environment(sent, tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("pip: [av]\nenv_vars: {A: b}\n")
    assert call("--prompt", "p", "-o", "s3://b/o", "--runtime-env", str(file), "--pip", "ftfy").exit_code == 0
    assert sent[0][0].runtime_env == {"pip": ["av", "ftfy"], "env_vars": {"A": "b"}}
    file.write_text("[1]")
    assert call("--prompt", "p", "-o", "s3://b/o", "--runtime-env", str(file)).exit_code == 2


def test_arguments_that_are_defaults_are_left_out():
    defaults = {name: parameter.default for name, parameter in inspect.signature(render).parameters.items()}
    assert arguments_of(render, defaults) == []
