"""`render-farm doctor`: whether this machine can render, and what to do when not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from render_farm.cli.terminal import Json, print_json


def doctor(
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Try storage there. Default: $RENDER_FARM_OUTPUT.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine and say what to do.

    Python, packages, torch, GPUs, Ray, xfuser, ffmpeg, storage, memory, disk. Exit code 1 when something is broken.
    """
    from render_farm.cli import checks
    from render_farm.config import load_settings

    # The heavy imports run beside each other, and beside the other checks.
    torch, ray = checks.Probe(checks.TORCH_PROBE), checks.Probe(checks.RAY_PROBE)
    place = load_settings(output=output).output
    before = [checks.check_python(), checks.check_packages()]
    after = [
        checks.check_xfuser(),
        checks.check_ffmpeg(),
        checks.check_model(),
        *checks.check_storage(place),
        checks.check_memory(),
        *checks.check_disk(place),
    ]
    findings = [*before, *checks.check_torch(torch), checks.check_ray(ray), *after]
    healthy = all(finding.status is not checks.Status.BROKEN for finding in findings)
    if as_json:
        print_json({"ok": healthy, "checks": [asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.status:<7} {finding.name:<{width}}  {finding.detail}")
            if finding.advice:
                print(f"{'':<7} {'':<{width}}  -> {finding.advice}")
        print("\nready to render" if healthy else "\nnot ready: see the lines that say broken")
    if not healthy:
        raise typer.Exit(1)
