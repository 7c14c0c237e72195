"""The marker of a finished job: `job.json`, written last. If it is whole, the job is done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from render_farm.errors import NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.hashing import sha256_file
from render_farm.storage.layout import JobKeys, is_final_name, publishing_folder
from render_farm.storage.store import Store

SCHEMA = "render_farm.job/1"


def dump_job(content: dict[str, Any]) -> bytes:
    """The bytes of a `job.json`. TypeError or ValueError for what JSON cannot hold."""
    return checked_json.dump(content, schema=SCHEMA)


def read_done(store: Store, job_id: str) -> dict[str, Any] | None:
    """What `job.json` of a finished job says (with `render_key`, `attempt`, `sha256` of the video and `files`), or
    None when the job is not done or its `job.json` is damaged or another job's. StorageError passes."""
    return read_job(store, job_id)[1]


def read_job(store: Store, job_id: str) -> tuple[bool, dict[str, Any] | None]:
    """Whether there is a `job.json`, whole or not, and what `read_done` says of it."""
    try:
        return True, parse_job(store.read_bytes(JobKeys(job_id=job_id).job), job_id)
    except NotFoundError:
        return False, None


def parse_job(data: bytes, job_id: str) -> dict[str, Any] | None:
    """The content of a `job.json`; None when it is damaged or another job's."""
    try:
        content = checked_json.load(data, schema=SCHEMA)
    except checked_json.DamagedDocument:
        return None
    return content if content.get("job_id") == job_id and _is_well_formed(content) else None


def is_whole(store: Store, done: dict[str, Any]) -> bool:
    """Whether the files under the final names are those that `done`, what `read_done` gave, speaks of.

    Their sizes are compared. Where somebody may have died while writing there, their checksums are. StorageError
    passes.
    """
    keys = JobKeys(job_id=str(done["job_id"]))
    if not has_sizes(done, store.sizes(keys.final(name) for name in filter(is_final_name, done["files"]))):
        return False
    return not store.list(publishing_folder(keys.job_id)) or not verify_done(store, keys.job_id)


def has_sizes(done: dict[str, Any], sizes: Mapping[str, int]) -> bool:
    """Whether the files of a finished job have the sizes that its `job.json` names; `sizes` are by key."""
    folder = JobKeys(job_id=str(done["job_id"])).folder
    return all(sizes.get(f"{folder}/{name}", -1) == file.get("num_bytes") for name, file in done["files"].items())


def verify_done(
    store: Store, job_id: str, *, look_at: Callable[[str, Path], str] = lambda name, path: ""
) -> tuple[str, ...]:
    """Read every file of a finished job and compare it with its size and checksum. `look_at` gets the name and a local
    copy of each sound one, and returns what is wrong with it. One line for each thing that is wrong; () when all is
    well. StorageError passes."""
    keys = JobKeys(job_id=job_id)
    done = read_done(store, job_id)
    if done is None:
        return (f"{store.uri(keys.job)}: missing or damaged",)
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
        local = Path(folder, "object")
        for name, expected in sorted(done["files"].items()):
            try:
                uri = store.uri(keys.final(name))
                num_bytes = store.size(keys.final(name))
                if num_bytes != expected.get("num_bytes", num_bytes):
                    problems.append(f"{uri}: has {num_bytes:,} bytes where job.json says {expected['num_bytes']:,}")
                    continue
                store.get_file(keys.final(name), local)
            except (NotFoundError, ValueError) as error:
                problems.append(str(error))
                continue
            if sha256_file(local) != expected.get("sha256"):
                problems.append(f"{uri}: its sha256 is not the one in job.json")
            elif problem := look_at(name, local):
                problems.append(f"{uri}: {problem}")
    return tuple(problems)


def _is_well_formed(content: dict[str, Any]) -> bool:
    """Whether the fields that others rely on are of the kinds that `publish` and the farm write."""
    files, segments = content.get("files"), content.get("segments", [])
    return (
        isinstance(content.get("render_key"), str)
        and isinstance(content.get("sha256"), str)
        and isinstance(files, dict)
        and all(isinstance(file, dict) for file in files.values())
        and isinstance(segments, list)
        and all(isinstance(one, dict) and isinstance(one.get("seconds", 0), int | float) for one in segments)
        and all(isinstance(content.get(name), int | float | None) for name in ("seam_score", "drift"))
        and isinstance(findings := content.get("findings", []), list)
        and all(isinstance(finding, str) for finding in findings)
        and isinstance(seeds := content.get("seeds_tried", []), list)
        and all(isinstance(one, dict) and isinstance(one.get("seed"), int) for one in seeds)
        and all(isinstance(one.get("seconds", 0), int | float) for one in seeds)
        and all(_is_count(content.get(name, 0)) for name in ("num_frames", "attempts", "reused_segments"))
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**31
