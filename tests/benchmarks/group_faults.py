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
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from tests.farm import films
from tests.farm.test_worker_faults import children_named

SHAPE = {"ulysses": 2, "ring": 2}
GROUP_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--faults", default="kill,stop,memory")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--save", action="store_true", help="write the numbers to results/ under today's date")
    options = parser.parse_args()
    lines = list(_measure(options.faults.split(","), options.steps, options.workers))
    if options.save:
        folder = Path(__file__).parent / "results"
        (folder / f"{datetime.now(UTC):%Y-%m-%d}-group-faults.md").write_text("\n".join(lines) + "\n")


def _measure(faults: list[str], num_steps: int, num_workers: int) -> Iterator[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "xfuser", "ray"))
    yield from _told(
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
    calm: np.ndarray | None = None
    for fault in ["none", *faults]:
        folder = Path(tempfile.mkdtemp(prefix="group-faults-"))
        try:
            struck_s, log = _run(folder, fault, num_steps, num_workers)
            latents = films.latents(folder / "out", "film")
            segments = films.document(folder / "out", "film")["segments"]
        finally:
            shutil.rmtree(folder)
        assert [segment["group_shape"] for segment in segments] == [[1, 2, 2]] * 3
        usual_s = segments[0]["seconds"]
        if calm is None:
            calm = latents
            yield from _told(f"| nothing | | | {segments[1]['seconds']:.1f} s | |")
            continue
        noticed_s = next(line["time_s"] for line in log if line.get("kind") == "work_failed") - struck_s
        stored_s = datetime.fromisoformat(segments[1]["finished_at"]).timestamp() - struck_s
        same = "yes" if np.array_equal(latents, calm) else f"no: {np.abs(latents - calm).max():.1e}"
        yield from _told(f"| {fault} | {noticed_s:.1f} s | {stored_s:.1f} s | {usual_s:.1f} s | {same} |")
        for line in log:
            if line["level"] == "warning":
                print(f"    {line['time_s'] - struck_s:6.1f} s {line['message'][:200]}", flush=True)


def _run(folder: Path, fault: str, num_steps: int, num_workers: int) -> tuple[float, list[dict]]:
    """Render the film; when the fault came (Unix time), and the run's log."""
    job = films.job("film", **films.THREE_SEGMENTS, **SHAPE, num_inference_steps=num_steps, height=64, width=64)
    os.environ["RENDER_FARM_GROUP_S"] = str(GROUP_S)
    arguments = ["--workers", str(num_workers), "--keep-latents", "--device", "cpu", "--output", str(folder / "out")]
    running = films.start_render(films.manifest(folder, [job]), *arguments)
    struck_s = 0.0
    if fault != "none":
        films.wait_for(lambda: films.num_segments_stored(folder / "out") >= 1, what="a stored segment")
        state = json.loads(next((folder / "out").glob("_work/*/state/*.json")).read_text())
        time.sleep(state["segments"][0]["seconds"] / 2)
        victim = children_named(running.pid, "ray::RenderWorker")[-1]
        struck_s = time.time()
        _FAULTS[fault](victim)
    _, errors = running.communicate(timeout=1200)
    assert running.returncode == 0, errors
    log = [json.loads(line) for path in sorted((folder / "out").glob("_runs/*/log*/*")) for line in path.open()]
    return struck_s, log


def _no_more_memory(process: psutil.Process) -> None:
    limit = process.memory_info().vms
    resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))


_FAULTS: dict[str, Callable[[psutil.Process], None]] = {
    "kill": lambda process: os.kill(process.pid, signal.SIGKILL),
    "stop": lambda process: os.kill(process.pid, signal.SIGSTOP),
    "memory": _no_more_memory,
}


def _told(*lines: str) -> Iterator[str]:
    for line in lines:
        print(line, flush=True)
        yield line


if __name__ == "__main__":
    main()
