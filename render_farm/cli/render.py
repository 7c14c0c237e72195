"""`render-farm render`: run a manifest, or one prompt, in the foreground."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.plan.degrees import CfgParallel, Ring, Ulysses
from render_farm.cli.program import INTERRUPTED
from render_farm.cli.prompt_inputs import input_columns
from render_farm.cli.terminal import Json, error_line, print_json
from render_farm.errors import RenderFarmError, UsageError

if TYPE_CHECKING:
    from render_farm.farm.run.outcome import RunOutcome
    from render_farm.farm.run.request import RunRequest
    from render_farm.observability.snapshot import RunSnapshot

_ONE_JOB = "The one film of --prompt"
_MOST_FAILURES = 20
_LIMIT = re.compile(r"[0-9]+%?")


class WorkerDevice(StrEnum):
    """Where to render."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


def render(
    manifest: Annotated[str | None, typer.Argument(metavar="MANIFEST", help="A Parquet file: a path or a URI.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Render this one prompt instead of a manifest.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Folder or URI for the films. Default: $RENDER_FARM_OUTPUT."),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="Default: the manifest's name and 8 hex of its content.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="local, auto or a Ray address. Default: $RAY_ADDRESS, else local.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="GPU or CPU workers in all.")] = None,
    max_gpus: Annotated[
        int | None,
        typer.Option("--max-gpus", min=1, help="Let the cluster's autoscaler go up to this many (with cpu: slots)."),
    ] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option("--gpus-per-node", min=1, help="With --max-gpus: GPUs of a machine that is to come."),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", metavar="X", help="With --max-gpus: stop before the cluster has cost more."),
    ] = None,
    device: Annotated[WorkerDevice, typer.Option("--device", help="Where to render.")] = WorkerDevice.AUTO,
    ulysses: Ulysses = None,
    ring: Ring = None,
    cfg_parallel: CfgParallel = None,
    keep_latents: Annotated[bool, typer.Option("--keep-latents", help="Store each film's latents too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A bad row ends the run before it starts.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Stop after this many seconds.")
    ] = None,
    max_failed: Annotated[
        str | None, typer.Option("--max-failed", metavar="N|P%", help="Stop when more jobs than this have failed.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", metavar="TIME", help="Of jobs without one: 2030-01-31T06:00:00Z.")
    ] = None,
    relative_to: Annotated[
        str | None, typer.Option("--relative-to", metavar="URI", help="Where relative inputs are. Default: MANIFEST's.")
    ] = None,
    config: Annotated[str | None, typer.Option("--config", help="Settings file. Default: $RENDER_FARM_CONFIG.")] = None,
    as_json: Json = False,
    model: Annotated[
        str | None, typer.Option("--model", rich_help_panel=_ONE_JOB, help="Preset, folder or URI, for --prompt.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", rich_help_panel=_ONE_JOB, help="Pixel frames, for --prompt.")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", rich_help_panel=_ONE_JOB, help="Pixels, for --prompt.")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", rich_help_panel=_ONE_JOB, help="Pixels, for --prompt.")
    ] = None,
    fps: Annotated[
        int | None, typer.Option("--fps", rich_help_panel=_ONE_JOB, help="Frames a second, for --prompt.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", rich_help_panel=_ONE_JOB, help="For --prompt.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", rich_help_panel=_ONE_JOB, help="Denoising steps, for --prompt.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", rich_help_panel=_ONE_JOB, help="For --prompt.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", rich_help_panel=_ONE_JOB, help="For --prompt.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", rich_help_panel=_ONE_JOB, help="Path or URI of its first frame.")
    ] = None,
    last_image: Annotated[
        str | None, typer.Option("--last-image", rich_help_panel=_ONE_JOB, help="Path or URI of its last frame.")
    ] = None,
    video: Annotated[
        str | None, typer.Option("--video", rich_help_panel=_ONE_JOB, help="Path or URI of a video to extend.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="URI[=WEIGHT]", rich_help_panel=_ONE_JOB, help="A LoRA; repeatable."),
    ] = None,
    ar_step: Annotated[
        int | None, typer.Option("--ar-step", rich_help_panel=_ONE_JOB, help="0: synchronous. For --prompt.")
    ] = None,
    causal_block_size: Annotated[
        int | None, typer.Option("--causal-block-size", rich_help_panel=_ONE_JOB, help="For --prompt.")
    ] = None,
) -> None:
    """Render a manifest (or one --prompt) into --output. The same command again continues what is unfinished.

    Exit codes: 0 all done, 2 usage or invalid manifest, 10 every job failed, 11 some failed, 12 cancelled,
    13 timed out, 130 interrupted.
    """
    flags = dict(locals())
    outcome = run(request_of(flags))
    if as_json:
        print_json(asdict(outcome))
    else:
        print("\n".join(summary(outcome)))
    raise typer.Exit(outcome.exit_code)


def run(request: RunRequest) -> RunOutcome:
    """Render `request` with progress on stderr."""
    from render_farm.cli.report import RunReporter, link_seconds, price_of
    from render_farm.cli.watch.notify import RunNotifier
    from render_farm.cli.watch.progress import watching
    from render_farm.farm.driver.render_run import render_run
    from render_farm.storage import open_store

    store = open_store(request.output)
    links_for_s = link_seconds(request.settings.report_link_hours)
    reporter = RunReporter(store, price_of(request.settings), links_for_s=links_for_s)
    notifier = RunNotifier(request.settings.notify, store)
    with watching() as watcher, notifier, reporter:

        def show(snapshot: RunSnapshot) -> None:
            reporter.begin(snapshot.run_id)
            notifier.show(snapshot)
            watcher.show(snapshot)

        outcome = render_run(request, on_snapshot=show)
    for line in failures(outcome):
        error_line(line)
    if outcome.exit_code == INTERRUPTED:
        error_line("interrupted; finished segments are kept, and the same command again goes on from there")
    return outcome


_COLUMNS = {"steps": "num_inference_steps", "lora": "loras"}
"""Columns of a job whose flags have another name."""
ONE_JOB_FLAGS = (
    "model",
    "num_frames",
    "height",
    "width",
    "fps",
    "seed",
    "steps",
    "guidance_scale",
    "negative_prompt",
    "image",
    "last_image",
    "video",
    "lora",
    "ar_step",
    "causal_block_size",
)


def request_of(flags: Mapping[str, Any]) -> RunRequest:
    """The flags of `render`, each under its parameter's name, as one request. Raises `UsageError` for flags that do
    not go together."""
    from render_farm.config import load_settings
    from render_farm.farm.run.request import RunRequest

    manifest, prompt, timeout_s = flags["manifest"], flags["prompt"], flags["timeout"]
    overrides = {_COLUMNS.get(name, name): flags[name] for name in ONE_JOB_FLAGS if flags[name] not in (None, [])}
    overrides |= input_columns(overrides)
    if (manifest is None) == (prompt is None):
        raise UsageError(
            "give a MANIFEST or --prompt TEXT" if manifest is None else "a MANIFEST and --prompt do not go together",
            advice="render-farm render --help",
        )
    if manifest is not None and overrides:
        name = next(name for name in ONE_JOB_FLAGS if flags[name] not in (None, [])).replace("_", "-")
        raise UsageError(f"--{name} is for --prompt", advice="in a manifest it is a column")
    if prompt is not None:
        from render_farm.manifest.one_prompt import job_of_prompt

        job_of_prompt(prompt, overrides)  # refuses what cannot work before anything starts
    if timeout_s is not None and not timeout_s > 0:
        raise UsageError(f"--timeout: {timeout_s:g} is not more than 0 seconds")
    if flags["max_cost"] is not None and not 0 < flags["max_cost"] < float("inf"):
        raise UsageError(f"--max-cost: {flags['max_cost']:g} is not more than 0")
    if flags["gpus_per_node"] is not None and flags["max_gpus"] is None:
        raise UsageError("--gpus-per-node is for a cluster that grows", advice="give --max-gpus too")
    max_failed = flags["max_failed"]
    if max_failed is not None and not _LIMIT.fullmatch(max_failed):
        raise UsageError(f"--max-failed: {max_failed!r} is neither a number of jobs nor a percentage like 10%")
    group = None if flags["gpus_per_node"] is None else {"gpus_per_node": flags["gpus_per_node"]}
    settings = load_settings(file=flags["config"], output=flags["output"], max_failed=max_failed, group=group)
    if not settings.output:
        raise UsageError("--output is missing", advice="give a folder or a URI like s3://bucket/films")
    return RunRequest(
        output=settings.output,
        manifest=manifest,
        prompt=prompt,
        overrides=overrides,
        relative_to=flags["relative_to"],
        deadline=_time(flags["deadline"]),
        run_id=flags["run_id"],
        address=flags["address"],
        num_workers=flags["workers"],
        max_gpus=flags["max_gpus"],
        max_cost=flags["max_cost"],
        device=WorkerDevice(flags["device"]).value,
        ulysses=flags["ulysses"],
        ring=flags["ring"],
        cfg_parallel=flags["cfg_parallel"],
        keep_latents=flags["keep_latents"],
        strict=flags["strict"],
        timeout_s=timeout_s,
        max_failed=settings.max_failed,
        settings=settings,
    )


def _time(text: str | None) -> datetime | None:
    from render_farm.job import normalise

    clean, problems = normalise({"deadline": text})
    if problems:
        raise UsageError(f"--{problems[0]}")
    deadline: datetime | None = clean["deadline"]
    return deadline


def failures(outcome: RunOutcome, most: int = _MOST_FAILURES) -> list[str]:
    """Why jobs of a run failed, a line each, from its `results.parquet`."""
    if not outcome.jobs.get("failed"):
        return []
    from render_farm.manifest.parquet_rows import read_rows
    from render_farm.storage import open_store
    from render_farm.storage.layout import RunKeys

    try:
        content = open_store(outcome.output).read_bytes(RunKeys(run_id=outcome.run_id).results)
    except RenderFarmError as error:
        return [f"the run's results cannot be read: {error}"]
    rows = [row for row in read_rows(content, ["job_id", "state", "message"]) if row["state"] == "failed"]
    lines = []
    for row in rows[:most]:
        message = row["message"] or "failed"
        lines.append(message if message.startswith("row ") else f"{row['job_id']}: {message}")
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most:,} more")
    return lines


def summary(outcome: RunOutcome) -> list[str]:
    """How a run ended, in a few lines."""
    jobs = ", ".join(f"{number} {state}" for state, number in outcome.jobs.items() if number)
    lines = [f"run {outcome.run_id}: {outcome.state}" + (f" ({jobs})" if jobs else "")]
    if not outcome.jobs:  # it was not begun here
        return lines
    lines.append(f"films: {outcome.output}")
    lines.append(f"report: {outcome.output.rstrip('/')}/_runs/{outcome.run_id}/report.html")
    if outcome.jobs.get("failed"):
        lines.append(f"why: {outcome.output.rstrip('/')}/_runs/{outcome.run_id}/results.parquet")
    return lines
