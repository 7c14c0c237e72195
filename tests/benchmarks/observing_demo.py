"""What observing costs the demo, whole: its films rendered with everything that is seen of them, and with none of it.

    python -m tests.benchmarks.observing_demo [--pairs 4] [--save]

`on` is `render-farm demo` but for its film strip: previews, metrics, the run's log, `live.json`, seam scores, the
report and what is printed. `off` has none of these (`observing_hooks.py` takes them out of every process). They take
turns, and begin in turn. CPU seconds are those of all processes of a run, Ray's and ffmpeg's included. One more run
counts the CPU time that is spent inside each part, in threads of the farm and in the previews' ffmpeg. Wall time means
something on an idle machine alone. A run takes half a minute.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

from tests.benchmarks.observing_hooks import FOLDER, MODE, read_counts

REPOSITORY = Path(__file__).resolve().parents[2]
_MARK = "RENDER_FARM_BENCH_MARK"
_LOOK_EVERY_S = 0.2
_BAR = 0.01
_STEP_BAR_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Run:
    """One demo."""

    mode: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A process when it was seen last."""

    at_s: float
    own_s: float
    collected_s: float
    """Of children that it has waited for."""
    parent: int


class CpuMeter:
    """CPU seconds of all processes whose environment has a mark, whoever started and collected them.

    A process that was seen counts by what it had when it was seen last; one that lived too shortly to be seen, or what
    a seen one did afterwards, by what its parent was told when it collected it.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._known: dict[int, psutil.Process | None] = {}
        self._seen: dict[int, _Seen] = {}

    def look(self) -> None:
        """Take the times of all that are there. No process number comes twice within a run."""
        now = time.monotonic()
        for pid in psutil.pids():
            try:
                if pid not in self._known:
                    process = psutil.Process(pid)
                    self._known[pid] = process if process.environ().get(_MARK) == self._mark else None
                marked = self._known[pid]
                if marked is not None:
                    with marked.oneshot():
                        times, parent = marked.cpu_times(), marked.ppid()
                    self._seen[pid] = _Seen(
                        at_s=now,
                        own_s=times.user + times.system,
                        collected_s=times.children_user + times.children_system,
                        parent=parent,
                    )
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue

    def total_s(self) -> float:
        """All of it so far."""
        total = sum(seen.own_s for seen in self._seen.values())
        for pid, seen in self._seen.items():
            ended = [
                child.own_s + child.collected_s
                for child in self._seen.values()
                if child.parent == pid and child.at_s < seen.at_s
            ]
            total += max(0.0, seen.collected_s - sum(ended))
        return total


def demo(mode: str, folder: Path) -> Run:
    """Render the demo's films in a process of its own."""
    site, counts, mark = folder / "site", folder / "counts", secrets.token_hex(8)
    for path in (site, counts):
        path.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text("from tests.benchmarks.observing_hooks import install\n\ninstall()\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [site, REPOSITORY])),
        "RAY_worker_niceness": "0",
        MODE: mode,
        FOLDER: str(counts),
        _MARK: mark,
    }
    meter, started = CpuMeter(mark), time.monotonic()
    command = [sys.executable, "-m", "tests.benchmarks.observing_demo", "--render", mode, str(folder / "films")]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=said, stderr=said)
        while process.poll() is None:
            meter.look()
            time.sleep(_LOOK_EVERY_S)
    wall_s = time.monotonic() - started
    meter.look()
    if process.returncode != 0:
        raise SystemExit(f"the demo ended with {process.returncode}:\n{(folder / 'said').read_text()[-3000:]}")
    return Run(mode=mode, wall_s=wall_s, cpu_s=meter.total_s())


def render(mode: str, output: str) -> int:
    """The demo, in this process and Ray's."""
    from render_farm.farm.driver.render_run import render_run
    from render_farm.farm.run.request import RunRequest
    from render_farm.farm.run.settings import Settings
    from render_farm.manifest.build import build_manifest

    manifest = str(Path(output, "demo.parquet"))
    with importlib.resources.as_file(importlib.resources.files("render_farm.cli") / "demo_jobs.csv") as source:
        build_manifest(str(source), manifest)
    request = RunRequest(
        output=output,
        manifest=manifest,
        address="local",
        num_workers=min(2, os.cpu_count() or 1),
        device="cpu",
        settings=Settings(previews=mode != "off"),
    )
    if mode == "off":
        return render_run(request, on_snapshot=lambda _: None).exit_code
    from render_farm.cli.rendering.render import run

    return run(request).exit_code


def report(pairs: int) -> Iterator[str]:
    """The lines, each as soon as it is known."""
    from tests.benchmarks.engine_cpu import processor  # brings torch, which a demo's own process need not have

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray"))
    yield f"# What observing costs the demo, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    yield ""
    yield f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}."
    yield f"Load of the machine before: {os.getloadavg()[0]:.1f}. `-h` says what is done."
    yield ""
    with tempfile.TemporaryDirectory(prefix="render-farm-bench-") as folder:
        demo("on", Path(folder, "warm"))  # files are in the page cache then
        yield "| pair | | wall s | CPU s |"
        yield "|---|---|---|---|"
        runs: list[Run] = []
        for pair in range(pairs):
            for mode in ("off", "on") if pair % 2 == 0 else ("on", "off"):
                runs.append(demo(mode, Path(folder, f"{pair}-{mode}")))
                yield f"| {pair + 1} | {mode} | {runs[-1].wall_s:.2f} | {runs[-1].cpu_s:.2f} |"
        for name in ("wall_s", "cpu_s"):
            on, off = ([getattr(run, name) for run in runs if run.mode == mode] for mode in ("on", "off"))
            differences = [a - b for a, b in zip(on, off, strict=True)]
            unit = "wall s" if name == "wall_s" else "CPU s"
            yield ""
            yield (
                f"{unit}: medians {median(on):.2f} on, {median(off):.2f} off, {median(on) / median(off) - 1:+.2%}; "
                f"of the pairs {median(differences):+.2f}, from {min(differences):+.2f} to {max(differences):+.2f}."
            )
        counted = demo("counted", Path(folder, "counted"))
        yield ""
        yield from _parts(counted, Path(folder, "counted", "counts"))


def _parts(run: Run, folder: Path) -> Iterator[str]:
    yield f"Inside each part, of a run of {run.wall_s:.2f} wall s and {run.cpu_s:.2f} CPU s:"
    yield ""
    yield "| part | calls | CPU s | of the CPU s | of the wall s, were nothing beside it |"
    yield "|---|---|---|---|---|"
    counts = read_counts(folder)
    num_steps, step_s = counts.pop("step")
    total_s = sum(seconds for _, seconds in counts.values())
    for part, (calls, seconds) in [*counts.items(), ("in all", (0, total_s))]:
        shares = f"{seconds / run.cpu_s:.2%} | {seconds / run.wall_s:.2%}"
        yield f"| {part} | {calls or ''} | {seconds:.3f} | {shares} |"
    yield ""
    yield f"In all {total_s / run.wall_s:.2%} of the wall time at most (bar {_BAR:.0%})."
    each_s = step_s / max(1, num_steps)
    yield f"What a step says of itself: {each_s * 1e3:.3f} ms of CPU ({num_steps} steps; bar {_STEP_BAR_S * 1e3:g} ms)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4, help="runs with and without")
    parser.add_argument("--save", action="store_true", help="write the lines to results/ too, under today's date")
    parser.add_argument("--render", nargs=2, metavar=("MODE", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.render:
        raise SystemExit(render(*options.render))
    lines = []
    for line in report(options.pairs):
        print(line, flush=True)
        lines.append(line)
    if options.save:
        path = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-observing-demo.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
