"""`make chaos`: seeded runs of every fault, one after another; each leaves a line in today's results file at once.

    python -m tests.chaos [--runs 20] [--seed 0] [--faults acdefFghijklp] [--minutes M] [--results FILE] [--summary]

A fault has had its share when `--runs` of its runs, of all dated files beside the results file, were struck; the one
that has struck least often is next. `--summary` only counts. Where it may, this process moves into namespaces of its
own first, so that it can mount a small disk and sees only its own processes and shared memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.faults import BY_LETTER
from tests.chaos.one_run import Undisturbed, one_run
from tests.chaos.records import Record, append, next_run, read, summary
from tests.chaos.scene import Fault
from tests.chaos.world import Place, World, may_mount, world

_FUTILE_RUNS = 10
_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]


def main() -> int:
    options = _options()
    path = Path(options.results)
    faults = [BY_LETTER[letter] for letter in options.faults]
    made: list[Record] = []
    if not options.summary:
        _move_into_namespaces()
        _run(options, path, [fault for fault in faults if _can(fault)], made)
    print("\n".join(summary(read(sorted(path.parent.glob("*.jsonl"))), faults)))
    return 1 if any(record.violations for record in made) else 0


def _run(options: argparse.Namespace, path: Path, faults: list[Fault], made: list[Record]) -> None:
    ends_s = time.monotonic() + options.minutes * 60
    undisturbed, worlds = Undisturbed(), dict[Place, World]()
    num_futile = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ExitStack() as stack:
        while time.monotonic() < ends_s:
            records = read(sorted(path.parent.glob("*.jsonl"))) if path.parent.exists() else []
            letter, seed = next_run(records, faults, options.seed, options.runs)
            if not letter:
                return
            fault = BY_LETTER[letter]
            if fault.place not in worlds or not worlds[fault.place].is_up:
                worlds[fault.place] = stack.enter_context(world(Path(tempfile.mkdtemp(dir=folder)), fault.place))
            record = one_run(worlds[fault.place], fault, seed, undisturbed)
            append(path, record)
            made.append(record)
            print(record, flush=True)
            num_futile = 0 if record.struck else num_futile + 1
            if num_futile >= _FUTILE_RUNS:
                sys.exit(f"{num_futile} runs in a row were over before anything was struck")


def _can(fault: Fault) -> bool:
    """Whether this machine has what the fault needs; says so if not."""
    if fault.letter == "h" and not may_mount():
        print("(h) is left out: it needs the right to mount a small disk", file=sys.stderr)
        return False
    if fault.place is Place.PRIVATE_WITH_A_CLOCK and shutil.which("cc") is None:
        print(f"({fault.letter}) is left out: it needs a C compiler (cc)", file=sys.stderr)
        return False
    return True


def _move_into_namespaces() -> None:
    """Go on as the first process of namespaces of its own, with its own shared memory, where that is allowed."""
    if may_mount() or "CHAOS_OWN_NAMESPACE" in os.environ:
        if may_mount():
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
        return
    allowed = shutil.which("unshare") and subprocess.run([*_NAMESPACES, "true"], capture_output=True).returncode == 0
    os.environ["CHAOS_OWN_NAMESPACE"] = "1" if allowed else "0"
    command = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
    if allowed:
        os.execvp("unshare", [*_NAMESPACES, *command])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="".join(BY_LETTER))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--results", default=str(Path(__file__).with_name("results") / f"{today}.jsonl"))
    parser.add_argument("--summary", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
