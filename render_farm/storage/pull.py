"""Pull a model from the hub to a folder or any fsspec URI, with a checksum of every file, stored with the weights.

A file appears under its name whole and checked, or not at all; `model_index.json` comes last, so that what was
interrupted is no model yet. A partial file is kept, and the next pull resumes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from render_farm.errors import NotFoundError, UsageError
from render_farm.storage import checked_json
from render_farm.storage.failures import from_os_error
from render_farm.storage.hashing import sha256_file
from render_farm.storage.hub import HubFile, HubRepository, HubRetryOptions
from render_farm.storage.local import LocalStore
from render_farm.storage.open import open_store
from render_farm.storage.store import Store

CHECKSUMS = "checksums.json"
SCHEMA = "render_farm.model/1"
SUFFIXES = (".json", ".safetensors", ".model", ".txt")
_STAGING = ".pull"
_AT_ONCE = 4
"""Files."""
_REMOTE_STAGING = Path("~/.cache/render_farm/pull")

OnFile = Callable[[str, HubFile], None]
"""Called with `verify`, `fetch` or `store`, and the file."""


@dataclass(frozen=True, kw_only=True)
class PullReport:
    """What a pull did."""

    hub_id: str
    commit: str
    uri: str
    num_files: int
    num_bytes: int
    fetched: tuple[str, ...]
    """Files that were missing or wrong; the others were whole."""
    seconds: float


def pull_model(
    hub_id: str,
    target: str,
    *,
    revision: str | None = None,
    patience: HubRetryOptions | None = None,
    staging: Path | None = None,
    on_file: OnFile | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> PullReport:
    """Make `target` (a folder or URI) what the hub has of `hub_id` at `revision`; fetch what is missing or wrong.

    Every file that is there already is read and checked. `staging` is the local folder for files on the way to a URI
    (four at a time; default in `~/.cache/render_farm/pull`); a folder has its own. `on_file` and `on_bytes` are called
    in several threads. Raises `HubError` or `ModelError` for
    the hub, the storage errors for the target, `UsageError` while another pull is writing there.
    """
    started = time.monotonic()
    store = open_store(target)
    folder = _staging_folder(store, staging)
    with _disk(folder), _alone(folder, target):
        repository = HubRepository(hub_id, revision=revision, patience=patience)
        files = repository.model_files(SUFFIXES, folder)
        told = on_file or (lambda doing, file: None)
        fetched = []

        def pull_file(file: HubFile) -> str:
            told("verify", file)
            known = _sha256_if_whole(store, file, folder)
            if known is None:
                told("fetch", file)
                part = folder / file.content_id
                repository.fetch(file, part, on_bytes)
                known = file.sha256 or sha256_file(part)
                told("store", file)
                _place(store, part, file)
                fetched.append(file.path)
            return known

        *parts, index = files
        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="pull") as threads:
            try:
                digests = list(threads.map(pull_file, parts))
            except BaseException:
                threads.shutdown(wait=True, cancel_futures=True)
                raise
        digests.append(pull_file(index))
        sums = {file.path: {"size": file.size, "sha256": digest} for file, digest in zip(files, digests, strict=True)}
        _remove_former(store, sums)
        document = {"hub_id": hub_id, "commit": repository.commit, "files": sums}
        store.write_bytes(CHECKSUMS, checked_json.dump(document, schema=SCHEMA))
        shutil.rmtree(folder, ignore_errors=True)
    return PullReport(
        hub_id=hub_id,
        commit=repository.commit,
        uri=store.root_uri,
        num_files=len(files),
        num_bytes=sum(file.size for file in files),
        fetched=tuple(file.path for file in files if file.path in fetched),
        seconds=round(time.monotonic() - started, 3),
    )


def _staging_folder(store: Store, staging: Path | None) -> Path:
    if isinstance(store, LocalStore):
        return Path(store.root_uri) / _STAGING
    name = hashlib.sha256(store.root_uri.encode()).hexdigest()[:16]
    return (staging or _REMOTE_STAGING).expanduser() / name


def _sha256_if_whole(store: Store, file: HubFile, folder: Path) -> str | None:
    """The sha256 of the object under the file's name when it has the right content, else None."""
    try:
        if store.size(file.path) != file.size:
            return None
    except NotFoundError:
        return None
    if isinstance(store, LocalStore):
        path = Path(store.root_uri) / file.path
        return (file.sha256 or sha256_file(path)) if file.is_content(path) else None
    copy = folder / f"{file.content_id}.check"
    try:
        store.get_file(file.path, copy)
        return (file.sha256 or sha256_file(copy)) if file.is_content(copy) else None
    finally:
        copy.unlink(missing_ok=True)


def _place(store: Store, part: Path, file: HubFile) -> None:
    """Give the checked file its name: renamed on a disk, uploaded elsewhere."""
    if isinstance(store, LocalStore):
        target = Path(store.root_uri) / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        part.replace(target)
    else:
        store.put_file(part, file.path)
        part.unlink()


def _remove_former(store: Store, sums: Container[str]) -> None:
    """Remove what an earlier pull brought and this commit does not have."""
    try:
        former = checked_json.load(store.read_bytes(CHECKSUMS), schema=SCHEMA)["files"]
    except (NotFoundError, checked_json.DamagedDocument, KeyError):
        return
    for path in former:
        if path not in sums:
            store.delete(path)


@contextmanager
def _alone(folder: Path, target: str) -> Iterator[None]:
    """One pull at a time writes to a target from this machine; what is left of others' commits is kept for them."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another pull is writing to {target}", advice="wait for it") from error
        yield


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    from render_farm.storage.hub import hub_exceptions

    passed = hub_exceptions()
    try:
        yield
    except OSError as error:
        if isinstance(error, passed):
            raise
        raise from_os_error(error, "write", str(folder)) from error
    finally:
        with suppress(OSError):
            folder.rmdir()
