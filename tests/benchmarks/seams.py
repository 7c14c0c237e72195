"""Where the change at a join comes from, the decoder or the denoiser, and what blending does about it.

    python -m tests.benchmarks.seams [--films 8] [--model tiny] [--latents FOLDER] [--strip FILE]

Films of 257 frames of held-out prompts (three windows, overlap 17) are denoised and decoded once. Around the joins,
their latents are then decoded in other ways. The change between two frames is the mean absolute difference of their
levels, and *usual* is the median change of the film as decoded now.

- *join*: the change at the joins, by the usual one (`tiny_quality.seam_ratio`).
- *of its place*: the same by the median change at the other frames that start a latent frame. A decoder that makes four
  frames of one latent frame may change more there, with or without a join.
- *largest*: the largest change from a latent frame before each join to four after it, by the usual one. What blending
  only moves to the next frame stays in it.
- *sharpness*: the mean gradient of the four frames from each join on, by that of the film as decoded now.

The table is printed again after each film. `--latents` keeps the latents there and takes them from there the next time.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor

from render_farm import RenderJob, load_engine
from render_farm.engine import Engine
from render_farm.engine.decoding.streaming import StreamingDecoder
from render_farm.engine.decoding.tiles import Piece
from render_farm.tiny.captions import Scene, held_out_scenes
from render_farm.tiny.clips import render_clip
from tests.benchmarks.tiny_quality import BOUNDARIES, to_uint8
from tests.helpers.whole_decoding import whole

STARTS = tuple((frame + 3) // 4 for frame in BOUNDARIES)
"""The first latent frames of segments 2 and 3."""
NUM_FRAMES = 257
BEFORE, AFTER = 2, 6
"""Latent frames around a join that are decoded in other ways."""
NOW = "as now"
Row = tuple[float, float, float, float]


def smoothed(latents: Tensor, start: int, *, both_sides: bool) -> Tensor:
    """The first latent frame after a join, and perhaps the last before it, become 1:2:1 means of their neighbours."""
    made = latents.clone()
    for at in (start - 1, start) if both_sides else (start,):
        made[:, :, at] = (latents[:, :, at - 1] + 2 * latents[:, :, at] + latents[:, :, at + 1]) / 4
    return made


def levelled(latents: Tensor, start: int, num_frames: int = 5) -> Tensor:
    """The jump of each channel's mean at a join fades over some latent frames."""
    made = latents.clone()
    jump = (latents[:, :, start - 1] - latents[:, :, start]).mean(dim=(2, 3), keepdim=True)[:, :, None]
    for index in range(num_frames):
        made[:, :, start + index : start + index + 1] += jump * (1 - (index + 1) / (num_frames + 1))
    return made


class Film:
    """A film as it is decoded now, with the decoder's features before each join."""

    def __init__(self, vae: AutoencoderKLWan, latents: Tensor) -> None:
        self.latents = latents
        self._vae = vae
        piece, frames = Piece(vae), []
        decoder = StreamingDecoder(vae, frame_decoder=piece)
        self._pieces: dict[int, Piece] = {}
        for at in range(latents.shape[2]):
            for start in STARTS:
                if at == start - BEFORE:
                    self._pieces[start] = copied(piece)
            frames += list(decoder.push(latents[:, :, at : at + 1]))
        self.frames = np.stack(frames)

    def around(self, start: int, latents: Tensor) -> np.ndarray:
        """The frames around a join, of these latents, after the film as it is."""
        decoder = StreamingDecoder(self._vae, frame_decoder=copied(self._pieces[start]))
        return np.stack(list(decoder.push(latents[:, :, start - BEFORE : start + AFTER])))

    def by_itself(self, start: int, context: int) -> np.ndarray:
        """The frames around a join of which the second segment is decoded by itself, after `context` latent frames."""
        own = StreamingDecoder(self._vae).push(self.latents[:, :, start - context : start + AFTER])
        frames = list(own)[1 + 4 * (context - 1) :]
        first = 4 * start - 3
        return np.concatenate([self.frames[first - 4 * BEFORE : first], np.stack(frames)])


def copied(piece: Piece) -> Piece:
    """A decoder in the same state. Features are replaced and never changed in place."""
    made = copy.copy(piece)
    made._features = copy.copy(piece._features)
    made._features._features = list(piece._features._features)
    return made


def changes(frames: np.ndarray) -> np.ndarray:
    """Of each frame from the second on."""
    return np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))


def sharpness(parts: list[np.ndarray]) -> float:
    """The mean gradient of the four frames from each join on."""
    frames = np.concatenate([part[4 * BEFORE : 4 * BEFORE + 4] for part in parts]).astype(np.float32)
    return float(np.abs(np.diff(frames, axis=1)).mean() + np.abs(np.diff(frames, axis=2)).mean())


def row_of(parts: list[np.ndarray], film: np.ndarray, reference: list[np.ndarray]) -> Row:
    of_film = changes(film)
    joins = [frame - 1 for frame in BOUNDARIES]
    usual = max(float(np.median(np.delete(of_film, joins))), 1e-6)
    of_places = float(np.median(of_film[[frame - 1 for frame in range(1, len(film), 4) if frame not in BOUNDARIES]]))
    near = [changes(part)[4 * BEFORE - 5 : 4 * BEFORE + 16] for part in parts]
    at_joins = float(np.mean([part[4] for part in near]))
    largest = float(np.mean([part.max() for part in near]))
    return at_joins / usual, at_joins / max(of_places, 1e-6), largest / usual, sharpness(parts) / sharpness(reference)


def parts_of(frames: np.ndarray) -> list[np.ndarray]:
    """A whole film's frames around its joins."""
    return [frames[frame - 4 * BEFORE : frame + 4 * AFTER] for frame in BOUNDARIES]


def rows_of(engine: Engine, film: Film, scene: Scene, seed: int) -> tuple[dict[str, Row], dict[str, list[np.ndarray]]]:
    """The numbers of each way of decoding, and its frames around the joins."""
    latents = film.latents
    ways = {
        NOW: parts_of(film.frames),
        "segments by themselves, after 1 latent frame": [film.by_itself(start, 1) for start in STARTS],
        "after 2": [film.by_itself(start, 2) for start in STARTS],
        "after 5, the overlap": [film.by_itself(start, 5) for start in STARTS],
        "1:2:1 on both sides": [film.around(at, smoothed(latents, at, both_sides=True)) for at in STARTS],
        "1:2:1 after the join": [film.around(at, smoothed(latents, at, both_sides=False)) for at in STARTS],
        "means fade over 5": [film.around(at, levelled(latents, at)) for at in STARTS],
    }
    rows = {name: row_of(parts, film.frames, ways[NOW]) for name, parts in ways.items()}
    clip = render_clip(scene, seed, NUM_FRAMES)
    drawn = to_uint8(clip)
    with torch.no_grad():
        encoded = engine.vae.encode(torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1).latent_dist.mode()
    mean, std = (torch.tensor(engine.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    again = np.stack(list(StreamingDecoder(engine.vae).push((encoded - mean) / std)))
    for name, frames in (("the drawn clip", drawn), ("the drawn clip, encoded and decoded", again)):
        rows[name] = row_of(parts_of(frames), frames, ways[NOW])
    return rows, ways


def latents_of(engine: Engine, scene: Scene, seed: int, folder: Path | None) -> Tensor:
    file = folder / f"{seed}.pt" if folder else None
    if file and file.exists():
        loaded: Tensor = torch.load(file)
        return loaded
    job = RenderJob(job_id=f"film-{seed}", prompt=scene.caption(), num_frames=NUM_FRAMES, overlap_history=17, seed=seed)
    latents = engine.render(job).latents
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(latents, file)
    return latents


def print_table(numbers: list[dict[str, Row]], num_equal: int) -> None:
    print(f"\n{len(numbers)} films. In one pass over all latents: equal bit for bit in {num_equal}.\n")
    print("| decoded | join, mean | median | worst | of its place | largest | sharpness |")
    print("|---|---|---|---|---|---|---|")
    for name in numbers[0]:
        joins, places, largest, sharp = np.array([film[name] for film in numbers]).T
        print(
            f"| {name} | {joins.mean():.2f} | {np.median(joins):.2f} | {joins.max():.2f} | {places.mean():.2f} | "
            f"{largest.mean():.2f} | {sharp.mean():.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--strip", type=Path, help="a picture: the frames around the first join, one row per way")
    options = parser.parse_args()
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "diffusers"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}", flush=True)
    engine = load_engine(options.model, device="cpu", dtype="float32")
    moving = [scene for scene in held_out_scenes() if scene.subjects[0].motion != "still"]
    numbers, strip, num_equal = [], [], 0
    for index in range(options.films):
        scene = moving[index * len(moving) // options.films]
        film = Film(engine.vae, latents_of(engine, scene, index, options.latents))
        num_equal += np.array_equal(film.frames, whole(engine.vae, film.latents))
        rows, ways = rows_of(engine, film, scene, index)
        numbers.append(rows)
        print_table(numbers, num_equal)
        strip += [np.concatenate(list(parts[0][4 * BEFORE - 3 : 4 * BEFORE + 6]), axis=1) for parts in ways.values()]
        if options.strip:
            picture = Image.fromarray(np.concatenate(strip))
            picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(options.strip)


if __name__ == "__main__":
    main()
