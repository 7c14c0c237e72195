"""Fetching a model's files from S3, by fsspec as the project does it, by obstore, and by runai-model-streamer: CPU
seconds of the client per GB.

    python -m tests.benchmarks.model_fetch [--gb 4] [--files 40] [--rounds 3] [--others PYTHON]

The server is a process of its own, whose CPU time is not counted. It is slow, and reads a whole file for each part of
it, so wall seconds say little. `--others` is a Python that has obstore, runai-model-streamer and
runai-model-streamer-s3, on which the project does not depend.
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

_AT_ONCE = 4
_PATIENCE_S = 900.0
_BLOCK_BYTES = 32 << 20
Sizes = dict[str, int]


def by_fsspec(bucket: str, sizes: Sizes, folder: Path) -> None:
    """As `models pull` does it: blocks of 32 MiB, four files at a time, hashed while they are written."""
    import fsspec

    from render_farm.engine.weights.fetching import fetch_files

    fetch_files(fsspec.filesystem("s3"), bucket, sizes, folder, sha256={})


def by_get_file(bucket: str, sizes: Sizes, folder: Path) -> None:
    """As `models pull` once did it: one file after the other by fsspec's own `get_file`, and no hash."""
    import fsspec

    for path in sizes:
        fsspec.filesystem("s3").get_file(f"{bucket}/{path}", str(folder / path))


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

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as threads:
        list(threads.map(fetch, sizes))


def by_runai(bucket: str, sizes: Sizes, folder: Path) -> None:
    """The same blocks. They come in any order, so a file is hashed when it is whole."""
    os.environ |= {
        "RUNAI_STREAMER_CONCURRENCY": str(_AT_ONCE),
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "300000",  # else it gives up on a server as slow as this one
    }
    from runai_model_streamer import FileStreamer  # type: ignore[import-not-found]
    from runai_model_streamer.file_streamer import FileChunks  # type: ignore[import-not-found]

    paths, requests = list(sizes), []
    for number, path in enumerate(paths):
        starts = range(0, sizes[path], _BLOCK_BYTES)
        blocks = [min(_BLOCK_BYTES, sizes[path] - start) for start in starts]
        requests.append(FileChunks(number, f"s3://{bucket}/{path}", list(starts), blocks))
    files = [os.open(folder / path, os.O_RDWR | os.O_CREAT) for path in paths]
    with FileStreamer() as streamer:
        streamer.stream_files(requests, memory_limit=2 * _AT_ONCE * _BLOCK_BYTES, owned=False)
        for number, block, content in streamer.get_chunks():
            os.pwrite(files[number], content.numpy(), block * _BLOCK_BYTES)
    for descriptor in files:
        with open(descriptor, "rb") as file:
            hashlib.file_digest(file, "sha256")


CLIENTS: dict[str, Callable[[str, Sizes, Path], None]] = {
    "fsspec": by_fsspec,
    "fsspec get_file": by_get_file,
    "obstore": by_obstore,
    "runai-model-streamer": by_runai,
}


def fetch_once(client: str, bucket: str, sizes: Sizes) -> dict[str, float]:
    """In this process, into memory where there is such a folder. A file of one byte is fetched before, for imports."""
    first = min(sizes, key=sizes.__getitem__)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        CLIENTS[client](bucket, {first: sizes.pop(first)}, Path(folder))
        assert [path.stat().st_size for path in Path(folder).iterdir()] == [1]
        started, cpu_s = time.perf_counter(), time.process_time()
        CLIENTS[client](bucket, sizes, Path(folder))
        return {"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=0.5)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--others", default=sys.executable, help="a Python that has the other clients")
    parser.add_argument("--fetch", nargs=3, metavar=("CLIENT", "BUCKET", "SIZES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fetch:
        client, bucket, sizes = given.fetch
        print(json.dumps(fetch_once(client, bucket, json.loads(sizes))))
        return
    from tests.helpers.fixtures_s3 import start_s3_server

    server = start_s3_server()
    bucket, size = server.new_bucket(), int(given.gb * 1e9) // given.files
    sizes = {f"{number}.safetensors": size for number in range(given.files)} | {"first": 1}
    s3, content = server.client(), os.urandom(size)
    for name, num_bytes in sizes.items():
        s3.put_object(Bucket=bucket, Key=name, Body=content[:num_bytes])
    found: dict[str, list[dict[str, Any]]] = {client: [] for client in given.clients}
    others = shutil.which(given.others) or given.others
    for _ in range(given.rounds):
        for client, runs in found.items():
            command = [sys.executable if client.startswith("fsspec") else others, "-m", "tests.benchmarks.model_fetch"]
            command += ["--fetch", client, bucket, json.dumps(sizes)]
            environment = {**os.environ, **server.env}
            done = subprocess.check_output(command, env=environment, text=True, timeout=_PATIENCE_S)
            runs.append(json.loads(done))
            print(client, done.strip(), file=sys.stderr, flush=True)
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
