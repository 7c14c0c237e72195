"""The verb render: flags, output and exit codes."""

from __future__ import annotations

import json

import pytest

from render_farm.errors import LeaseHeldError, NotFoundError, StorageUnavailableError
from render_farm.farm.run.results import Result, write_results
from render_farm.storage import open_store


def test_render_passes_every_flag_on(cli, rendered, manifest):
    flags = "--run-id r --address auto --workers 3 --device cpu --ulysses 2 --ring 2 --cfg-parallel 2"
    more = "--keep-latents --strict --timeout 60 --max-failed 10%"
    result = cli("render", manifest, "--output", "out", *flags.split(), *more.split())
    shown = "run run-1: done (1 done)\nfilms: out\nreport: out/_runs/run-1/report.html\n"
    shown += "results: out/_runs/run-1/results.parquet\n"
    assert (result.exit_code, result.stdout) == (0, shown)
    assert "a: something happened" in result.stderr
    (request,) = rendered.requests
    assert (request.manifest, request.prompt, request.output, request.run_id) == (manifest, None, "out", "r")
    assert (request.address, request.num_workers, request.device) == ("auto", 3, "cpu")
    assert (request.ulysses, request.ring, request.cfg_parallel) == (2, 2, 2)
    assert (request.keep_latents, request.strict, request.timeout_s) == (True, True, 60.0)
    assert request.max_failed == "10%" and request.overrides == {}


def test_render_json_is_one_object(cli, rendered, manifest):
    rendered.exit_code, rendered.state = 12, "cancelled"
    rendered.jobs = {"done": 1, "cancelled": 2}
    result = cli("render", manifest, "-o", "out", "--json")
    assert result.exit_code == 12
    assert json.loads(result.stdout) == {
        "schema": "render_farm.render/1",
        "run_id": "run-1",
        "output": "out",
        "state": "cancelled",
        "jobs": {"done": 1, "cancelled": 2},
        "exit_code": 12,
    }


def test_render_a_prompt(cli, rendered):
    result = cli("render", "--prompt", "a cat", "-o", "out", "--num-frames", 33, "--seed", 0, "--steps", 4)
    assert result.exit_code == 0
    (request,) = rendered.requests
    assert (request.manifest, request.prompt) == (None, "a cat")
    assert request.overrides == {"num_frames": 33, "seed": 0, "num_inference_steps": 4}


def test_a_prompt_with_modes(cli, rendered):
    flags = "--sampler distilled --step-list 1000,500 --causal-block-size 5 --block-attention full"
    assert cli("render", "--prompt", "a cat", "-o", "out", *flags.split()).exit_code == 0
    assert rendered.requests[0].overrides == {
        "sampler": "distilled",
        "step_list": [1000, 500],
        "causal_block_size": 5,
        "block_attention": "full",
    }


def test_a_prompt_with_images_and_loras(cli, rendered, tmp_path, monkeypatch):
    """Workers run in another folder: relative paths are meant from here."""
    monkeypatch.chdir(tmp_path)
    loras = "--lora a.safetensors=0.5 --lora s3://b/c.safetensors --lora https://h/x?key=d.safetensors"
    result = cli(
        "render", "--prompt", "a cat", "-o", "out", "--image", "a.png", "--last-image", "/b.png", *loras.split()
    )
    assert result.exit_code == 0, result.stderr
    assert rendered.requests[0].overrides == {
        "image": f"{tmp_path}/a.png",
        "last_image": "/b.png",
        "loras": [
            {"path": f"{tmp_path}/a.safetensors", "weight": 0.5},
            {"path": "s3://b/c.safetensors"},
            {"path": "https://h/x?key=d.safetensors"},
        ],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out"], "give a MANIFEST, --prompt TEXT or --shots JSON"),
        (["m.parquet", "--prompt", "x", "-o", "out"], "a MANIFEST and --prompt do not go together"),
        (["m.parquet"], "--output is missing"),
        (["m.parquet", "-o", "out", "--steps", "3"], "--num-inference-steps is for --prompt"),
        (["m.parquet", "-o", "out", "--num-frames", "33"], "--num-frames is for --prompt"),
        (["m.parquet", "-o", "out", "--lora", "a.safetensors"], "--loras is for --prompt"),
        (["--prompt", "x", "-o", "out", "--num-frames", "0"], "num_frames: 0 is less than 1"),
        (["--prompt", "x", "-o", "out", "--step-list", "fast"], "step_list: 'fast' is not a list of whole numbers"),
        (["m.parquet", "-o", "out", "--timeout", "0"], "--timeout must be greater than 0 seconds, got 0"),
        (["m.parquet", "-o", "out", "--max-failed", "some"], "--max-failed: 'some' is neither a number"),
        (["m.parquet", "-o", "out", "--config", "/no/such.toml"], "settings file /no/such.toml"),
    ],
)
def test_render_flags_that_do_not_work(cli, rendered, arguments, message):
    result = cli("render", *arguments)
    assert (result.exit_code, result.stdout, rendered.requests) == (2, "", [])
    assert result.stderr.startswith(f"render-farm: {message}") and result.stderr.count("\n") == 1


def test_render_takes_the_output_from_the_environment(cli, rendered, manifest, monkeypatch):
    monkeypatch.setenv("RENDER_FARM_OUTPUT", "s3://bucket/films")
    assert cli("render", manifest).exit_code == 0
    assert rendered.requests[0].output == "s3://bucket/films"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageUnavailableError("no such bucket", advice="create it"), 2),
        (LeaseHeldError("held by host a"), 2),
        (NotFoundError("no such run"), 14),
    ],
)
def test_errors_are_one_message_and_their_exit_code(cli, rendered, manifest, error, code):
    rendered.error = error
    result = cli("render", manifest, "-o", "out", "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"render-farm: {error}\n")


def test_debug_shows_the_traceback(cli, rendered, manifest):
    rendered.error = LeaseHeldError("held by host a")
    result = cli("--debug", "render", manifest, "-o", "out")
    assert result.exit_code == 2 and result.stderr.startswith("Traceback") and "held by host a" in result.stderr


def test_an_interrupt_is_130_and_says_how_to_go_on(cli, rendered, manifest):
    rendered.exit_code, rendered.state, rendered.jobs = 130, "cancelled", {"cancelled": 1}
    result = cli("render", manifest, "-o", "out")
    assert result.exit_code == 130 and "the same command continues from there" in result.stderr
    rendered.error = KeyboardInterrupt()
    result = cli("render", manifest, "-o", "out")
    assert (result.exit_code, result.stderr) == (130, "render-farm: interrupted\n")


def test_render_says_why_jobs_failed(cli, rendered, manifest, tmp_path):
    output = str(tmp_path / "out")
    results = [Result(job_id=f"j{i}", state="failed", message="the disk is full") for i in range(30)]
    results[0].message = "row 1 (job_id=j0): num_frames: 0 is less than 1"
    write_results(open_store(output), "run-1", [*results, Result(job_id="fine", state="done")])
    rendered.exit_code, rendered.state, rendered.jobs = 11, "failed", {"failed": 30, "done": 1}
    result = cli("render", manifest, "-o", output)
    assert result.exit_code == 11
    assert "render-farm: row 1 (job_id=j0): num_frames: 0 is less than 1\n" in result.stderr
    assert "render-farm: j19: the disk is full\n" in result.stderr
    assert "j20" not in result.stderr and "... and 10 more" in result.stderr
    assert result.stdout.endswith(f"why: {output}/_runs/run-1/results.parquet\n")


@pytest.mark.slow
def test_the_last_line_of_one_film_is_its_path(cli, rendered, tmp_path):
    output = str(tmp_path / "out")
    result = Result(job_id="a", state="done", uri=f"{output}/a/video.mp4", seam_score=4.0, findings=("cut@9",))
    write_results(open_store(output), "run-1", [result])
    lines = cli("render", "--prompt", "a cat", "-o", output).stdout.splitlines()
    assert lines[-3:] == [
        "visible seams (a score of 3 or more): 1 film",
        "a (done): found in its pictures: cut@9",
        f"{output}/a/video.mp4",
    ]
