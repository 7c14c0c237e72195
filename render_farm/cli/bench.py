"""`render-farm bench`: the speed of one worker on this machine, of diffusers for comparison, and of several workers
together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from render_farm.cli.terminal import Json, print_json, say
from render_farm.errors import UsageError

_MODES = "async and full use ar_step 5 and blocks of 5 latent frames. In full, all blocks see each other."
_APPROXIMATE = " guidance: for half of the steps. distilled: 4 steps. Both are compared with a synchronous film."
app = typer.Typer(no_args_is_help=True, help="Measure this machine.")


class Mode(StrEnum):
    """How blocks of frames are denoised."""

    ASYNC = "async"
    SYNC = "sync"
    FULL = "full"
    GUIDANCE = "guidance"
    DISTILLED = "distilled"


class BenchReference(StrEnum):
    """What the engine is compared with."""

    DIFFUSERS = "diffusers"
    SYNC = "sync"


class BenchDevice(StrEnum):
    """Where to measure."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


@app.command("engine")
def engine(
    model: Annotated[
        str | None, typer.Option("--model", help="Preset, folder or URI. Default: random weights of --shape.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="1.3b-540p, 14b-540p, 14b-720p or small (the default).")
    ] = None,
    mode: Annotated[Mode, typer.Option("--mode", help=_MODES + _APPROXIMATE)] = Mode.ASYNC,
    against: Annotated[
        BenchReference | None, typer.Option("--against", help="Compare with diffusers, or with our synchronous film.")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Render by both so often, in turns.")] = 1,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Inference steps. Default: 2 sync, else 12.")
    ] = None,
    reference_steps: Annotated[
        int | None,
        typer.Option("--reference-steps", min=1, help="Stop diffusers after this many steps, and extrapolate."),
    ] = None,
    ar_step: Annotated[
        int | None, typer.Option("--ar-step", min=0, help="For --mode async and full. Default: 5.")
    ] = None,
    device: Annotated[BenchDevice, typer.Option("--device", help="Where to measure.")] = BenchDevice.AUTO,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Default: bfloat16 on CUDA, float32 on the CPU.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="On the CPU.")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Settings file. Default: $RENDER_FARM_CONFIG.")] = None,
    gpu: Annotated[
        str | None, typer.Option("--predict", help="Measure nothing: say what h100 or h200 should take.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time one window with random weights of full size. Nothing is downloaded. The [engine] table of the settings
    chooses attention, compilation and the key/value cache.
    """
    if gpu is not None:
        from render_farm.cli.predict import lines as prediction_lines
        from render_farm.cli.predict import predict

        found = predict(gpu, model or shape or "df-14b-540p", mode.value, steps)
        if as_json:
            print_json(found)
        else:
            say("\n".join(prediction_lines(found)))
        return
    from render_farm.engine.bench.run import BenchRequest, run_bench
    from render_farm.engine.bench.show import lines
    from render_farm.farm.run.settings import load_settings

    if model is not None and shape is not None:
        raise UsageError("--model and --shape do not go together")
    result = run_bench(
        BenchRequest(
            shape=shape or "small",
            model=model,
            mode=mode.value,
            against=None if against is None else against.value,
            pairs=pairs,
            steps=steps,
            reference_steps=reference_steps,
            ar_step=ar_step,
            device=device.value,
            dtype=dtype,
            threads=threads,
            options=load_settings(file=config).engine,
        )
    )
    if as_json:
        print_json(result.to_dict())
    else:
        say("\n".join(lines(result)))


@app.command("parallel")
def parallel(
    ranks: Annotated[str, typer.Option("--ranks", help="Numbers of ranks, with commas.")] = "1,2",
    degrees: Annotated[
        str | None, typer.Option("--degrees", help="Shapes instead, each cfg x ulysses x ring: 2x4x1,1x4x2.")
    ] = None,
    shape: Annotated[str, typer.Option("--shape", help="1.3b-540p, 14b-540p, 14b-720p or small.")] = "small",
    mode: Annotated[Mode, typer.Option("--mode", help=_MODES)] = Mode.SYNC,
    num_frames: Annotated[int | None, typer.Option("--num-frames", min=5, help="Default: those of the shape.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Inference steps. The first is not counted.")] = 3,
    device: Annotated[BenchDevice, typer.Option("--device", help="Where to measure.")] = BenchDevice.AUTO,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Default: bfloat16 on CUDA, float32 on the CPU.")] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also measure the VAE's decoder, by rows.")] = False,
    one_rank: Annotated[
        bool,
        typer.Option(
            "--one-rank", help="Measure the cost of a group's path on one rank instead, and attention against float64."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Render one window on several ranks, each on a GPU or a CPU thread. Prints time, efficiency, exactness and bytes
    sent, and the settings by which `auto` chooses degrees."""
    from render_farm.parallel.bench import document, lines, read_degrees, read_ranks
    from render_farm.parallel.measure import GroupBenchRequest, measure
    from render_farm.parallel.one_rank import measure_one_rank, one_rank_lines

    request = GroupBenchRequest(
        num_ranks=read_ranks(ranks),
        shapes=read_degrees(degrees),
        shape=shape,
        mode=mode.value,
        num_frames=num_frames,
        steps=steps,
        device=device.value,
        dtype=dtype,
        decode=decode,
    )
    if one_rank:
        result = measure_one_rank(request)
        if as_json:
            print_json(result.to_dict())
        else:
            say("\n".join(one_rank_lines(result)))
        return
    results = measure(request)
    if as_json:
        print_json(document(results))
    else:
        for line in lines(results):
            say(line)
