"""`render-farm doctor`: whether this machine can render, and what to do when not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from render_farm.cli.terminal import Json, print_json, say
from render_farm.errors import UsageError
from render_farm.planning.memory import MemoryEstimate


def doctor(
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Try storage there. Default: $RENDER_FARM_OUTPUT.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Also ask every machine of this Ray cluster: can it read and write --output?"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Say whether a job of this preset, folder or URI fits the GPUs.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="For --model: t2v, i2v, flf2v or v2v.")] = None,
    height: Annotated[int | None, typer.Option("--height", help="Pixels, for --model.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Pixels, for --model.")] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Pixel frames, for --model.")] = None,
    base_num_frames: Annotated[
        int | None, typer.Option("--base-num-frames", help="Pixel frames of a window, for --model.")
    ] = None,
    ar_step: Annotated[int | None, typer.Option("--ar-step", help="For --model.")] = None,
    causal_block_size: Annotated[int | None, typer.Option("--causal-block-size", help="For --model.")] = None,
    block_attention: Annotated[
        str | None, typer.Option("--block-attention", metavar="causal|full", help="For --model.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine and say what to do.

    Python, packages, torch, GPUs, Ray, xfuser, ffmpeg, signing, storage, memory, disk; with --address the machines of
    a Ray cluster. Exit code 1 when something is broken.
    """
    from render_farm.cli.doctor import checks, fit
    from render_farm.farm.run.settings import load_settings

    job: dict[str, Any] = {
        "task": task,
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "base_num_frames": base_num_frames,
        "ar_step": ar_step,
        "causal_block_size": causal_block_size,
        "block_attention": block_attention,
    }
    job = {name: value for name, value in job.items() if value is not None}
    if job and model is None:
        raise UsageError(f"--{next(iter(job)).replace('_', '-')} is for --model", advice="render-farm doctor --help")
    # The heavy imports run beside each other, and beside the other checks.
    torch, ray = checks.Probe(checks.TORCH_PROBE), checks.Probe(checks.RAY_PROBE)
    settings = load_settings(output=output)
    place = settings.output
    before = [checks.check_python(), checks.check_packages()]
    after = [
        *checks.check_address(address),
        checks.check_ray_folder(),
        *checks.check_home(),
        *checks.check_working_folder(Path.cwd()),
        *checks.check_credentials(),
        checks.check_xfuser(),
        checks.check_ffmpeg(),
        *checks.check_signing(settings.provenance),
        checks.check_model(),
        *checks.check_storage(place),
        checks.check_memory(),
        *checks.check_disk(place),
    ]
    on_torch, gpus = checks.check_torch(torch)
    fits = fit.check_fit(model, job, gpus) if model is not None else fit.Fit(findings=())
    findings = [*before, *on_torch, checks.check_ray(ray, address), *after, *fits.findings]
    if address is not None:
        from render_farm.cli.doctor.cluster_findings import check_cluster

        findings += check_cluster(address, place)
    healthy = all(finding.status is not checks.Status.BROKEN for finding in findings)
    if as_json:
        needed = {} if fits.estimate is None else {"memory": memory_document(fits.estimate)}
        print_json({"ok": healthy, "checks": [asdict(finding) for finding in findings], **needed})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            say(f"{finding.status:<7} {finding.name:<{width}}  {finding.detail}")
            if finding.advice:
                say(f"{'':<7} {'':<{width}}  -> {finding.advice}")
        say("\nready to render" if healthy else "\nnot ready: see the lines that say broken")
    if not healthy:
        raise typer.Exit(1)


def memory_document(estimate: MemoryEstimate) -> dict[str, int]:
    """Bytes by part, and the sums."""
    return {**asdict(estimate), "least_bytes": estimate.least_bytes, "full_bytes": estimate.full_bytes}
