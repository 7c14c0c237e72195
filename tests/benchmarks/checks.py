"""Checks of pictures: faults that are found, films without a fault that are marked, and the cost per frame.

    python -m tests.benchmarks.checks                    # 40 made films of each fault, 200 clean ones
    python -m tests.benchmarks.checks --seed 1 --pictures leaves     # other films than those that thresholds come from
    python -m tests.benchmarks.checks --drift            # 18 segments of a model that drifts, with and without adain

Faults are put into clips of the built-in model's world and into pans over soft pictures, at random places and
strengths (`Strengths`). Clean films are such clips and pans, clips whose prompt changes, cuts that were asked for, and
films of the built-in model (`--model-films` of them, in 8 steps). Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from render_farm.check_mode import KINDS
from render_farm.media.check_limits import CheckLimits
from render_farm.media.checks import PictureChecks
from render_farm.media.seam_score import SeamMeter
from render_farm.tiny.captions import held_out_scenes
from render_farm.tiny.clips import draw_scene, render_change, render_clip

Frames = np.ndarray
"""(T, H, W, 3) uint8."""
_BOUNDS = (0, 97, 177, 257)
"""First frames of segments, as the default windows lay them."""
_CLEAN = {"clip": 60, "clip, its prompt changes": 20, "asked cut": 30, "pan": 58, "zoom": 20}
"""With 12 films of the built-in model: 200."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames, the frames at which segments start, and the segments that may look different."""

    frames: Frames
    starts: tuple[int, ...] = (0,)
    scenes: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """From how much to how much a fault is made. Levels are of 255."""

    frozen_frames: tuple[int, int] = (24, 60)
    black_frames: tuple[int, int] = (2, 30)
    flash_frames: tuple[int, int] = (1, 10)
    flash_levels: tuple[int, int] = (30, 110)
    brightening_levels: tuple[int, int] = (30, 90)
    """Over 257 frames."""
    seam_levels: tuple[int, int] = (8, 30)
    seam_pixels: tuple[int, int] = (6, 20)


_STRENGTHS = Strengths()


def noisy(frames: np.ndarray, rng: np.random.Generator) -> Frames:
    """Levels (T, H, W, 3) with the grain of a decoder."""
    grains = rng.normal(0, rng.uniform(0.5, 2.5), (7, *frames.shape[1:])).astype(np.float32)
    grain = grains[np.arange(len(frames)) % len(grains)]
    return np.clip(frames + grain, 0, 255).astype(np.uint8)


def clip(rng: np.random.Generator, num_frames: int) -> Frames:
    return noisy(render_clip(draw_scene(rng), int(rng.integers(1 << 31)), num_frames) * 255, rng)


def soft_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture whose spectrum falls as that of photographs does, (H, W, 3) levels."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falls = 1 / np.maximum(np.hypot(x, y), 1 / max(height, width))
    channels = []
    for _ in range(3):
        noise = rng.normal(size=falls.shape) + 1j * rng.normal(size=falls.shape)
        plane = np.fft.irfft2(noise * falls, s=(height, width))
        channels.append(plane / plane.std())
    own, shared = np.stack(channels, axis=2), channels[0][..., None]
    picture: np.ndarray = 128 + rng.uniform(-40, 40) + rng.uniform(25, 50) * (0.7 * shared + 0.5 * own)
    return picture


def fallen_leaves(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Discs of all sizes and colours that cover one another, as things do in front of a camera, (H, W, 3) levels."""
    picture = np.full((height, width, 3), rng.uniform(0, 255, 3), np.float32)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(height * width // 400):
        radius = 4 / np.sqrt(rng.uniform(0.003, 1))  # the density of sizes falls with their cube
        y, x, shade = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(-30, 30)
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        part = np.s_[top : int(y + radius) + 2, left : int(x + radius) + 2]
        inside = (rows[part] - y) ** 2 + (columns[part] - x) ** 2 < radius**2
        lit = rng.uniform(0, 255, 3) + shade * (rows[part] - y)[..., None] / radius
        picture[part][inside] = np.clip(lit, 0, 255)[inside]
    return picture


PICTURES = {"soft": soft_picture, "leaves": fallen_leaves}
_made = {"pictures": soft_picture}
"""What cameras move over."""


def _sampled(picture: np.ndarray, at: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """Rows (or columns) of a picture at places between its own."""
    whole = at.astype(int)
    share = (at - whole).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    taken: np.ndarray = picture.take(whole, axis) * (1 - share) + picture.take(whole + 1, axis) * share
    return taken


def pan(rng: np.random.Generator, num_frames: int, *, zooms: bool = False) -> Frames:
    """A camera that moves over a picture, up to 3 pixels a frame, or moves toward it."""
    height, width, speed = 72, 128, rng.uniform(0.2, 3.0)
    picture = _made["pictures"](rng, height * 3, width * 2 + int(speed * num_frames)).astype(np.float32)
    frames = []
    for index in range(num_frames):
        if zooms:
            factor = 2.0 - index / num_frames
            rows = height * 1.5 + (np.arange(height) - height / 2) * factor
            columns = width + (np.arange(width) - width / 2) * factor
        else:
            rows, columns = np.arange(height) + float(height), np.arange(width) + speed * index
        frames.append(_sampled(_sampled(picture, rows), columns, axis=1))
    return noisy(np.stack(frames).astype(np.float32), rng)


def base(rng: np.random.Generator, num_frames: int) -> Frames:
    return clip(rng, num_frames) if rng.random() < 0.5 else pan(rng, num_frames)


def shifted(frames: Frames, levels: np.ndarray | float) -> Frames:
    return np.clip(frames.astype(np.float32) + levels, 0, 255).astype(np.uint8)


def _between(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


# --- faults: each returns a film, and the frames in which it is to be found -------------------------------------------


def frozen(rng: np.random.Generator) -> tuple[Film, range]:
    """Half of them as one frame that repeats, half as the flicker of latents that stand still."""
    frames, length = base(rng, 97), _between(rng, _STRENGTHS.frozen_frames)
    period = 1 if rng.random() < 0.5 else 4
    at = int(rng.integers(period, 97 - length + 1))
    for index in range(at, at + length):
        frames[index] = frames[index - period]
    return Film(frames=frames), range(at, at + length)


def black(rng: np.random.Generator, bounds: tuple[int, int] = _STRENGTHS.black_frames) -> tuple[Film, range]:
    frames, length = base(rng, 97), _between(rng, bounds)
    at = int(rng.integers(0, 97 - length))
    frames[at : at + length] = 0
    return Film(frames=frames), range(at, at + length)


def nan_frame(rng: np.random.Generator) -> tuple[Film, range]:
    """One frame of NaN, as it would be decoded."""
    return black(rng, (1, 1))


def flash(rng: np.random.Generator) -> tuple[Film, range]:
    frames, length = base(rng, 97), _between(rng, _STRENGTHS.flash_frames)
    at, levels = int(rng.integers(4, 90 - length)), _between(rng, _STRENGTHS.flash_levels)
    frames[at : at + length] = shifted(frames[at : at + length], levels * rng.choice([-1, 1]))
    return Film(frames=frames), range(at, at + length)


def cut(rng: np.random.Generator) -> tuple[Film, range]:
    make = clip if rng.random() < 0.5 else pan
    one, other, at = make(rng, 97), make(rng, 97), int(rng.integers(8, 90))
    return Film(frames=np.concatenate([one[:at], other[at:]])), range(at, at + 1)


def brightening(rng: np.random.Generator) -> tuple[Film, range]:
    """Half of them by as many levels everywhere, half by a factor."""
    frames, levels = base(rng, 257), _between(rng, _STRENGTHS.brightening_levels) * rng.choice([-1, 1])
    ramp = np.linspace(0, levels, 257)[:, None, None, None]
    ramp = ramp if rng.random() < 0.5 else frames * (ramp / 128)
    return Film(frames=shifted(frames, ramp), starts=_BOUNDS[:3]), range(97, 257)


def seam(rng: np.random.Generator) -> tuple[Film, range]:
    """From the second segment on the picture is elsewhere, or lighter or darker."""
    frames, at = base(rng, 177), 97
    if rng.random() < 0.5:
        frames[at:] = np.roll(frames[at:], _between(rng, _STRENGTHS.seam_pixels), axis=2)
    else:
        frames[at:] = shifted(frames[at:], _between(rng, _STRENGTHS.seam_levels) * rng.choice([-1, 1]))
    return Film(frames=frames, starts=_BOUNDS[:2]), range(at, at + 1)


FAULTS: dict[str, tuple[Callable[[np.random.Generator], tuple[Film, range]], tuple[str, ...]]] = {
    "frozen": (frozen, ("frozen",)),
    "black": (black, ("black",)),
    "NaN in one frame": (nan_frame, ("black",)),
    "flash": (flash, ("flash",)),
    "cut": (cut, ("cut",)),
    "brightening": (brightening, ("drift",)),
    "seam": (seam, ("seam",)),
}
"""Each with the kinds of findings that name it."""


# --- films without a fault --------------------------------------------------------------------------------------------


def clean(rng: np.random.Generator, kind: str) -> Film:
    whole = {"starts": _BOUNDS[:2]}
    match kind:
        case "clip":
            return Film(frames=clip(rng, 177), **whole)
        case "clip, its prompt changes":
            before = draw_scene(rng)
            after = replace(before, subjects=draw_scene(rng).subjects[:1] * len(before.subjects))
            after = replace(
                after,
                subjects=tuple(replace(a, shape=b.shape) for a, b in zip(after.subjects, before.subjects, strict=True)),
            )
            levels = render_change(before, after, int(rng.integers(1 << 31)), 177, 97) * 255
            return Film(frames=noisy(levels, rng), **whole, scenes=frozenset({1}))
        case "asked cut":
            make = clip if rng.random() < 0.5 else pan
            return Film(frames=np.concatenate([make(rng, 97), make(rng, 80)]), **whole, scenes=frozenset({1}))
        case "pan":
            return Film(frames=pan(rng, 177), **whole)
        case "zoom":
            return Film(frames=pan(rng, 177, zooms=True), **whole)
    raise ValueError(kind)


def _rng(what: int, kind: int, seed: int) -> np.random.Generator:
    return np.random.default_rng([what, kind, *([seed] if seed else [])])


def clean_films(kind: str, number: int, seed: int) -> Iterator[Film]:
    rng = _rng(8, list(_CLEAN).index(kind), seed)
    for _ in range(number):
        yield clean(rng, kind)


def model_films(number: int, seed: int, *, num_steps: int = 8) -> Iterator[Film]:
    """Films of the built-in model; every fourth has three segments."""
    if not number:
        return
    from render_farm import RenderJob, load_engine

    engine, scenes = load_engine("tiny", device="cpu", dtype="float32"), held_out_scenes()
    for index, place in enumerate(np.random.default_rng(1 + seed).permutation(len(scenes))[:number]):
        num_frames = 177 if index % 4 == 0 else 97
        job = RenderJob(
            job_id=f"f{index}",
            prompt=scenes[place].caption(),
            num_frames=num_frames,
            seed=index + 1000 * seed,
            num_inference_steps=num_steps,
        )
        frames = np.stack(list(engine.render(job).frames))
        yield Film(frames=frames, starts=_BOUNDS[:2] if num_frames > 97 else (0,))


# --- measuring --------------------------------------------------------------------------------------------------------


class Costs:
    """CPU seconds and frames, by size of the frames."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()

    def check(self, film: Film, limits: CheckLimits) -> list[tuple[str, int, int]]:
        """Kind, first and last frame of each finding."""
        meter, checks = SeamMeter(), PictureChecks(limits)
        size, seconds = f"{film.frames.shape[2]}x{film.frames.shape[1]}", 0.0
        for index, frame in enumerate(film.frames):
            if index in film.starts:
                segment = film.starts.index(index)
                meter.begin(segment)
                checks.begin(starts_scene=segment in film.scenes)
            meter.add(frame)
            before = time.thread_time()
            checks.add(frame)
            seconds += time.thread_time() - before
        before = time.thread_time()
        found = checks.checked(meter.seams()).findings
        self.seconds[size] += seconds + time.thread_time() - before
        self.frames[size] += len(film.frames)
        return [(one.kind, one.first, one.last) for one in found]


def measure_faults(number: int, seed: int, only: str, limits: CheckLimits, costs: Costs) -> None:
    print("| made fault | films | found | findings of another kind |")
    print("|---|---|---|---|")
    for name, (make, kinds) in FAULTS.items():
        if only not in name:
            continue
        rng, num_found, others = _rng(7, list(FAULTS).index(name), seed), 0, Counter[str]()
        for _ in range(number):
            film, where = make(rng)
            found = costs.check(film, limits)
            num_found += any(kind in kinds and a <= where[-1] and b >= where[0] for kind, a, b in found)
            others.update({kind for kind, _, _ in found if kind not in kinds})
        print(f"| {name} | {number} | {num_found} | {_counted(others)} |", flush=True)


def measure_clean(num_model_films: int, share: float, seed: int, limits: CheckLimits, costs: Costs) -> None:
    print("\n| clean films | films | marked | findings |")
    print("|---|---|---|---|")
    total, marked, kinds = 0, 0, Counter[str]()
    groups = {kind: clean_films(kind, round(number * share), seed) for kind, number in _CLEAN.items()}
    groups["built-in model"] = model_films(num_model_films, seed)
    for name, films in groups.items():
        found = [{kind for kind, _, _ in costs.check(film, limits)} for film in films]
        own = Counter(kind for one in found for kind in one)
        print(f"| {name} | {len(found)} | {sum(map(bool, found))} | {_counted(own)} |", flush=True)
        total, marked = total + len(found), marked + sum(map(bool, found))
        kinds.update(own)
    print(f"| all | {total} | {marked} | {_counted(kinds)} |")
    print("\nFalse alarms by kind: " + ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kind != "input"))


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())) or "none"


def measure_drift(bias: float, num_steps: int) -> None:
    """A film of 18 segments of the built-in model, whose output layer has a bias, so that each window is lighter."""
    import torch

    from render_farm import RenderJob, load_engine
    from render_farm.planning.windows import Window

    engine = load_engine("tiny", device="cpu", dtype="float32")
    direction = torch.tensor(np.random.default_rng(2).normal(size=16), dtype=torch.float32)
    print("| output bias | drift | drift number | worst seam | median seam | findings |")
    print("|---|---|---|---|---|---|")
    for strength in (0.0, bias):
        for drift in ("off", "adain:0.25"):
            layer = engine.transformer.proj_out
            before = layer.bias.detach().clone()
            with torch.no_grad():
                layer.bias += strength * direction.repeat(layer.bias.numel() // 16)
            job = RenderJob(
                job_id="long",
                prompt="a red circle moving right on a gray background",
                base_num_frames=37,
                overlap_history=17,
                num_frames=37 + 17 * 20,
                num_inference_steps=num_steps,
                seed=7,
                drift=drift,
            )
            video = engine.render(job)
            with torch.no_grad():
                layer.bias.copy_(before)
            windows: Sequence[Window] = video.plan.windows
            assert len(windows) == 18
            starts = {video.plan.num_pixel_frames_before(w.start + w.num_dropped_frames): w.index for w in windows}
            checks, meter = PictureChecks(), SeamMeter()
            for index, frame in enumerate(video.frames):
                if index in starts:
                    checks.begin()
                    meter.begin(starts[index])
                checks.add(frame)
                meter.add(frame)
            seams = meter.seams()
            result, scores = checks.checked(seams), [one.score for one in seams]
            kinds = Counter(one.kind for one in result.findings)
            print(
                f"| {strength:g} | {drift} | {result.drift} | {max(scores):.2f} | {np.median(scores):.2f} "
                f"| {_counted(kinds)} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--films", type=int, default=40, help="of each fault")
    parser.add_argument("--model-films", type=int, default=12)
    parser.add_argument("--only", default="", help="faults whose names hold this text")
    parser.add_argument("--clean", type=float, default=1.0, help="share of the clean films")
    parser.add_argument("--seed", type=int, default=0, help="0: the films that the thresholds were chosen on")
    parser.add_argument("--pictures", choices=PICTURES, default="soft", help="what cameras move over")
    parser.add_argument("--drift", action="store_true")
    parser.add_argument("--bias", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python", end=" ")
    print(f"{platform.python_version()}, numpy {version('numpy')}.")
    print(f"`{' '.join(sys.orig_argv[1:])}`\n")
    if given.drift:
        measure_drift(given.bias, given.steps)
        return
    costs, limits = Costs(), CheckLimits()
    _made["pictures"] = PICTURES[given.pictures]
    measure_faults(given.films, given.seed, given.only, limits, costs)
    measure_clean(given.model_films, given.clean, given.seed, limits, costs)
    print("\n| frames | checked | CPU per frame |")
    print("|---|---|---|")
    for size, seconds in sorted(costs.seconds.items()):
        print(f"| {size} | {costs.frames[size]} | {seconds / costs.frames[size] * 1e3:.2f} ms |")
    large = np.random.default_rng(3).integers(0, 256, (24, 544, 960, 3), np.uint8)
    costs = Costs()
    costs.check(Film(frames=large), limits)
    print(f"| 960x544 | 24 | {costs.seconds['960x544'] / 24 * 1e3:.2f} ms |")


if __name__ == "__main__":
    main()
