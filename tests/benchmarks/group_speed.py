"""Render groups on a CPU: two one-thread ranks against one, by Ulysses, CFG and ring; and how fast four meet again.

    python -m tests.benchmarks.group_speed [--steps 4] [--save]

The shape `small` of `render_farm.parallel.bench`: random weights, dim 256 (4 heads of 64), 4 layers, 6,400 tokens, both
guidance branches, float32. It takes about two minutes; two idle cores are needed, for wall seconds are compared. CPU
seconds of rank 0 are given beside them: on a busy machine they tell what the wall seconds cannot.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from render_farm.parallel.measure import GroupBenchRequest, GroupResult, measure
from render_farm.planning.groups import GroupShape
from tests.benchmarks.engine_cpu import processor

BARS = {GroupShape(ulysses=2): 1.7, GroupShape(cfg=2): 1.8, GroupShape(ring=2): None}
"""Times faster than one rank."""
FOUR = (GroupShape(ulysses=4), GroupShape(cfg=2, ulysses=2), GroupShape(ulysses=2, ring=2), GroupShape(ring=4))
MOST_FORMING_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="of each shape; the first is not counted")
    parser.add_argument("--save", action="store_true", help="write the lines to results/ too, under today's date")
    args = parser.parse_args()
    lines = []
    for line in report(args.steps):
        print(line, flush=True)
        lines.append(line)
    if args.save:
        path = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-group-speed-rows.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"written to {path}")


def report(steps: int) -> Iterator[str]:
    """The lines, each as soon as it is known."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "xfuser", "distvae"))
    yield f"# Render groups on a CPU, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    yield ""
    yield f"{processor()}, {os.cpu_count()} cores, a thread a rank; Python {platform.python_version()}, {packages}."
    yield f"Load of the machine before: {os.getloadavg()[0]:.1f}. `-h` describes the film; {steps - 1} steps counted."
    yield ""
    yield "| cfg, ulysses, ring | s/step | CPU s/step | predicted | times faster | by CPU s | bar | difference |"
    yield "|---" * 8 + "|"
    alone: GroupResult | None = None
    for result in measure(GroupBenchRequest(shapes=tuple(BARS), steps=steps, device="cpu")):
        alone = alone or result
        yield _line(result, alone)
    yield ""
    results = measure(GroupBenchRequest(shapes=FOUR, steps=2, num_frames=5, device="cpu"))
    formed = {result.shape: result.forming_s for result in results if result.shape.size > 1}
    times = ", ".join(f"{shape} {seconds:.2f} s" for shape, seconds in formed.items())
    yield f"Four ranks meet, one group after another in the same processes: {times} (bar {MOST_FORMING_S:g} s)."


def _line(result: GroupResult, alone: GroupResult) -> str:
    bar = BARS.get(result.shape)
    return (
        f"| {' x '.join(map(str, result.shape.degrees))} | {result.step_s:.3f} | {result.step_cpu_s:.3f} | "
        f"{result.predicted_s:.3f} | {result.speedup:.2f} | {alone.step_cpu_s / result.step_cpu_s:.2f} | "
        f"{bar or ''} | {result.largest_difference:.1e} |"
    )


if __name__ == "__main__":
    main()
