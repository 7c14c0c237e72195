"""Seconds that a film loses tonight because last night's run died on another host and has the same job ids.

    python -m tests.benchmarks.dead_run [--films 6] [--save]

Nobody can know at once that a run of another host is dead: it is watched until it has shown no sign for 30 s. One
worker renders the films: undisturbed, after a dead run with the same pixels, and after one with other pixels.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from render_farm.observability.events import EventKind
from render_farm.storage.claims import claim_job, read_claim
from render_farm.storage.layout import film_key
from render_farm.storage.lease import Holder, acquire
from render_farm.storage.open import open_store
from render_farm.storage.process import ProcessId
from render_farm.storage.store import Store
from tests.helpers import films

LAST_NIGHT = "last-night"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--save", action="store_true", help="write the numbers to results/ under today's date")
    options = parser.parse_args()
    jobs = [f"film-{number}" for number in range(options.films)]
    with tempfile.TemporaryDirectory() as folder:
        lines = _measure(Path(folder), jobs)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.save:
        file = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-dead-run.md"
        file.write_text(text)


def _measure(folder: Path, jobs: list[str]) -> list[str]:
    manifest = films.manifest(folder, [films.job(name, seed=number) for number, name in enumerate(jobs)])
    calm = open_store(folder / "calm")
    undisturbed = _seconds(manifest, folder / "calm", jobs)

    def same(job_id: str) -> str:
        claim = read_claim(calm, job_id)
        assert claim is not None
        return claim.film

    tables = {"undisturbed": undisturbed}
    for name, film_of in (("same pixels", same), ("other pixels", lambda job_id: film_key(job_id, "0" * 12))):
        output = folder / name.split()[0]
        _die(open_store(output), jobs, film_of)
        tables[name] = _seconds(manifest, output, jobs)
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "ray"))
    return [
        "# Seconds that films lose after a run that died on another host",
        "",
        f"`python -m tests.benchmarks.dead_run --films {len(jobs)}`, {datetime.now(UTC):%Y-%m-%d}: "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}; "
        f"load {os.getloadavg()[0]:.1f}",
        "",
        "Seconds from the hand-out of a film's first segment to its last one's end, one worker.",
        "",
        f"| last night's run | {' | '.join(f'film {number + 1}' for number in range(len(jobs)))} |",
        f"|---|{'---|' * len(jobs)}",
        *(f"| {name} | {' | '.join(f'{seconds:.1f}' for seconds in row)} |" for name, row in tables.items()),
    ]


def _die(store: Store, jobs: list[str], film_of: Callable[[str], str]) -> None:
    """What a run leaves that claimed these jobs and then died, with its machine."""
    process = ProcessId(host="another", pid=1, started=1)
    acquire(store, LAST_NIGHT, Holder(address="10.0.0.9:6379", process=process, token="x"))
    for job_id in jobs:
        claim_job(store, LAST_NIGHT, film_of(job_id))


def _seconds(manifest: str, output: Path, jobs: list[str]) -> list[float]:
    """Of each film, in the order in which they were rendered."""
    done = films.render(
        manifest, "--output", str(output), "--run-id", "tonight", "--workers", "1", "--device", "cpu", timeout_s=900
    )
    assert done.returncode == 0, done.stderr
    started: dict[str, float] = {}
    ended: dict[str, float] = {}
    reader = films.RunFolderReader(open_store(output), "tonight").read()
    for line in reader.events:
        if line.kind == EventKind.SEGMENT_STARTED:
            started.setdefault(line.job_id, line.time_s)
        elif line.kind == EventKind.SEGMENT_DONE:
            ended[line.job_id] = line.time_s
    assert set(started) == set(ended) == set(jobs)
    return [ended[job_id] - started[job_id] for job_id in sorted(started, key=started.__getitem__)]


if __name__ == "__main__":
    main()
