"""What a lost rank costs a render group in the farm: a film of three segments on four workers, struck in its second.

    python -m tests.benchmarks.group_faults [--steps 60] [--faults kill,stop,memory] [--save]

`kill` is SIGKILL, `stop` SIGSTOP (the process hangs), `memory` takes away what memory the process may still claim.
Beside each: whether the film has the bits of the film that nothing happened to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from tests.helpers import films
from tests.helpers.processes import children_named

SHAPE = {"ulysses": 2, "ring": 2}
GROUP_S = 10.0
MOST_S = 300.0
"""A film that takes longer has failed; also its first segment."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--faults", default="kill,stop,memory")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--save", action="store_true", help="write the numbers to results/ under today's date")
    options = parser.parse_args()
    file = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-group-faults.md"
    lines: list[str] = []
    for line in _measure(options.faults.split(","), options.steps, options.workers):
        print(line, flush=True)
        lines.append(line)
        if options.save and line.startswith("|"):
            file.write_text("\n".join(lines) + "\n")


def _measure(faults: list[str], num_steps: int, num_workers: int) -> Iterator[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "xfuser", "ray"))
    yield from (
        "# What a lost rank costs a render group",
        "",
        f"`python -m tests.benchmarks.group_faults --steps {num_steps}`, {datetime.now(UTC):%Y-%m-%d}: "
        f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {versions}. Load at the start {os.getloadavg()[0]:.1f}.",
        f"{num_workers} workers, groups of 4 (ulysses 2 x ring 2), `[timeouts] group_s` {GROUP_S:g}, the built-in "
        f"model at 64x64, {num_steps} steps, three segments.",
        "",
        "| | noticed after | the segment was stored after | an undisturbed one takes | the same bits |",
        "|---|---|---|---|---|",
    )
    calm = _run("none", num_steps, num_workers)
    usual_s = calm.segments[1]["seconds"]  # the first one also waits until all have loaded
    yield f"| nothing | | | {usual_s:.1f} s | |"
    for fault in faults:
        try:
            struck = _run(fault, num_steps, num_workers, after_s=usual_s / 2)
        except Exception as error:  # noqa: BLE001  (the others are measured all the same)
            yield f"| {fault} | the film was not rendered: {' '.join(str(error).split())[-300:]} | | | |"
            continue
        yield struck.row(fault, usual_s, calm)
        for line in struck.log:
            if line["level"] == "warning":
                print(f"    {line['time_s'] - struck.struck_s:6.1f} s {line['message'][:200]}", flush=True)


@dataclass(frozen=True, kw_only=True)
class _Film:
    """How one was rendered. Times are Unix times."""

    struck_s: float
    log: list[dict]
    segments: list[dict]
    latents: np.ndarray

    def row(self, fault: str, usual_s: float, calm: _Film) -> str:
        failed = (line["time_s"] - self.struck_s for line in self.log if line.get("kind") == "work_failed")
        noticed_s = next((after_s for after_s in failed if after_s >= 0), None)
        ends = (datetime.fromisoformat(segment["finished_at"]).timestamp() for segment in self.segments)
        stored_s = next((end_s - self.struck_s for end_s in ends if end_s >= self.struck_s), None)
        same = np.array_equal(self.latents, calm.latents)
        bits = "yes" if same else f"no: {np.abs(self.latents - calm.latents).max():.1e}"
        noticed = "it went on" if noticed_s is None else f"{noticed_s:.1f} s"
        stored = "all were stored before" if stored_s is None else f"{stored_s:.1f} s"
        return f"| {fault} | {noticed} | {stored} | {usual_s:.1f} s | {bits} |"


def _run(fault: str, num_steps: int, num_workers: int, *, after_s: float = 0.0) -> _Film:
    """Render the film; the fault comes `after_s` after its first segment was stored."""
    folder = Path(tempfile.mkdtemp(prefix="group-faults-"))
    job = films.job("film", **films.THREE_SEGMENTS, **SHAPE, num_inference_steps=num_steps, height=64, width=64)
    os.environ["RENDER_FARM_GROUP_S"] = str(GROUP_S)
    arguments = ["--workers", str(num_workers), "--keep-latents", "--device", "cpu", "--output", str(folder / "out")]
    running = films.start_render(films.manifest(folder, [job]), *arguments)
    struck_s = 0.0
    try:
        if fault != "none":
            _wait_for_a_segment(folder / "out", running)
            time.sleep(after_s)
            victim = children_named(running.pid, "ray::RenderWorker")[-1]
            struck_s = time.time()
            _FAULTS[fault](victim)
        _, errors = running.communicate(timeout=MOST_S)
        assert running.returncode == 0, errors
        document = films.document(folder / "out", "film")
        assert [segment["group_shape"] for segment in document["segments"]] == [[1, 2, 2]] * 3
        return _Film(
            struck_s=struck_s,
            log=[json.loads(line) for path in sorted((folder / "out").glob("_runs/*/log*/*")) for line in path.open()],
            segments=document["segments"],
            latents=films.latents(folder / "out", "film"),
        )
    finally:
        _end(running)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_a_segment(output: Path, running: subprocess.Popen[str]) -> None:
    stop = time.monotonic() + MOST_S
    while not films.num_segments_stored(output):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < stop, f"no segment was stored within {MOST_S:g} s"
        time.sleep(0.05)


def _end(running: subprocess.Popen[str]) -> None:
    """Ray's processes end with the one that started them."""
    if running.poll() is None:
        children = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        running.communicate()
        for child in psutil.wait_procs(children, timeout=10)[1]:
            child.kill()  # one that is stopped


def _no_more_memory(process: psutil.Process) -> None:
    limit = process.memory_info().vms
    resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))


_FAULTS: dict[str, Callable[[psutil.Process], None]] = {
    "kill": lambda process: os.kill(process.pid, signal.SIGKILL),
    "stop": lambda process: os.kill(process.pid, signal.SIGSTOP),
    "memory": _no_more_memory,
}


if __name__ == "__main__":
    main()
