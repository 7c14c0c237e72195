"""Where the change at a join comes from, the decoder or the denoiser, and what blending does about it.

    python -m tests.benchmarks.seams [--films 8] [--model tiny] [--latents FOLDER] [--strip FILE]

Films of 257 frames of held-out prompts (three windows, overlap 17) are denoised once. Their latents are then decoded in
several ways. The change between two frames is the mean absolute difference of their levels.

- *seam ratio*: the change at the joins, by the median change elsewhere (`tiny_quality.seam_ratio`).
- *of its place*: the same by the median change at the other frames that start a latent frame. A decoder that makes four
  frames of one latent frame changes more there, with or without a join.
- *sharpness*: the mean gradient of the four frames from the join on, by that of the film as decoded now.

`--latents` keeps the latents there and takes them from there the next time.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from render_farm import RenderJob, load_engine
from render_farm.engine.decoding.streaming import StreamingDecoder
from render_farm.tiny.captions import Scene, held_out_scenes
from render_farm.tiny.clips import render_clip
from tests.benchmarks.tiny_quality import BOUNDARIES, seam_ratio, to_uint8
from tests.helpers.whole_decoding import whole

STARTS = tuple((frame + 3) // 4 for frame in BOUNDARIES)
"""The first latent frames of segments 2 and 3."""
NUM_FRAMES = 257
_STRIP_FRAMES = range(-3, 6)


def streamed(vae: object, latents: Tensor) -> np.ndarray:
    return np.stack(list(StreamingDecoder(vae).push(latents)))  # type: ignore[arg-type]


def by_segment(vae: object, latents: Tensor, context: int) -> np.ndarray:
    """Each segment decoded by itself, after `context` latent frames of the one before."""
    bounds, parts = [0, *STARTS, latents.shape[2]], []
    for start, stop in pairwise(bounds):
        before = min(context, start)
        frames = streamed(vae, latents[:, :, start - before : stop])
        parts.append(frames[1 + 4 * (before - 1) :] if before else frames)
    return np.concatenate(parts)


def smoothed(latents: Tensor) -> Tensor:
    """The last latent frame before each join and the first after it become 1:2:1 means of their neighbours."""
    made = latents.clone()
    for start in STARTS:
        for at in (start - 1, start):
            made[:, :, at] = (latents[:, :, at - 1] + 2 * latents[:, :, at] + latents[:, :, at + 1]) / 4
    return made


def halved(latents: Tensor) -> Tensor:
    """Only the first latent frame after each join becomes such a mean."""
    made = latents.clone()
    for at in STARTS:
        made[:, :, at] = (latents[:, :, at - 1] + 2 * latents[:, :, at] + latents[:, :, at + 1]) / 4
    return made


def levelled(latents: Tensor, num_frames: int = 5) -> Tensor:
    """The jump of each channel's mean at a join fades over some latent frames."""
    made = latents.clone()
    for start in STARTS:
        jump = (latents[:, :, start - 1] - latents[:, :, start]).mean(dim=(2, 3), keepdim=True)
        for index in range(num_frames):
            made[:, :, start + index] += jump * (1 - (index + 1) / (num_frames + 1))
    return made


def changes(film: np.ndarray) -> np.ndarray:
    """Of each frame from the second on."""
    return np.abs(np.diff(film.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))


def ratio_of_its_place(film: np.ndarray) -> float:
    of_frames = changes(film)
    places = [frame - 1 for frame in range(1, len(film), 4) if frame not in BOUNDARIES]
    return float(of_frames[[frame - 1 for frame in BOUNDARIES]].mean() / max(np.median(of_frames[places]), 1e-6))


def rhythm(film: np.ndarray) -> float:
    """The median change where a latent frame starts, by that within latent frames."""
    of_frames = changes(film)
    starts = [frame - 1 for frame in range(1, len(film), 4) if frame not in BOUNDARIES]
    others = [frame - 1 for frame in range(1, len(film)) if frame % 4 != 1]
    return float(np.median(of_frames[starts]) / max(np.median(of_frames[others]), 1e-6))


def sharpness(film: np.ndarray) -> float:
    """The mean gradient of the four frames from each join on."""
    frames = np.concatenate([film[at : at + 4] for at in BOUNDARIES]).astype(np.float32)
    return float(np.abs(np.diff(frames, axis=1)).mean() + np.abs(np.diff(frames, axis=2)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--strip", type=Path, help="a picture: films below each other, one row per way of decoding")
    options = parser.parse_args()
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "diffusers"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    engine = load_engine(options.model, device="cpu", dtype="float32")
    moving = [scene for scene in held_out_scenes() if scene.subjects[0].motion != "still"]
    chosen = [moving[index * len(moving) // options.films] for index in range(options.films)]
    ways: dict[str, Callable[[Tensor], np.ndarray]] = {
        "as now": lambda latents: streamed(engine.vae, latents),
        "each segment by itself": lambda latents: by_segment(engine.vae, latents, 0),
        "after 1 latent frame": lambda latents: by_segment(engine.vae, latents, 1),
        "after 2": lambda latents: by_segment(engine.vae, latents, 2),
        "after 5 (the overlap)": lambda latents: by_segment(engine.vae, latents, 5),
        "1:2:1 over both sides": lambda latents: streamed(engine.vae, smoothed(latents)),
        "1:2:1 after the join": lambda latents: streamed(engine.vae, halved(latents)),
        "means fade over 5": lambda latents: streamed(engine.vae, levelled(latents)),
    }
    numbers: dict[str, list[tuple[float, float, float, float]]] = {}
    rows, num_equal = [], 0
    for index, scene in enumerate(chosen):
        latents = latents_of(engine, scene, index, options.latents)
        now = streamed(engine.vae, latents)
        num_equal += np.array_equal(now, whole(engine.vae, latents))
        for name, decode in ways.items():
            film = now if name == "as now" else decode(latents)
            if len(film) == NUM_FRAMES:
                numbers.setdefault(name, []).append(
                    (seam_ratio(film), ratio_of_its_place(film), rhythm(film), sharpness(film) / sharpness(now))
                )
                if index < 3:
                    rows.append(np.concatenate([film[BOUNDARIES[0] + offset] for offset in _STRIP_FRAMES], axis=1))
        clip = render_clip(scene, index, NUM_FRAMES)
        numbers.setdefault("the drawn clip", []).append(_of_clip(to_uint8(clip), now))
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1
        with torch.no_grad():
            video = engine.vae.decode(engine.vae.encode(pixels).latent_dist.mode()).sample[0]
        again = (((video.clamp(-1, 1) + 1) / 2).permute(1, 2, 3, 0).numpy() * 255).astype(np.uint8)
        numbers.setdefault("the drawn clip, encoded and decoded", []).append(_of_clip(again, now))
        print(f"{index + 1}/{len(chosen)} {scene.caption()}", file=sys.stderr, flush=True)
    print(f"\nIn one pass over all latents: equal bit for bit in {num_equal} of {len(chosen)} films.\n")
    print("| decoded | films | seam ratio, mean | median | worst | of its place, mean | rhythm | sharpness |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in numbers.items():
        seams, places, rhythms, sharp = (np.array(column) for column in zip(*found, strict=True))
        print(
            f"| {name} | {len(found)} | {seams.mean():.2f} | {np.median(seams):.2f} | {seams.max():.2f} | "
            f"{places.mean():.2f} | {rhythms.mean():.2f} | {sharp.mean():.3f} |"
        )
    if options.strip:
        Image.fromarray(np.concatenate(rows)).resize((64 * 2 * len(_STRIP_FRAMES), 128 * len(rows)), 0).save(
            options.strip
        )


def _of_clip(film: np.ndarray, now: np.ndarray) -> tuple[float, float, float, float]:
    return seam_ratio(film), ratio_of_its_place(film), rhythm(film), sharpness(film) / sharpness(now)


def latents_of(engine: object, scene: Scene, seed: int, folder: Path | None) -> Tensor:
    file = folder / f"{seed}.pt" if folder else None
    if file and file.exists():
        loaded: Tensor = torch.load(file)
        return loaded
    job = RenderJob(job_id=f"film-{seed}", prompt=scene.caption(), num_frames=NUM_FRAMES, overlap_history=17, seed=seed)
    latents: Tensor = engine.render(job).latents  # type: ignore[attr-defined]
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(latents, file)
    return latents


if __name__ == "__main__":
    main()
