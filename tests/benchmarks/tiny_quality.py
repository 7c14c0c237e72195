"""How good the built-in model is: reconstruction, prompt following, seams, speed.

    python -m tests.benchmarks.tiny_quality [--films 96] [--films-only] [--set guidance_scale=1 ...] [--json FILE]

Prompts are held-out combinations of colour, shape, motion and background, one film of 257 frames each (three segments,
overlap 17); a plain pixel detector reads segment 1 (frames 0-96) and what segment 3 adds (frames 177-256). Seams: the
mean absolute difference between the frames on both sides of a boundary, against the median of such differences inside
segments; for contrast the same films cut from three independent renders (no overlap). Each film has a seed of its own.
`--set` gives columns of the manifest other values than the preset's: `--set sampler=distilled --set loras=FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray

from render_farm import RenderJob, load_engine
from render_farm.engine import Engine
from render_farm.job import LoraRef
from render_farm.media.checks import PictureChecks
from render_farm.tiny import MODEL_DIR
from render_farm.tiny.captions import Scene, held_out_scenes
from render_farm.tiny.clips import render_clip
from render_farm.tiny.detect import Detection, detect

SEGMENT_1, SEGMENT_3 = slice(0, 97), slice(177, 257)
BOUNDARIES = (97, 177)
"""First frames of segments 2 and 3."""
ATTRIBUTES = ("background", "colour", "shape", "motion", "area")


@torch.no_grad()
def reconstruction_db(num_clips: int = 24, num_frames: int = 33) -> float:
    """Return the autoencoder's PSNR, in dB, over held-out clips (the mean squared error of all, then dB)."""
    vae = AutoencoderKLWan.from_pretrained(MODEL_DIR / "vae")
    scenes = held_out_scenes()
    errors = []
    for i in range(num_clips):
        clip = render_clip(scenes[i * len(scenes) // num_clips], 7_000 + i, num_frames, first_frame=20 * (i % 5))
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        errors.append(float(((back - pixels) / 2).square().mean()))
    return float(-10 * np.log10(np.mean(errors)))


def judge(scene: Scene, seed: int, found: Detection, frames: slice) -> dict[str, bool]:
    """Return which attributes of a clip are right; the area within a third of the ideal clip's."""
    subject = scene.subjects[0]
    ideal = detect(to_uint8(render_clip(scene, seed, frames.stop)[frames]))
    return {
        "background": found.background == scene.background,
        "colour": found.colour == subject.colour,
        "shape": found.shape == subject.shape,
        "motion": found.motion == subject.motion,
        "area": abs(found.area / ideal.area - 1) < 1 / 3,
    }


def to_uint8(clip: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return pixels as the renderer makes them."""
    return (clip * 255).astype(np.uint8)


def seam_ratio(film: NDArray[np.uint8], boundaries: tuple[int, ...] = BOUNDARIES) -> float:
    """Return the mean frame difference at the boundaries over the median of the others."""
    steps = np.abs(np.diff(film.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    inside = np.delete(steps, [b - 1 for b in boundaries])
    return float(steps[[b - 1 for b in boundaries]].mean() / max(float(np.median(inside)), 1e-6))


def drift(film: NDArray[np.uint8]) -> float:
    """How far the colours of a later segment are from the first one's at most, as `results.parquet` says it (Lab)."""
    checks = PictureChecks()
    for number, frame in enumerate(film):
        if number in (0, *BOUNDARIES):
            checks.begin()
        checks.add(frame)
    found = checks.checked().drift
    assert found is not None
    return found


def column(text: str) -> tuple[str, object]:
    """Parse `name=value`: a number or a text, and for `loras` a file."""
    name, _, value = text.partition("=")
    if name == "loras":
        return name, (LoraRef(path=value),)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def render(engine: Engine, prompt: str, seed: int, num_frames: int, args: argparse.Namespace) -> NDArray[np.uint8]:
    """Render one film with the settings asked for."""
    job = RenderJob(
        job_id=f"film-{seed}",
        prompt=prompt,
        num_frames=num_frames,
        overlap_history=17,
        seed=seed,
        **dict(args.set),
    )
    return np.stack(list(engine.render(job).frames))


def measure_films(engine: Engine, args: argparse.Namespace) -> dict[str, object]:
    """Render held-out prompts and return shares of right attributes, seam ratios and drift."""
    scenes = held_out_scenes()
    chosen = [scenes[i * len(scenes) // args.films] for i in range(args.films)]
    right: dict[str, Counter[str]] = {"segment_1": Counter(), "segment_3": Counter()}
    wrong_motions: Counter[str] = Counter()
    seams, drifts, contrasts, seconds, cpu_seconds = [], [], [], [], []
    for seed, scene in enumerate(chosen):
        started, cpu_started = time.perf_counter(), time.process_time()
        film = render(engine, scene.caption(), seed, 257, args)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
        for name, frames in (("segment_1", SEGMENT_1), ("segment_3", SEGMENT_3)):
            found = detect(film[frames])
            verdict = judge(scene, seed, found, frames)
            right[name].update(key for key, is_right in verdict.items() if is_right)
            if not verdict["motion"]:
                wrong_motions[f"{name}: {scene.subjects[0].motion} seen as {found.motion}"] += 1
        drifts.append(drift(film))
        if scene.subjects[0].motion != "still":  # its median difference is next to nothing
            seams.append(seam_ratio(film))
        if seed % 8 == 0 and not args.films_only and scene.subjects[0].motion != "still":
            parts = [render(engine, scene.caption(), 1_000 + 3 * seed + k, 97, args) for k in range(3)]
            contrasts.append(seam_ratio(np.concatenate(parts), (97, 194)))
        print(f"{seed + 1}/{len(chosen)} {scene.caption()} {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    return {
        "films": len(chosen),
        **{name: {key: round(count[key] / len(chosen), 3) for key in ATTRIBUTES} for name, count in right.items()},
        "seam_ratio_mean": round(float(np.mean(seams)), 3),
        "seam_ratio_median": round(float(np.median(seams)), 3),
        "drift_mean": round(float(np.mean(drifts)), 2),
        **({"seam_ratio_without_overlap": round(float(np.mean(contrasts)), 3)} if contrasts else {}),
        "seconds_per_film_of_257_frames": round(float(np.median(seconds)), 2),
        "cpu_seconds_per_film": round(float(np.median(cpu_seconds)), 2),
        "wrong_motions": dict(wrong_motions.most_common(12)),
    }


def seconds_of_a_demo_film(threads: int) -> float:
    """Return the wall seconds of a fresh process that loads the model and renders 97 frames to an MP4."""
    code = (
        "import torch; torch.set_num_threads(int(__import__('os').environ['OMP_NUM_THREADS'])); "
        "from render_farm import RenderJob, load_engine; "
        "e = load_engine('tiny', device='cpu', dtype='float32'); "
        "list(e.render(RenderJob(job_id='a', prompt='a red circle moving right on a black background', "
        "num_frames=97, seed=1)).frames)"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return time.perf_counter() - started


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=96)
    parser.add_argument("--films-only", action="store_true", help="no reconstruction, speed, or films without overlap")
    parser.add_argument("--model", default="tiny", help="a checkpoint in diffusers format")
    parser.add_argument("--set", type=column, action="append", default=[], metavar="COLUMN=VALUE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {args.threads} threads",
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy")},
        "settings": {"model": args.model, "threads": args.threads, **{name: str(value) for name, value in args.set}},
    }
    if not args.films_only:
        result["vae_psnr_db"] = round(reconstruction_db(), 2)
        result["seconds_of_a_97_frame_film_with_loading"] = round(seconds_of_a_demo_film(args.threads), 1)
    if args.films:
        engine = load_engine(args.model, device="cpu", dtype="float32")
        result |= measure_films(engine, args)
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
