"""Cancels at random moments on a shared cluster, and what is left of their workers a minute later.

    python -m tests.benchmarks.cancels [--cancels 50] [--together 5] [--seed 0] [--most-s 40] [--minutes M] [--save]

Several runs share one Ray with two workers; each is cancelled by itself at a random moment. Then, for at most a minute,
the processes of workers and encoders are counted, and what of the cluster is still reserved.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from render_farm.errors import NotFoundError, RenderFarmError
from render_farm.farm.control.client import ask
from render_farm.storage.lease import LeaseTiming
from render_farm.storage.mailbox import Request, Verb
from render_farm.storage.open import open_store
from tests.chaos.kills import TEXT_WORKER, WORKER
from tests.chaos.world import Place, World, world
from tests.helpers import films

WITHIN_S = 60.0
LEASE_S = 60.0
"""On a busy machine, a coordinator may well be silent for longer than the suite's 6 s, and lose its runs."""
SETTINGS = {"RENDER_FARM_KEEP_WORKERS_S": "0", "RENDER_FARM_LEASE_S": str(LEASE_S)}
_FILM = {**films.THREE_SEGMENTS, "num_inference_steps": 60}
_RESERVED = (
    "import ray; ray.init(address='auto', log_to_driver=False, logging_level=40); "
    "print(ray.cluster_resources().get('CPU', 0) - ray.available_resources().get('CPU', 0))"
)


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """One run."""

    after_s: float
    exit_code: int | None
    answer: str


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cancels", type=int, default=50)
    parser.add_argument("--together", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--most-s", type=float, default=40.0, help="a run is cancelled at some moment of its first so many seconds"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no more runs after so long")
    parser.add_argument("--save", action="store_true", help="write the numbers to results/ under today's date")
    options = parser.parse_args()
    lines: list[str] = []
    for line in _measure(options):
        print(line, flush=True)
        lines.append(line)
    if options.save:
        file = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-cancels.md"
        file.write_text("\n".join(lines) + "\n")


def _measure(options: argparse.Namespace) -> Iterator[str]:
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "ray"))
    yield from (
        "# Cancels at random moments on a shared cluster",
        "",
        f"`python -m tests.benchmarks.cancels --cancels {options.cancels} --together {options.together} "
        f"--seed {options.seed} --most-s {options.most_s:g}`, {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}",
        "",
        "| runs | cancelled after, s | exit codes | seconds until none is left | workers, encoders left | CPUs taken |",
        "|---|---|---|---|---|---|",
    )
    draw, most_left, number = random.Random(options.seed), 0, 0
    ends_s = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory(prefix="cancels-") as folder, world(Path(folder), Place.ONE_NODE) as here:
        os.environ.update(here.server.env)
        while number < options.cancels and time.monotonic() < ends_s:
            together = min(options.together, options.cancels - number)
            runs = _cancel(here, Path(folder), [draw.uniform(0, options.most_s) for _ in range(together)])
            number += together
            started, stop = time.monotonic(), time.monotonic() + WITHIN_S
            while (left := _left(here)) != (0, 0) and time.monotonic() < stop:
                time.sleep(0.5)
            seconds, reserved = time.monotonic() - started, _reserved(here)
            most_left = max(most_left, sum(left))
            after = " ".join(f"{run.after_s:.0f}" for run in runs)
            codes = " ".join(str(run.exit_code) for run in runs)
            yield f"| {together} | {after} | {codes} | {seconds:.1f} | {left[0]}, {left[1]} | {reserved} |"
            for run in runs:
                if run.answer:
                    yield f"\n{run.answer}\n"
    yield from ("", f"{number} cancels, at most {most_left} workers and encoders left after {WITHIN_S:.0f} s.")


def _cancel(here: World, folder: Path, moments: list[float]) -> list[Cancelled]:
    """As many runs as there are moments, each cancelled at its own."""
    output = f"s3://{here.server.new_bucket()}/out"
    made: list[Cancelled] = []

    def one(number: int, after_s: float) -> None:
        home = Path(tempfile.mkdtemp(dir=folder))
        run_id = f"run-{number}"
        jobs = [films.job(f"{run_id}-{name}", **_FILM, seed=number) for name in "ab"]
        driver = here.start_driver(
            films.manifest(home, jobs), output, options=("--run-id", run_id), address=here.address, settings=SETTINGS
        )
        time.sleep(after_s)
        answer = ""
        stop = time.monotonic() + 420
        while driver.poll() is None and time.monotonic() < stop:
            try:
                found = ask(
                    open_store(output), run_id, Request(verb=Verb.CANCEL), timing=LeaseTiming(gone_after_s=LEASE_S)
                ).answer
                answer = "" if found.ok else found.text
                if found.ok:
                    break
            except NotFoundError:  # the command has not come so far yet: it is cancelled as soon as it can be
                pass
            except RenderFarmError as error:
                answer = str(error)
            time.sleep(0.5)
        while driver.poll() is None and time.monotonic() < stop:
            time.sleep(0.2)
        made.append(Cancelled(after_s=after_s, exit_code=driver.poll(), answer=answer))

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(moments)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def _left(here: World) -> tuple[int, int]:
    return len(here.processes(WORKER)), len(here.processes(TEXT_WORKER))


def _reserved(here: World) -> str:
    """CPUs of the cluster that somebody has reserved, as Ray knows it."""
    environment = {**here.environment, "RAY_ADDRESS": str(here.address), "RAY_AUTH_MODE": "token"}
    told = subprocess.run([sys.executable, "-c", _RESERVED], capture_output=True, text=True, env=environment)
    return told.stdout.strip() or f"? ({told.stderr.strip()[-80:]})"


if __name__ == "__main__":
    main()
