"""What a preview costs beside the film it shows: CPU seconds and bytes of a segment's part, at several sizes.

    python -m tests.benchmarks.preview_cost

Counts CPU time (this thread's and ffmpeg's), so that other work on the machine hardly matters. A segment is 80 frames
of a picture with grain that moves; `tiny` is what the built-in model renders of one, denoised and decoded here.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from render_farm import RenderJob, load_engine
from render_farm.media.preview import contact_sheet, encode_part, small_frame

NUM_FRAMES = 80
SIZES = {"tiny": (64, 64), "540P": (544, 960), "720P": (720, 1280)}


def frames_of(height: int, width: int) -> list[np.ndarray]:
    """A soft picture that moves, with grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    frames = []
    for index in range(NUM_FRAMES):
        waves = [np.sin((x + 4 * index) / (width / 9) + phase) * np.cos(y / (height / 5)) for phase in (0, 2, 4)]
        grain = rng.normal(0, 4, (height, width, 1))
        frames.append(np.clip(128 + 90 * np.stack(waves, axis=2) + grain, 0, 255).astype(np.uint8))
    return frames


def cpu_s(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process and of the children that end meanwhile, and what `work` returned."""
    before = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before[1].ru_utime - before[1].ru_stime
    return time.process_time() - before[0] + children, result


def main() -> None:
    packages = ("numpy", "pillow", "torch")
    print(f"machine   {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, load {os.getloadavg()[0]:.1f}")
    print(f"versions  python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in packages))
    print(f"command   {' '.join(sys.orig_argv[1:])}")
    for name, (height, width) in SIZES.items():
        frames = frames_of(height, width)
        small_s, small = cpu_s(lambda frames=frames: [small_frame(frame) for frame in frames])
        part_s, part = cpu_s(lambda small=small: encode_part(small, fps=24, first_frame=0, number=0))
        sheet_s, sheet = cpu_s(lambda small=small: contact_sheet(small))
        size = f"{small[0].shape[1]}x{small[0].shape[0]}"
        print(f"{name:<5} {width}x{height} -> {size}, a segment of {NUM_FRAMES} frames:")
        print(f"      frames made smaller  {small_s:.3f} s of CPU, {small_s / NUM_FRAMES * 1e3:.2f} ms a frame")
        print(f"      part                 {part_s:.3f} s of CPU, {len(part.media) / 1e3:.0f} kB")
        print(f"      contact sheet        {sheet_s:.3f} s of CPU, {len(sheet) / 1e3:.0f} kB")
        print(f"      in all               {small_s + part_s + sheet_s:.3f} s of CPU")
    engine = load_engine("tiny", device="cpu")
    job = RenderJob(job_id="a", prompt="a red circle moving right on a black background", num_frames=177, seed=7)
    film_s, _ = cpu_s(lambda: list(engine.render(job).frames))
    num_segments = engine.plan(job).num_segments
    print(f"tiny  a film of {num_segments} segments: {film_s:.1f} s of CPU, {film_s / num_segments:.2f} s a segment")


if __name__ == "__main__":
    main()
