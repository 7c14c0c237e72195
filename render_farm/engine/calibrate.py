"""Measure a model's magnitudes, which `cache: mag` goes by: `python -m render_farm.engine.calibrate FOLDER`.

One film of one window is rendered without blocks, so that all frames take the same steps, and what the layers add is
measured at each. Written as `magnitudes.json` beside the model's model_index.json, it serves every schedule.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from render_farm.engine.denoising.window import render_window
from render_farm.engine.engine import Engine, load_engine
from render_farm.engine.transformer.step_cache import MagnitudeRecorder
from render_farm.engine.weights.fingerprint import MAGNITUDES
from render_farm.errors import RenderFarmError, UsageError
from render_farm.job import RenderJob
from render_farm.planning.magnitudes import Magnitudes

_DIGITS = 6


def measure_magnitudes(engine: Engine, job: RenderJob) -> Magnitudes:
    """Render `job` and measure. Raises `UsageError` unless its film is one window without causal blocks."""
    plan = engine.plan(replace(job, cache=None))
    if plan.num_segments > 1 or plan.job.causal_block_size > 1 or plan.windows[0].needs_inputs:
        raise UsageError("magnitudes are measured with a text-to-video film of one window, causal_block_size 1")
    recorder = MagnitudeRecorder()
    render_window(
        engine.transformer,
        plan,
        0,
        history=None,
        embeddings=engine.encode_prompts(plan.texts),
        attention=engine.attention,
        step_cache=recorder,
    )
    return Magnitudes(
        fingerprint=engine.spec.fingerprint,
        timesteps=tuple(map(int, plan.schedule(0).timesteps)),
        branches=tuple(tuple(round(value, _DIGITS) for value in branch) for branch in recorder.branches),
    )


def save_magnitudes(folder: Path, magnitudes: Magnitudes) -> Path:
    """Write them where `load_engine(folder)` reads them. The next engine has them."""
    path = folder / MAGNITUDES
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(magnitudes.to_dict()) + "\n")
    partial.replace(path)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder in diffusers format, or a model's name; the file is written into it")
    parser.add_argument("--prompt", default="a red ball moves over the grass", help="of the film that is measured")
    parser.add_argument("--frames", type=int, help="pixel frames; the model's default when left out")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's default when left out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args(arguments)
    try:
        engine = load_engine(given.model, device=given.device, dtype=given.dtype)
        job = RenderJob(
            job_id="calibrate",
            prompt=given.prompt,
            num_frames=given.frames,
            num_inference_steps=given.steps,
            causal_block_size=1,
            ar_step=0,
            seed=0,
        )
        path = save_magnitudes(engine.checkpoint.folder, measure_magnitudes(engine, job))
    except (RenderFarmError, OSError) as error:
        sys.exit(f"calibrate: {error}")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
