"""`make chaos`: seeded runs of every fault, one after another; each leaves a line in today's results file at once.

    python -m tests.chaos [--runs 20] [--seed 0] [--faults acdefgijkp] [--minutes M] [--local] [--results FILE]

`--local` gives every run a private Ray; otherwise one Ray of two nodes serves them all. `--minutes` ends it early.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.faults import BY_LETTER, Fault
from tests.chaos.one_run import Record, expected_latents, line, one_run
from tests.chaos.world import world


def main() -> int:
    options = _options()
    faults = [BY_LETTER[letter] for letter in options.faults if not (options.local and BY_LETTER[letter].needs_cluster)]
    ends_s = time.monotonic() + options.minutes * 60
    records: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, world(Path(folder), cluster=not options.local) as here:
        for seed in range(options.seed, options.seed + options.runs):
            expected = expected_latents(seed)
            for fault in faults:
                if time.monotonic() > ends_s:
                    break
                record = one_run(here, fault, seed, expected)
                records.append(record)
                with open(options.results, "a") as file:
                    file.write(line(record) + "\n")
                print(line(record), flush=True)
    print("\n".join(summary(records, faults)))
    return 1 if any(record.violations for record in records) else 0


def summary(records: list[Record], faults: list[Fault]) -> list[str]:
    """A line for each fault: runs, faults that struck, segments again, seconds to recover."""
    lines = []
    for fault in faults:
        own = [record for record in records if record.fault == fault.letter]
        times = [record.recovery_s for record in own if record.recovery_s is not None]
        median = f"{statistics.median(times):.1f} s (max {max(times):.1f} s)" if times else "-"
        lines.append(
            f"({fault.letter}) {fault.text}: {len(own)} runs, {sum(bool(record.struck) for record in own)} struck, "
            f"{sum(record.rendered_again for record in own)} segments again, recovery {median}, "
            f"{sum(bool(record.violations) for record in own)} with violations"
        )
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="".join(BY_LETTER))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--results", default=str(Path(__file__).with_name("results") / f"{today}.jsonl"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
