"""`make chaos`: seeded runs of every fault, one after another; each leaves a line in today's results file at once.

    python -m tests.chaos [--runs 20] [--seed 0] [--faults acdefFghijklmnop] [--minutes M] [--results FILE]
                          [--keep DIR] [--shared] [--summary]

A fault has had its share when `--runs` of its runs, of all dated files beside the results file, were struck; the one
that has struck least often is next. A run with violations leaves logs and output in `--keep` (build/chaos) below
`<fault>-<seed>`. `--summary` only counts. With `--shared` films begin alike. Those runs have results files of their
own, and count by themselves.

Where it may, this process moves into namespaces of its own first, so that it can mount a small disk and sees only its
own processes, ports and shared memory. Several of them, each with faults of its own, may then run beside each other and
write to one results file.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.faults import BY_LETTER
from tests.chaos.namespaces import has_namespaces, move_into_namespaces
from tests.chaos.one_run import Undisturbed, one_run
from tests.chaos.processes import reap
from tests.chaos.records import Record, append, next_run, no_run, read, results_files, summary
from tests.chaos.scene import Fault
from tests.chaos.world import Place, World, world

_FUTILE_RUNS = 10
_BROKEN_RUNS = 5


def main() -> int:
    options = _options()
    path = Path(options.results)
    faults = [replace(BY_LETTER[letter], is_shared=options.shared) for letter in options.faults]
    made: list[Record] = []
    if not options.summary:
        move_into_namespaces()
        _run(options, path, [fault for fault in faults if _can(fault)], made)
    print("\n".join(summary(read(results_files(path.parent, shared=options.shared)), faults)))
    return 1 if any(record.violations for record in made) else 0


def _run(options: argparse.Namespace, path: Path, faults: list[Fault], made: list[Record]) -> None:
    ends_s = time.monotonic() + options.minutes * 60
    undisturbed, broken, num_futile, num_broken = Undisturbed(), list[Record](), 0, 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, _Worlds(Path(folder)) as worlds:
        while time.monotonic() < ends_s:
            records = read(results_files(path.parent, shared=options.shared))
            letter, seed = next_run([*records, *broken], faults, options.seed, options.runs)
            if not letter:
                return
            fault = next(fault for fault in faults if fault.letter == letter)
            try:
                record = one_run(worlds.at(fault.place), fault, seed, undisturbed, keep=Path(options.keep))
            except Exception:  # noqa: BLE001  (of the suite's own: no run, and no reason to end a long sitting)
                traceback.print_exc()
                worlds.end(fault.place)
                broken.append(no_run(letter, seed))
                num_broken += 1
                if num_broken >= _BROKEN_RUNS:
                    sys.exit(f"{num_broken} runs in a row could not be made")
                continue
            reap()
            append(path, record)
            made.append(record)
            print(record, flush=True)
            num_futile, num_broken = 0 if record.struck else num_futile + 1, 0
            if num_futile >= _FUTILE_RUNS:
                sys.exit(f"{num_futile} runs in a row were over before anything was struck")


class _Worlds:
    """One world a place, built when it is asked for, and anew when its Ray is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[Place, tuple[World, ExitStack]] = {}

    def __enter__(self) -> _Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        for place in list(self._built):
            self.end(place)

    def at(self, place: Place) -> World:
        if place in self._built and not self._built[place][0].is_up:
            self.end(place)
        if place not in self._built:
            with ExitStack() as stack:
                built = stack.enter_context(world(Path(tempfile.mkdtemp(dir=self._folder)), place))
                self._built[place] = built, stack.pop_all()
        return self._built[place][0]

    def end(self, place: Place) -> None:
        if place in self._built:
            self._built.pop(place)[1].close()


def _can(fault: Fault) -> bool:
    """Whether this machine has what the fault needs; says so if not."""
    if fault.letter in "hmu" and not has_namespaces():
        print(f"({fault.letter}) is left out: it needs the right to mount a small disk or a file", file=sys.stderr)
        return False
    if fault.place is Place.PRIVATE_WITH_A_CLOCK and shutil.which("cc") is None:
        print(f"({fault.letter}) is left out: it needs a C compiler (cc)", file=sys.stderr)
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", default="".join(BY_LETTER))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--results", help="tests/chaos/results/<date>.jsonl, or <date>-shared.jsonl")
    parser.add_argument("--keep", default="build/chaos", help="where runs with violations leave logs and output")
    parser.add_argument("--shared", action="store_true", help="films begin alike, so that they share segments")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    if options.results is None:
        name = f"{today}-shared.jsonl" if options.shared else f"{today}.jsonl"
        options.results = str(Path(__file__).with_name("results") / name)
    return options


if __name__ == "__main__":
    sys.exit(main())
