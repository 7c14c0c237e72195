"""Seconds that a film waits tonight because last night's run died on another host and has the same job ids.

    python -m tests.benchmarks.dead_run [--films 6] [--save]

Nobody can know at once that a run of another host is dead: it is watched until it has shown no sign for 30 s. A worker
claims each job before it renders and before it publishes. What it waits there, its GPU waits, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from render_farm.storage.claims import claim_job
from render_farm.storage.layout import film_key
from render_farm.storage.lease import Holder, HolderWatch, acquire
from render_farm.storage.open import open_store
from render_farm.storage.process import ProcessId

LAST_NIGHT, TONIGHT = "last-night", "tonight"
_SAME, _OTHER = "a" * 12, "b" * 12
"""Render keys."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--save", action="store_true", help="write the numbers to results/ under today's date")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(_measure(Path(folder), options.films)) + "\n"
    print(text)
    if options.save:
        file = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-dead-run.md"
        file.write_text(text)


def _measure(folder: Path, num_films: int) -> Iterator[str]:
    yield from (
        "# Seconds that a film waits after a run that died on another host",
        "",
        f"`python -m tests.benchmarks.dead_run --films {num_films}`, {datetime.now(UTC):%Y-%m-%d}: "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"load {os.getloadavg()[0]:.1f}",
        "",
        f"| last night's run | {' | '.join(f'film {number + 1}' for number in range(num_films))} |",
        f"|---|{'---|' * num_films}",
    )
    for name, render_key in (("the same pixels", _SAME), ("other pixels", _OTHER)):
        seconds = _seconds(folder / render_key, render_key, num_films)
        yield f"| {name} | {' | '.join(f'{each:.2f}' for each in seconds)} |"


def _seconds(output: Path, render_key: str, num_films: int) -> list[float]:
    """Of the claims that one worker makes of each film."""
    store = open_store(output)
    process = ProcessId(host="another", pid=1, started=1)
    acquire(store, LAST_NIGHT, Holder(address="10.0.0.9:6379", process=process, token="x"))
    jobs = [f"film-{number}" for number in range(num_films)]
    for job_id in jobs:
        claim_job(store, LAST_NIGHT, film_key(job_id, render_key))
    watch, seconds = HolderWatch(), []
    for job_id in jobs:
        started = time.monotonic()
        for _ in ("rendering", "publishing"):
            claim_job(store, TONIGHT, film_key(job_id, _SAME), watch)
        seconds.append(time.monotonic() - started)
    return seconds


if __name__ == "__main__":
    main()
