"""`render-farm demo`: the example manifest, rendered with the built-in model on this machine's CPU."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli.terminal import error_line, hint, say
from render_farm.errors import RenderFarmError, UsageError

if TYPE_CHECKING:
    from render_farm.job import RenderJob

DEMO_JOBS = "demo_jobs.csv"
"""Package data. In a checkout it is a link to jobs/demo.csv, so that there is one copy."""
_STRIP_FRAMES = 8


def demo(
    output: Annotated[str, typer.Option("-o", "--output", help="Folder for the films.")] = "demo-output",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Default: 2, or 1 on a single core.")] = None,
) -> None:
    """Render the example films: no GPU, download or account is needed. Takes a minute or two."""
    from render_farm.cli.rendering.render import run
    from render_farm.farm.driver.render_run import check_installed
    from render_farm.farm.run.request import RunRequest
    from render_farm.manifest.build import build_manifest
    from render_farm.manifest.reader import load_manifest

    check_installed()
    if "://" in output:
        raise UsageError(f"--output {output}: the demo renders to a folder", advice="`render` takes URIs")
    folder = Path(output)
    manifest = str(folder / "demo.parquet")
    with importlib.resources.as_file(importlib.resources.files("render_farm.cli") / DEMO_JOBS) as source:
        build_manifest(str(source), manifest)
    jobs = [row.job for row in load_manifest(manifest, strict=True) if row.job]
    outcome = run(
        RunRequest(
            output=output,
            manifest=manifest,
            address="local",
            num_workers=workers or min(2, os.cpu_count() or 1),
            device="cpu",
        )
    )
    done = [(job, folder / job.job_id / "video.mp4") for job in jobs if (folder / job.job_id / "job.json").exists()]
    for job, video in done:
        say(f"{video}\n    {' | '.join(job.prompts)}")
    strip = _film_strip(done, folder / "film-strip.png")
    if strip:
        say(f"{strip}\n    frames of all of them")
    if outcome.exit_code == 0:
        hint(
            "open the MP4s; then write a CSV with the columns job_id,prompt,num_frames (like jobs/demo.csv) and run\n"
            "  render-farm manifest build my-jobs.csv -o my-jobs.parquet\n"
            "  render-farm plan my-jobs.parquet\n"
            "  render-farm render my-jobs.parquet --output my-films"
        )
    raise typer.Exit(outcome.exit_code)


def _film_strip(films: list[tuple[RenderJob, Path]], target: Path) -> Path | None:
    """One row of frames a film. A failed picture does not affect the films."""
    from render_farm.media.poster import evenly_spaced_frames, film_strip

    if not films:
        return None
    try:
        frames = [frame for _, video in films for frame in evenly_spaced_frames(video, _STRIP_FRAMES)]
        film_strip(frames, target, num_columns=_STRIP_FRAMES)
    except RenderFarmError as error:
        error_line(f"no film strip: {error}")
        return None
    return target
