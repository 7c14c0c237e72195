"""`render-farm verify`: whether a model renders here, and as diffusers renders it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli.rendering.render import WorkerDevice
from render_farm.cli.terminal import Json, hint, print_json, say, table

if TYPE_CHECKING:
    from render_farm.engine.verify.run import FilmResult, VerifyResult

_ALL_FAILED, _SOME_FAILED = 10, 11
_GIB = 1 << 30


class VerifyReference(StrEnum):
    """What to compare with."""

    DIFFUSERS = "diffusers"


def verify(
    model: Annotated[str, typer.Argument(help="A preset's name, a folder, a URI or a hub id.")],
    against: Annotated[
        VerifyReference | None, typer.Option("--against", help="Render with this too, and compare latents and frames.")
    ] = None,
    device: Annotated[WorkerDevice, typer.Option("--device", help="Where to render.")] = WorkerDevice.AUTO,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Default: bfloat16 on a GPU, float32 on the CPU.")
    ] = None,
    height: Annotated[int | None, typer.Option("--height", help="Pixels. Default: the model's.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Pixels. Default: the model's.")] = None,
    num_frames: Annotated[int, typer.Option("--num-frames", help="Pixel frames of a window: 37, 57, 77, 97.")] = 37,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Denoising steps.")] = 8,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="t2v, i2v, flf2v or v2v; repeatable. Default: all it serves."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Let diffusers load this folder instead of the model's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Render a short and a two-segment film in each mode and task of a model; print seconds and memory, pass or fail.

    The first thing to run when weights arrive. Exit codes: 0 all pass, 10 every film fails, 11 some do.
    """
    from render_farm.engine.verify.run import VerifyRequest, check_request, run_verify

    request = VerifyRequest(
        model=model,
        against=against is not None,
        reference=reference,
        device=device.value,
        dtype=dtype,
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=steps,
        tasks=tuple(task or ()),
    )
    check_request(request)
    result = run_verify(request, on_film=hint)
    if as_json:
        print_json(result.to_dict())
    else:
        say("\n".join(_lines(result)))
    if result.num_failed:
        raise typer.Exit(_ALL_FAILED if result.num_failed == len(result.films) else _SOME_FAILED)


def _lines(result: VerifyResult) -> list[str]:
    rows = [_row(film) for film in result.films]
    header = ["film", "frames", "seconds", "peak", "diffusers", "peak", "latents differ", "frames differ", ""]
    passed = len(result.films) - result.num_failed
    return [
        f"{result.model} ({result.fingerprint}) on {result.device}, {result.dtype}",
        *table(header, rows),
        f"{'PASS' if not result.num_failed else 'FAIL'}: {passed} of {len(result.films)} films"
        + (f" agree with {result.against}" if result.against else " rendered; --against diffusers compares them"),
    ]


def _row(film: FilmResult) -> list[str]:
    found = film.difference
    return [
        film.name,
        str(film.num_frames),
        f"{film.seconds:.1f}",
        _memory(film.peak_bytes),
        "" if film.reference_seconds is None else f"{film.reference_seconds:.1f}",
        _memory(film.reference_peak_bytes),
        "" if found is None else f"{found.largest:.2g} ({found.relative:.2g} of their size)",
        "" if found is None else f"{found.largest_level} of 255, mean {found.mean_level:.2g}",
        ("pass" if film.passed else f"FAIL (allowed: {found.allowed})" if found else "FAIL")
        + (f": {film.note}" if film.note else ""),
    ]


def _memory(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / _GIB:.1f} GiB"
