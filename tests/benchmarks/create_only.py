"""Whether a store honours create-only writes among many writers at once, in many rounds: `doctor` tries one of eight.

python -m tests.benchmarks.create_only s3://bucket/probe --writers 32 --rounds 100
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from render_farm.storage.open import open_store


def rounds_with_other_than_one_winner(
    create: Callable[[str, bytes], bool], read: Callable[[str], bytes], *, writers: int, rounds: int
) -> list[str]:
    """A line for each round in which not exactly one writer created the object, or another one's bytes are there."""
    wrong = []
    with ThreadPoolExecutor(writers) as pool:
        for number in range(rounds):
            key = f"round-{number}"
            created = list(pool.map(lambda writer, key=key: create(key, b"%d" % writer), range(writers)))
            winners = [writer for writer, is_winner in enumerate(created) if is_winner]
            found = read(key)
            if len(winners) != 1 or found != b"%d" % winners[0]:
                wrong.append(f"round {number}: winners {winners}, the object is of writer {found.decode()}")
    return wrong


def main() -> None:
    """Write below a folder of its own, print what came of it, and clean up. Exits with 1 when a round went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri", help="a folder or URI that may be written to")
    parser.add_argument("--writers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    store, folder = open_store(options.uri), f"create-only-{uuid.uuid4().hex[:8]}"
    seconds: list[float] = []

    def create(key: str, data: bytes) -> bool:
        started = time.monotonic()
        is_winner = store.create(f"{folder}/{key}", data)
        seconds.append(time.monotonic() - started)
        return is_winner

    try:
        wrong = rounds_with_other_than_one_winner(
            create,
            lambda key: store.read_bytes(f"{folder}/{key}"),
            writers=options.writers,
            rounds=options.rounds,
        )
    finally:
        store.delete_tree(folder)
    for line in wrong:
        print(line)
    right = f"{options.rounds - len(wrong)} of {options.rounds} rounds of {options.writers} writers had one winner"
    print(f"{store.root_uri}: {right}, median {median(seconds) * 1000:.1f} ms")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
