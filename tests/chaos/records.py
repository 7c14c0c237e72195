"""What came of chaos runs: a line of JSON each, in a dated file, so that runs add up over several sittings."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.chaos.scene import Fault


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run."""

    fault: str
    seed: int
    struck: str
    """What the fault did; empty when the run was over before there was anything to strike: it counts for nothing."""
    starts: int
    """Of the command."""
    exit_code: int
    rendered_again: int
    """Segments that were rendered to their end and stored once more."""
    begun_again: int | None = None
    """Segments that were handed out once more, as far as the run's log tells; None: not counted."""
    recovery_s: float | None = None
    """From the fault to the next stored or published piece of work."""
    seconds: float
    is_slow: bool = False
    """Each request to the store took 5 to 100 ms."""
    violations: list[str]


def read(paths: Iterable[Path]) -> list[Record]:
    """Every record of these files."""
    known = {f.name for f in fields(Record)}
    return [
        Record(**{name: value for name, value in json.loads(line).items() if name in known})
        for path in paths
        for line in path.read_text().splitlines()
    ]


def results_files(folder: Path, *, shared: bool) -> list[Path]:
    """The dated files of runs whose films begin alike, or of all others."""
    return [path for path in sorted(folder.glob("*.jsonl")) if path.stem.endswith("-shared") == shared]


def no_run(fault: str, seed: int) -> Record:
    """Of a run that could not be made: it is not tried again in this sitting."""
    return Record(
        fault=fault, seed=seed, struck="", starts=0, exit_code=-1, rendered_again=0, seconds=0.0, violations=[]
    )


def append(path: Path, record: Record) -> None:
    """Add a line at once: a sitting may end at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def next_run(records: Iterable[Record], faults: Iterable[Fault], first_seed: int, num_runs: int) -> tuple[str, int]:
    """The fault that has struck least often so far, and the next seed that it has not had; ("", 0) when every fault has
    had its `num_runs`."""
    records = list(records)
    struck = {fault.letter: 0 for fault in faults}
    tried: dict[str, set[int]] = {letter: set() for letter in struck}
    for record in records:
        if record.fault in struck:
            struck[record.fault] += bool(record.struck)
            tried[record.fault].add(record.seed)
    letter = min(struck, key=lambda name: (struck[name], len(tried[name])))
    if struck[letter] >= num_runs:
        return "", 0
    seed = first_seed
    while seed in tried[letter]:
        seed += 1
    return letter, seed


def summary(records: list[Record], faults: Iterable[Fault]) -> list[str]:
    """A table: for each fault its runs, what it struck, segments again, seconds to recover."""
    lines = [
        "| fault | runs struck | of runs | segments again | begun again | recovery: median (max) | violations |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        own = [record for record in records if record.fault == fault.letter]
        struck = [record for record in own if record.struck]
        times = [record.recovery_s for record in struck if record.recovery_s is not None]
        begun = sum(record.begun_again or 0 for record in struck)
        recovery = f"{statistics.median(times):.1f} s ({max(times):.1f} s)" if times else "-"
        lines.append(
            f"| ({fault.letter}) {fault.text} | {len(struck)} | {len(own)} | "
            f"{sum(record.rendered_again for record in struck)} | {begun} | "
            f"{recovery} | {sum(bool(record.violations) for record in own)} |"
        )
    return lines
