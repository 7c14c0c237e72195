"""The verbs through typer's runner: what is printed where, and with which exit code. Rendering itself is a stand-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.errors import LeaseHeldError, NotFoundError, StorageUnavailableError
from render_farm.farm.run.results import Result, write_results
from render_farm.farm.run.snapshot import LogLine, RunOutcome, RunSnapshot
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.models import PRESETS
from render_farm.storage import open_store

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "render_farm/cli/demo_jobs.csv"


@pytest.fixture
def cli(monkeypatch):
    """Run a command line; the result has exit_code, stdout, stderr."""
    for name in ("RENDER_FARM_OUTPUT", "RENDER_FARM_CONFIG", "RENDER_FARM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def manifest(tmp_path):
    path = str(tmp_path / "m.parquet")
    write_manifest(
        path,
        [
            RenderJob(job_id="short", prompt="a", model="tiny", num_frames=33),
            RenderJob(job_id="long", prompt=["a", "b"], model="tiny", num_frames=257, seed=5),
            RenderJob(job_id="async", prompt="a", num_frames=97, ar_step=2, causal_block_size=5),
        ],
    )
    return path


@pytest.fixture
def bad_manifest(tmp_path):
    path = str(tmp_path / "bad.parquet")
    pq.write_table(pa.table({"job_id": ["a", "b"], "prompt": ["p", "p"], "num_frames": [0, 33]}), path)
    return path


@pytest.fixture
def rendered(monkeypatch):
    """A stand-in for the farm's driver. It notes the requests; its outcome or error can be set."""

    def render_run(request, *, on_snapshot):
        stand_in.requests.append(request)
        if stand_in.error:
            raise stand_in.error
        line = LogLine(number=1, time_s=0.0, level="info", job_id="a", message="something happened")
        picture = {"run_id": "run-1", "output": request.output, "state": "running", "num_jobs": 1}
        on_snapshot(RunSnapshot(**picture, log=(line,), note="starting"))
        return RunOutcome(
            run_id="run-1",
            output=request.output,
            state=stand_in.state,
            jobs=stand_in.jobs,
            exit_code=stand_in.exit_code,
        )

    stand_in = SimpleNamespace(
        render_run=render_run, requests=[], error=None, state="done", jobs={"done": 1}, exit_code=0
    )
    monkeypatch.setitem(sys.modules, "render_farm.farm.driver.render_run", stand_in)
    return stand_in


# --- the app ---

VERBS = {
    *("render", "submit", "status", "watch", "logs", "explain", "pause", "resume", "cancel", "retry", "priority"),
    *("preview", "report", "serve", "plan", "simulate", "manifest", "models", "verify", "hosts", "gc", "bench"),
    *("doctor", "demo", "config"),
}


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_verbs_of_the_contract_only(cli, flag):
    result = cli(flag)
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.split("Commands:")[1].splitlines() if line.strip()]
    assert {"render", "plan", "doctor", "demo", "manifest", "models"} <= set(listed) <= VERBS
    assert len(listed) == len(set(listed))


def test_version(cli):
    from render_farm import __version__

    assert cli("--version").stdout == f"render-farm {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["render", "--nonsense"],
        ["plan"],
        ["manifest", "build", "x.csv"],
        ["render", "m.parquet", "-o", "out", "--device", "tpu"],
        ["render", "m.parquet", "-o", "out", "--workers", "0"],
        ["render", "m.parquet", "-o", "out", "--cfg-parallel", "3"],
        ["render", "m.parquet", "-o", "out", "--timeout", "soon"],
    ],
)
def test_usage_errors_are_2_on_stderr(cli, arguments):
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and "Usage: render-farm" in result.stderr


# --- manifest ---


def test_build_check_show(cli, tmp_path):
    source, target = tmp_path / "jobs.csv", tmp_path / "jobs.parquet"
    source.write_text('job_id,prompt,num_frames\na,"[""x"", ""y""]",\nb,hello,9\n')
    built = cli("manifest", "build", source, "-o", target, "--seeds", 2)
    assert (built.exit_code, built.stdout) == (0, f"{target}: 2 jobs, 4 rows\n")
    assert built.stderr == f"next: render-farm plan {target}\n"
    checked = cli("manifest", "check", target)
    assert (checked.exit_code, checked.stdout, checked.stderr) == (0, f"{target}: 4 jobs, nothing wrong\n", "")
    shown = cli("manifest", "show", target, "--rows", 1)
    assert shown.stdout.startswith("a-seed1\n  prompt               x | y\n  seed ")
    assert shown.stderr == f"{target}: 4 rows, 3 not shown (--rows)\n"
    values = json.loads(cli("manifest", "show", target, "--json").stdout)
    assert values["num_rows"] == 4 and values["rows"][3]["job_id"] == "b-seed2"
    report = json.loads(cli("manifest", "build", source, "-o", target, "--json").stdout)
    assert report == {"source": str(source), "manifest": str(target), "num_jobs": 2, "num_rows": 2}


def test_build_refuses_with_lines(cli, tmp_path):
    source = tmp_path / "jobs.csv"
    source.write_text("job_id,prompt,num_frames\na,x,0\n")
    result = cli("manifest", "build", source, "-o", tmp_path / "m.parquet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"render-farm: {source}: 1 problem\nline 2 (job_id=a): num_frames: 0 is less than 1\n"


def test_check_prints_every_problem(cli, bad_manifest):
    result = cli("manifest", "check", bad_manifest)
    assert result.exit_code == 2
    assert result.stdout == (f"row 1 (job_id=a): num_frames: 0 is less than 1\n{bad_manifest}: 1 problem in 2 rows\n")
    report = json.loads(cli("manifest", "check", bad_manifest, "--json").stdout)
    assert report["ok"] is False and report["num_bad_rows"] == 1
    assert report["row_problems"] == ["row 1 (job_id=a): num_frames: 0 is less than 1"]


@pytest.mark.parametrize("verb", [["manifest", "check"], ["manifest", "show"], ["plan"]])
def test_unreadable_manifests_are_2_everywhere(cli, tmp_path, verb):
    missing = str(tmp_path / "no.parquet")
    result = cli(*verb, missing)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"render-farm: {missing}: not found (looked in {tmp_path})\n"


def test_show_tells_what_is_wrong_with_a_row(cli, bad_manifest):
    result = cli("manifest", "show", bad_manifest)
    assert result.exit_code == 0
    assert result.stdout.startswith("row 1 (job_id=a): num_frames: 0 is less than 1\nb\n")


# --- plan ---


def test_plan_draws_windows_and_blocks(cli, manifest):
    result = cli("plan", manifest)
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    assert "long: t2v with tiny, 257 frames of 64x64 (10.7 s at 24), 65 latent frames\n  3 segments, " in text
    for window in ("frames   1-97\n", "frames  98-177, from 81-97\n", "frames 178-257, from 161-177\n"):
        assert window in text
    assert "  prompt 1: a\n  prompt 2-3: b\n" in text
    assert "segment 1: 24 steps, 5 blocks of 5 latent frames\n" in text
    assert "    block 5 │····················████████████████████████████████████████│ steps  9-24\n" in text
    assert text.splitlines()[-1].startswith("total: 3 films, 5 segments, ")


def test_plan_as_json(cli, manifest):
    plan = json.loads(cli("plan", manifest, "--json", "--jobs", 2).stdout)
    assert [job["job_id"] for job in plan["jobs"]] == ["short", "long"]
    assert [segment["num_kept_frames"] for segment in plan["jobs"][1]["segments"]] == [25, 20, 20]
    assert [segment["prompt"] for segment in plan["jobs"][1]["segments"]] == ["a", "b", "b"]
    assert plan["totals"]["films"] == 3 and plan["totals"]["refused"] == 0


def test_plan_refuses_rows_with_reasons(cli, tmp_path):
    path = str(tmp_path / "m.parquet")
    refused = RenderJob(job_id="odd", prompt="a", model="tiny", num_frames=97, causal_block_size=4)
    write_manifest(path, [refused])
    every = cli("plan", path)
    assert every.exit_code == 10 and every.stderr.startswith("render-farm: row 1 (job_id=odd): ")
    write_manifest(path, [refused, RenderJob(job_id="fine", prompt="a", model="tiny", num_frames=33)])
    some = cli("plan", path)
    assert some.exit_code == 11 and "1 row refused" in some.stdout
    assert cli("plan", path, "--strict").exit_code == 2
    assert json.loads(cli("plan", path, "--json").stdout)["refused"][0]["job_id"] == "odd"


def test_plan_counts_what_it_does_not_draw(cli, manifest):
    result = cli("plan", manifest, "--jobs", 0)
    assert result.stdout.startswith("... 3 films not drawn (--jobs)\n") and "total: 3 films" in result.stdout


def test_plan_of_models_that_are_elsewhere(cli, tmp_path):
    path = str(tmp_path / "m.parquet")
    write_manifest(path, [RenderJob(job_id="a", prompt="p", model="s3://models/mine", num_frames=33)])
    result = cli("plan", path)
    assert result.exit_code == 0 and "33 frames of 960x544" in result.stdout
    assert "model s3://models/mine was not looked at" in result.stderr


def test_the_demo_can_be_rendered(cli, tmp_path):
    path = tmp_path / "demo.parquet"
    assert cli("manifest", "build", DEMO, "-o", path).exit_code == 0
    plan = json.loads(cli("plan", path, "--json", "--strict").stdout)
    assert {job["model"] for job in plan["jobs"]} == {"tiny"}
    assert any(len(job["segments"]) > 2 for job in plan["jobs"])


def test_every_example_can_be_planned(cli, tmp_path):
    for source in ("jobs/demo.csv", "jobs/batch.yaml"):
        path = tmp_path / "m.parquet"
        assert cli("manifest", "build", ROOT / source, "-o", path, "--seeds", 2).exit_code == 0
        assert cli("plan", path, "--strict").exit_code == 0


# --- models ---


def test_models(cli):
    listed = cli("models", "list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == list(PRESETS)
    assert [model["name"] for model in json.loads(cli("models", "list", "--json").stdout)["models"]] == list(PRESETS)
    assert "num_inference_steps" in cli("models", "info", "tiny").stdout
    assert json.loads(cli("models", "info", "DF-14B-540P", "--json").stdout)["num_heads"] == 40
    unknown = cli("models", "info", "df-14b-640p")
    assert unknown.exit_code == 14
    assert unknown.stderr.startswith("render-farm: no preset is named df-14b-640p (did you mean df-14b-")


# --- render ---


def test_render_passes_every_flag_on(cli, rendered, manifest):
    flags = "--run-id r --address auto --workers 3 --device cpu --ulysses 2 --ring 2 --cfg-parallel 2"
    more = "--keep-latents --strict --timeout 60 --max-failed 10%"
    result = cli("render", manifest, "--output", "out", *flags.split(), *more.split())
    shown = "run run-1: done (1 done)\nfilms: out\nreport: out/_runs/run-1/report.html\n"
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
        (["-o", "out"], "give a MANIFEST or --prompt TEXT"),
        (["m.parquet", "--prompt", "x", "-o", "out"], "a MANIFEST and --prompt do not go together"),
        (["m.parquet"], "--output is missing"),
        (["m.parquet", "-o", "out", "--steps", "3"], "--steps is for --prompt"),
        (["m.parquet", "-o", "out", "--num-frames", "33"], "--num-frames is for --prompt"),
        (["m.parquet", "-o", "out", "--lora", "a.safetensors"], "--lora is for --prompt"),
        (["--prompt", "x", "-o", "out", "--num-frames", "0"], "num_frames: 0 is less than 1"),
        (["m.parquet", "-o", "out", "--timeout", "0"], "--timeout: 0 is not more than 0 seconds"),
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
    assert result.exit_code == 130 and "the same command again goes on from there" in result.stderr
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


def test_demo_renders_the_example_on_the_cpu(cli, rendered, tmp_path):
    output = tmp_path / "demo"
    result = cli("demo", "--output", output)
    assert result.exit_code == 0 and (output / "demo.parquet").exists()
    (request,) = rendered.requests
    assert (request.device, request.address, request.manifest) == ("cpu", "local", str(output / "demo.parquet"))
    assert "render-farm render my-jobs.parquet" in result.stderr
    assert cli("demo", "--output", "s3://bucket/x").exit_code == 2
