"""Fetching a model's files from S3, by fsspec as the project does it, and by obstore: CPU seconds of the client per GB.

    python -m tests.benchmarks.model_fetch [--gb 0.5] [--rounds 3] [--obstore PYTHON]

The server is a process of its own, whose CPU time is not counted. It is slow, so wall seconds say little. `--obstore`
is a Python that has the package obstore, on which the project does not depend.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_NUM_FILES = 4
_BLOCK_BYTES = 32 << 20
Sizes = dict[str, int]


def by_fsspec(bucket: str, sizes: Sizes, folder: Path) -> None:
    """As `models pull` does it: blocks of 32 MiB, four files at a time, hashed while they are written."""
    import fsspec

    from render_farm.engine.weights.fetching import fetch_files

    fetch_files(fsspec.filesystem("s3"), bucket, sizes, folder, sha256={})


def by_obstore(bucket: str, sizes: Sizes, folder: Path) -> None:
    """The same blocks, files and hashes."""
    from obstore.store import S3Store  # type: ignore[import-not-found]

    store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})

    def fetch(path: str) -> None:
        digest = hashlib.sha256()
        with open(folder / path, "wb") as handle:
            for start in range(0, sizes[path], _BLOCK_BYTES):
                block = store.get_range(path, start=start, end=min(start + _BLOCK_BYTES, sizes[path]))
                handle.write(block)
                digest.update(block)

    with ThreadPoolExecutor(max_workers=_NUM_FILES) as threads:
        list(threads.map(fetch, sizes))


CLIENTS: dict[str, Callable[[str, Sizes, Path], None]] = {"fsspec": by_fsspec, "obstore": by_obstore}


def fetch_once(client: str, bucket: str, sizes: Sizes) -> dict[str, float]:
    """In this process, into memory where there is such a folder. A file of one byte is fetched before, for imports."""
    first = min(sizes, key=sizes.__getitem__)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        CLIENTS[client](bucket, {first: sizes.pop(first)}, Path(folder))
        started, cpu_s = time.perf_counter(), time.process_time()
        CLIENTS[client](bucket, sizes, Path(folder))
        return {"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--obstore", default=sys.executable, help="a Python that has obstore")
    parser.add_argument("--fetch", nargs=3, metavar=("CLIENT", "BUCKET", "SIZES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fetch:
        client, bucket, sizes = given.fetch
        print(json.dumps(fetch_once(client, bucket, json.loads(sizes))))
        return
    from tests.helpers.fixtures_s3 import start_s3_server

    server = start_s3_server()
    bucket, size = server.new_bucket(), int(given.gb * 1e9) // _NUM_FILES
    sizes = {f"{number}.safetensors": size for number in range(_NUM_FILES)} | {"first": 1}
    for name, num_bytes in sizes.items():
        server.client().put_object(Bucket=bucket, Key=name, Body=os.urandom(num_bytes))
    found: dict[str, list[dict[str, Any]]] = {client: [] for client in CLIENTS}
    pythons = {"fsspec": sys.executable, "obstore": shutil.which(given.obstore) or given.obstore}
    for _ in range(given.rounds):
        for client, runs in found.items():
            command = [pythons[client], "-m", "tests.benchmarks.model_fetch"]
            command += ["--fetch", client, bucket, json.dumps(sizes)]
            done = subprocess.run(command, env={**os.environ, **server.env}, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout))
    server.process.kill()
    print(f"| client | CPU seconds per GB | wall seconds of {given.gb:g} GB | rounds |\n|---|---|---|---|")
    for client, runs in found.items():
        cpu_s, wall_s = (statistics.median(run[name] for run in runs) for name in ("cpu_s", "wall_s"))
        spread = " to ".join(
            f"{value / given.gb:.2f}" for value in (min(r["cpu_s"] for r in runs), max(r["cpu_s"] for r in runs))
        )
        print(f"| {client} | {cpu_s / given.gb:.2f} ({spread}) | {wall_s:.1f} | {len(runs)} |")


if __name__ == "__main__":
    main()
