"""`render-farm render`: run a manifest, or one prompt, in the foreground."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.plan.degrees import CfgParallel, Ring, Ulysses
from render_farm.cli.program import INTERRUPTED
from render_farm.cli.rendering.columns import columns_of_flags, flags_of_columns
from render_farm.cli.rendering.flags import takes_flags_of
from render_farm.cli.terminal import Json, error_line, plural, print_json, printable, say
from render_farm.errors import RenderFarmError, UsageError

if TYPE_CHECKING:
    from render_farm.farm.run.outcome import RunOutcome
    from render_farm.farm.run.request import RunRequest

_MOST_FAILURES = 20
_MOST_WARNED = 10
_LIMIT = re.compile(r"[0-9]+%?")


class WorkerDevice(StrEnum):
    """Where to render."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


def _flags(
    manifest: Annotated[str | None, typer.Argument(metavar="MANIFEST", help="A Parquet file: a path or a URI.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="Render this one film, not a manifest. Repeat it: one prompt per segment, and the last one repeats.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="URI", help="Folder or URI for the films. Default: $RENDER_FARM_OUTPUT."
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="ID", help="Default: the manifest's name and 8 hex of its content."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="ADDRESS", help="local, auto or a Ray address. Default: $RAY_ADDRESS, else local."
        ),
    ] = None,
    credentials: Annotated[
        bool,
        typer.Option(
            "--credentials/--no-credentials",
            help="Give a cluster's workers this shell's credentials for the store; else they use roles.",
        ),
    ] = True,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="GPU or CPU workers in all.")
    ] = None,
    max_gpus: Annotated[
        int | None,
        typer.Option(
            "--max-gpus", metavar="N", min=1, help="Let the cluster's autoscaler go up to this many (with cpu: slots)."
        ),
    ] = None,
    gpus_per_node: Annotated[
        int | None,
        typer.Option(
            "--gpus-per-node", metavar="N", min=1, help="With --max-gpus: GPUs of a machine that the autoscaler adds."
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", metavar="X", help="With --max-gpus: stop before the cluster costs more."),
    ] = None,
    device: Annotated[WorkerDevice, typer.Option("--device", help="Where to render.")] = WorkerDevice.AUTO,
    ulysses: Ulysses = None,
    ring: Ring = None,
    cfg_parallel: CfgParallel = None,
    keep_latents: Annotated[bool, typer.Option("--keep-latents", help="Store each film's latents too.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the manifest if any row is bad.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Stop after this many seconds.")
    ] = None,
    max_failed: Annotated[
        str | None, typer.Option("--max-failed", metavar="N|P%", help="Stop when more jobs than this have failed.")
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="TIME", help="Deadline of jobs without one: 2030-01-31T06:00:00Z."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="EXPR",
            help="Render only rows for which this holds: \"owner == 'ads' and num_frames > 97\".",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Render only the first N rows.")
    ] = None,
    canary: Annotated[
        int | None,
        typer.Option(
            "--canary", metavar="N", min=1, help="Render N films first, and pause the run when one of them fails."
        ),
    ] = None,
    first_segments: Annotated[
        int | None,
        typer.Option(
            "--first-segments",
            metavar="N",
            min=1,
            help="Render drafts: the first N segments of each row, as JOB.draft.",
        ),
    ] = None,
    relative_to: Annotated[
        str | None, typer.Option("--relative-to", metavar="URI", help="Where relative inputs are. Default: MANIFEST's.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Settings file. Default: $RENDER_FARM_CONFIG.")
    ] = None,
    as_json: Json = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace finished films that a run of another manifest made.")
    ] = False,
) -> None:
    """Flags for manifests and prompts."""


@takes_flags_of(_flags, flags_of_columns)
def render(**flags: Any) -> None:
    """Render a manifest (or one --prompt) into --output. The same command again continues what is unfinished.

    Exit codes: 0 all done, 2 usage or invalid manifest, 10 every job failed, 11 some failed, 12 the run was cancelled,
    13 timed out, 14 no such manifest, 130 interrupted.
    """
    from render_farm.farm.driver.handover import take

    take()
    finish(run(request_of(flags)), as_json=flags["as_json"])


def finish(outcome: RunOutcome, *, as_json: bool) -> None:
    """Print how a run ended, and exit as it did."""
    if as_json:
        print_json(asdict(outcome))
    else:
        say("\n".join(summary(outcome)))
    raise typer.Exit(outcome.exit_code)


def run(request: RunRequest) -> RunOutcome:
    """Render `request` with progress on stderr."""
    from render_farm.cli.watch.observing import observer_of
    from render_farm.cli.watch.progress import watching
    from render_farm.farm.driver.render_run import render_run
    from render_farm.storage import open_store

    output = open_store(request.output).root_uri  # the observer may work in another folder, on another machine
    request = dataclasses.replace(request, observer=observer_of(request.settings, output))
    with watching() as watcher:
        outcome = render_run(request, on_snapshot=watcher.show)
    for line in failures(outcome):
        error_line(line)
    if outcome.exit_code == INTERRUPTED:
        error_line("interrupted; finished segments and steps are kept, and the same command continues from there")
    return outcome


def request_of(flags: Mapping[str, Any]) -> RunRequest:
    """The flags of `render`, each under its parameter's name, as one request. Raises `UsageError` for flags that do
    not go together."""
    from render_farm.farm.run.request import RunRequest
    from render_farm.farm.run.settings import load_settings

    manifest, prompt, timeout_s = flags["manifest"], flags["prompt"], flags["timeout"]
    prompt = _one_or_several(prompt)
    overrides = columns_of_flags(flags)
    if prompt is None and manifest is None and "shots" in overrides:
        prompt = _prompts_of_shots(overrides["shots"])
    if (manifest is None) == (prompt is None):
        raise UsageError(
            "give a MANIFEST, --prompt TEXT or --shots JSON"
            if manifest is None
            else "a MANIFEST and --prompt do not go together",
            advice="render-farm render --help",
        )
    if manifest is not None and overrides:
        name = next(iter(overrides)).replace("_", "-")
        raise UsageError(f"--{name} is for --prompt", advice="in a manifest it is a column")
    if flags["where"] is not None:
        from render_farm.manifest.selection import parse_where

        parse_where(flags["where"])
    if prompt is not None:
        from render_farm.manifest.one_prompt import job_of_prompt

        job_of_prompt(prompt, overrides)  # refuses what cannot work before anything starts
    if timeout_s is not None and not timeout_s > 0:
        raise UsageError(f"--timeout must be greater than 0 seconds, got {timeout_s:g}")
    if flags["max_cost"] is not None and not 0 < flags["max_cost"] < float("inf"):
        raise UsageError(f"--max-cost must be greater than 0, got {flags['max_cost']:g}")
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
        where=flags["where"],
        limit=flags["limit"],
        canary=flags["canary"],
        first_segments=flags["first_segments"],
        replace=flags["replace"],
        run_id=flags["run_id"],
        address=flags["address"],
        credentials=flags["credentials"],
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


def _one_or_several(prompts: Sequence[str] | None) -> str | tuple[str, ...] | None:
    """A film's prompt, or its list of prompts."""
    if not prompts:
        return None
    return prompts[0] if len(prompts) == 1 else tuple(prompts)


def _prompts_of_shots(shots: object) -> str | tuple[str, ...] | None:
    from render_farm.job import normalise

    clean, problems = normalise({"prompt": None, "shots": shots})
    if problems:
        raise UsageError(f"--{problems[0]}")
    prompts: str | tuple[str, ...] | None = clean["prompt"]
    return prompts


def _time(text: str | None) -> datetime | None:
    from render_farm.job import normalise

    clean, problems = normalise({"deadline": text})
    if problems:
        raise UsageError(f"--{problems[0]}")
    deadline: datetime | None = clean["deadline"]
    return deadline


def failures(outcome: RunOutcome, most: int = _MOST_FAILURES) -> list[str]:
    """Why jobs of a run failed, one line each, from its `results.parquet`."""
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
    if not outcome.jobs.keys() - {"waiting"}:  # it was not begun here
        return lines
    lines.append(f"films: {outcome.output}")
    lines.append(f"report: {outcome.output.rstrip('/')}/_runs/{outcome.run_id}/report.html")
    results = f"{outcome.output.rstrip('/')}/_runs/{outcome.run_id}/results.parquet"
    lines.append(f"{'why' if outcome.jobs.get('failed') else 'results'}: {results}")
    return lines + _about_films(outcome)


def _about_films(outcome: RunOutcome) -> list[str]:
    """Visible seams, findings and warnings of the films, and last the path of the only film."""
    from render_farm.manifest.parquet_rows import read_rows
    from render_farm.media.seam_score import VISIBLE
    from render_farm.storage import open_store
    from render_farm.storage.done import read_done
    from render_farm.storage.layout import RunKeys

    try:
        store = open_store(outcome.output)
        rows = read_rows(
            store.read_bytes(RunKeys(run_id=outcome.run_id).results),
            ["job_id", "state", "uri", "seam_score", "findings"],
        )
        done = [row for row in rows if row["state"] == "done"]
        seams = sum((row["seam_score"] or 0) >= VISIBLE for row in done)
        lines = [f"visible seams (a score of {VISIBLE:g} or more): {plural(seams, 'film')}"] if seams else []
        found = [row for row in rows if row["findings"]]
        for row in found[:_MOST_WARNED]:
            lines.append(
                printable(f"{row['job_id']} ({row['state']}): found in its pictures: {', '.join(row['findings'])}")
            )
        if len(found) > _MOST_WARNED:
            lines.append(f"and in {plural(len(found) - _MOST_WARNED, 'more film')}")
        for row in done[:_MOST_WARNED]:
            warnings = (read_done(store, row["job_id"]) or {}).get("warnings", ())
            lines += [printable(f"{row['job_id']}: note: {warning}") for warning in warnings]
    except RenderFarmError:
        return []  # `failures` says so
    return [*lines, str(rows[0]["uri"])] if len(rows) == 1 and done else lines
