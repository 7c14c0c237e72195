"""The command of `python -m render_farm.engine.bench`: needs torch, transformers, diffusers and safetensors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from render_farm.engine.bench.cases import MODES, SHAPES
from render_farm.engine.bench.run import REFERENCES, BenchRequest, run_bench
from render_farm.engine.bench.show import lines
from render_farm.engine.options import ATTENTION_BACKENDS, EngineOptions
from render_farm.errors import RenderFarmError


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments say and print it; exits with 2 for arguments that cannot work."""
    parsed = _parser().parse_args(arguments)
    request = BenchRequest(
        shape=parsed.shape,
        model=parsed.model,
        mode=parsed.mode,
        against=parsed.against,
        pairs=parsed.pairs,
        steps=parsed.steps,
        reference_steps=parsed.reference_steps,
        ar_step=parsed.ar_step,
        device=parsed.device,
        dtype=parsed.dtype,
        threads=parsed.threads,
        options=EngineOptions(
            attention=parsed.attention,
            allow_approximate_attention=parsed.allow_approximate_attention,
            compile=parsed.compile,
            kv_cache=parsed.kv_cache,
        ),
    )
    try:
        result = run_bench(request)
    except RenderFarmError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    print(json.dumps(result.to_dict(), indent=2) if parsed.json else "\n".join(lines(result)))  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m render_farm.engine.bench", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", help="preset, folder or URI; default: random weights of --shape")
    what.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="async",
        help="async, full: ar_step 5, blocks of 5 latent frames; guidance: for half of the steps; distilled: 4 steps",
    )
    parser.add_argument("--against", choices=REFERENCES, help="render by this too, and compare")
    parser.add_argument("--pairs", type=int, default=1, help="render by both so often, in turns")
    parser.add_argument("--steps", type=int, help="inference steps; default 12 (async) or 2 (sync)")
    parser.add_argument("--reference-steps", type=int, help="stop diffusers after so many steps, and extrapolate")
    parser.add_argument("--ar-step", type=int, help="of --mode async; default 5")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on CUDA, float32 on the CPU")
    parser.add_argument("--threads", type=int, help="on the CPU")
    parser.add_argument("--attention", choices=("auto", *ATTENTION_BACKENDS), default="auto")
    parser.add_argument("--allow-approximate-attention", action="store_true")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--kv-cache", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
