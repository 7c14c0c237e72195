"""How long a render group of four processes takes to form anew, and what it reads for that: `/proc/self/io` says.

    python -m tests.benchmarks.group_forming [--rounds 20] [--save]

Each process holds the built-in model's transformer; before the first round its files are removed from the disk.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from render_farm.engine import Engine, load_engine
from render_farm.parallel import GroupShape, ParallelGroup, ProcessGroups, RendezvousHost, Seat
from render_farm.parallel.xfuser_modules import xfuser
from tests.helpers.ranks import RankPool, rank_pool

NUM_RANKS = 4
SHAPES = (
    GroupShape(ulysses=4),
    GroupShape(cfg=2, ulysses=2),
    GroupShape(ulysses=2, ring=2),
    GroupShape(ring=4),
)
_held: list[Engine] = []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--save", action="store_true", help="write the numbers to results/ under today's date")
    options = parser.parse_args()
    with rank_pool(NUM_RANKS) as pool:
        lines = list(_measure(pool, options.rounds))
    print("\n".join(lines))
    if options.save:
        folder = Path(__file__).parent / "results"
        (folder / f"{datetime.now(UTC):%Y-%m-%d}-group-forming.md").write_text("\n".join(lines) + "\n")


def _measure(pool: RankPool, num_rounds: int) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="group-forming-"), "model")
    shutil.copytree(load_engine("tiny", device="cpu").checkpoint.folder, folder)
    weights_bytes = sum(file.stat().st_size for file in folder.glob("transformer/*.safetensors"))
    load = os.getloadavg()[0]
    started = time.monotonic()
    pool.call(_load, [(rank, str(folder)) for rank in range(NUM_RANKS)])
    loading_s = time.monotonic() - started
    shutil.rmtree(folder.parent)
    formed: dict[str, list[float]] = {}
    read_bytes = 0
    for number in range(num_rounds):
        shape = SHAPES[number % len(SHAPES)]
        host = RendezvousHost()
        answers = pool.call(_form, [(rank, shape, host.rendezvous) for rank in range(NUM_RANKS)])
        host.close()
        formed.setdefault(str(shape), []).append(max(seconds for seconds, _ in answers))
        read_bytes = max(read_bytes, *(read for _, read in answers))
    yield from (
        "# How long a render group of four takes to form anew",
        "",
        f"`python -m tests.benchmarks.group_forming --rounds {num_rounds}`, {datetime.now(UTC):%Y-%m-%d}: "
        f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {version('torch')}, xfuser {version('xfuser')}. "
        f"Load at the start {load:.1f}.",
        "",
        "| group | rounds | median | longest |",
        "|---|---|---|---|",
    )
    for name, seconds in formed.items():
        yield f"| {name} | {len(seconds)} | {statistics.median(seconds):.2f} s | {max(seconds):.2f} s |"
    yield ""
    yield (
        f"Loading the transformer ({weights_bytes:,} bytes) and xfuser on all four, once: {loading_s:.1f} s. Its files "
        f"were removed then. The most that a rank read in a round (all of its `read` calls): {read_bytes:,} bytes."
    )


def _load(rank: int, model: str) -> None:
    engine = load_engine(model, device="cpu", with_text_encoder=False)
    _ = engine.transformer
    _held.append(engine)
    xfuser()


def _form(rank: int, shape: GroupShape, rendezvous: Any) -> tuple[float, int]:
    """Seconds until the group was there, and bytes read until it was gone."""
    before, started = _read_chars(), time.monotonic()
    seat = Seat(shape=shape, rank=rank, rendezvous=rendezvous)
    with ProcessGroups(seat, device=torch.device("cpu"), timeout_s=60) as groups:
        seconds = time.monotonic() - started
        assert ParallelGroup(groups).all_agree(True)
    return seconds, _read_chars() - before


def _read_chars() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


if __name__ == "__main__":
    main()
