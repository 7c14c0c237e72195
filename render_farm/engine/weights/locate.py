"""Find a model by any of its names and make it a local folder."""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from render_farm.engine.weights.fetching import FileChanged, fetch_files
from render_farm.engine.weights.fingerprint import COMPONENTS, MAGNITUDES, SUFFIXES
from render_farm.errors import HubError, ModelError, StorageError, StorageFullError
from render_farm.extras import missing_package
from render_farm.media.fetching.store_errors import store_errors, store_failure, store_options
from render_farm.models import HUB_ID, PRESETS
from render_farm.storage import checked_json
from render_farm.storage.hub import hub_endpoint, hub_error, hub_exceptions, way_out
from render_farm.storage.pull import CHECKSUMS, SCHEMA
from render_farm.uris import Address, AddressError, read_address, shown_uri

_LOOK_EVERY_S = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT)
DEFAULT_CACHE = Path("~/.cache/render_farm/models")
_WANTED = [
    "model_index.json",
    MAGNITUDES,
    *(f"{component}/*{suffix}" for component in COMPONENTS for suffix in SUFFIXES),
]


def locate_model(
    name: str,
    *,
    cache_folder: Path | None = None,
    max_bytes: int | None = None,
    on_alive: Callable[[], None] | None = None,
) -> Path:
    """The local folder of a model: a preset's name, a folder, an fsspec URI or a hub id.

    Args:
        name: Where it is.
        cache_folder: Where a URI is copied to.
        max_bytes: Size of the files of a URI or a hub's repository. A larger one is refused before it is copied.

    A URI is copied once to `cache_folder` (default `~/.cache/render_farm/models`), a hub id to the hub's own cache
    (`HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` count). `on_alive` is called while a URI is copied here or by another
    process of this machine, from several threads. Raises `ModelError`, or `StorageError` when a store or the
    hub has no proper answer; whether the folder holds a usable model is `checkpoint.read_checkpoint`'s business.
    """
    preset = PRESETS.get(name)
    if preset is not None:
        return _from_hub(preset.hub_id, name, max_bytes) if preset.hub_id else _built_in()
    try:
        address = read_address(name)
    except AddressError as error:
        raise ModelError(f"model {error.problem}", advice=error.advice) from None
    if not address.is_local:
        return _from_uri(address, (cache_folder or DEFAULT_CACHE).expanduser(), max_bytes, on_alive or (lambda: None))
    folder = Path(address.place)
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return _from_hub(name, name, max_bytes)
    near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    presets = f"presets: {', '.join(PRESETS)}; or give a folder, a URI or a hub id"
    advice = f"did you mean {near[0]}?" if near else presets
    raise ModelError(f"model {name!r} is neither a preset nor a folder that exists", advice=advice)


def _built_in() -> Path:
    from render_farm.tiny import MODEL_DIR

    return MODEL_DIR


def _from_hub(hub_id: str, name: str, max_bytes: int | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, LocalEntryNotFoundError

    asked = f"model {name} ({hub_id} on the Hugging Face hub)"
    if name == hub_id:
        asked = f"model {name} (no such folder is here, so it is taken as a Hugging Face hub id)"
    try:
        if max_bytes is not None:
            with suppress(DryRunError):  # the hub is not reached: nothing is downloaded then
                files = snapshot_download(hub_id, allow_patterns=_WANTED, endpoint=hub_endpoint(), dry_run=True)
                _check_size(asked, sum(file.file_size or 0 for file in files), max_bytes)
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED, endpoint=hub_endpoint()))
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # the hub's answer, when there is no copy either
            raise hub_error(error.__cause__, asked) from error
        raise HubError(
            f"{asked}: the hub cannot be reached and no copy is in its local cache", advice=way_out()
        ) from error
    except hub_exceptions() as error:
        raise hub_error(error, asked) from error
    except OSError as error:
        raise _disk_error(error, asked) from error


def _from_uri(address: Address, cache_folder: Path, max_bytes: int | None, on_alive: Callable[[], None]) -> Path:
    """Copy a model folder once. The local folder is named by the URI and the listing (sizes, times or tags), so changed
    objects are copied again; a lock lets workers of one host share one copy."""
    uri = address.text
    try:
        filesystem, root = fsspec.core.url_to_fs(uri, **store_options(address.protocol))
    except (ImportError, ValueError) as error:
        raise ModelError(
            f"model {shown_uri(uri)}: {error}",
            advice=missing_package(error)[1] or "install the fsspec driver of this scheme",
        ) from error
    try:
        listing = _listing(filesystem, root.rstrip("/"))
    except store_errors() as error:
        raise store_error(error, uri) from None
    if "model_index.json" not in listing:
        raise ModelError(
            f"model {shown_uri(uri)}: no model_index.json is there",
            advice="give the folder of a model in diffusers format (what `save_pretrained` wrote)",
        )
    if max_bytes is not None:
        _check_size(f"model {shown_uri(uri)}", sum(size for size, _ in listing.values()), max_bytes)
    named = sorted((relative, f"{size} {tag}") for relative, (size, tag) in listing.items())
    identity = hashlib.sha256(repr((uri, named)).encode()).hexdigest()[:16]
    folder = cache_folder / f"{Path(root).name}-{identity}"
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with _locked(cache_folder / f".{folder.name}.lock", on_alive):
            if not folder.is_dir():
                _copy(filesystem, root.rstrip("/"), listing, folder, on_alive)
    except store_errors() as error:
        if isinstance(error, OSError) and (error.filename or error.errno in _FULL):  # of this disk
            raise _disk_error(error, f"model {shown_uri(uri)}: copying to {folder}") from error
        raise store_error(error, uri) from None
    return folder


def _listing(filesystem: Any, root: str) -> dict[str, tuple[int, str]]:
    """Wanted files of `root`: path inside the model to size, and something that changes with the content. Only the
    folders of a model's parts are listed, whatever else is there."""
    found = {}
    for folder in ("", *COMPONENTS):
        place = f"{root}/{folder}".rstrip("/")
        infos = []
        with suppress(FileNotFoundError, NotADirectoryError):
            infos = filesystem.ls(place, detail=True)
        for info in infos:
            file = info["name"].rpartition("/")[2]
            wanted = Path(file).suffix in SUFFIXES if folder else file in ("model_index.json", MAGNITUDES)
            if wanted and info["type"] == "file":
                tag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
                found[f"{folder}/{file}".lstrip("/")] = (int(info.get("size") or 0), str(tag))
    return found


def _check_size(what: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ModelError(
            f"{what}: its files have {num_bytes:,} bytes, more than the {max_bytes:,} allowed",
            advice="give a smaller model, or raise max_model_bytes in [inputs] of the settings",
        )


def _copy(
    filesystem: Any, root: str, listing: dict[str, tuple[int, str]], folder: Path, on_alive: Callable[[], None]
) -> None:
    """What an earlier process fetched of the same listing is kept and completed."""
    partial = folder.with_name(f".{folder.name}.partial")
    sizes = {path: size for path, (size, _) in listing.items()}
    sums = _checksums(filesystem, root)
    try:
        fetch_files(filesystem, root, sizes, partial, sha256=sums, on_bytes=lambda _: on_alive())
    except FileChanged:
        shutil.rmtree(partial)
        raise
    partial.rename(folder)


def _checksums(filesystem: Any, root: str) -> dict[str, str]:
    """sha256 by path, where `models pull` has left them."""
    try:
        files = checked_json.load(filesystem.cat_file(f"{root}/{CHECKSUMS}"), schema=SCHEMA)["files"]
    except (FileNotFoundError, checked_json.DamagedDocument):
        return {}
    return {path: known["sha256"] for path, known in files.items()}


@contextmanager
def _locked(path: Path, on_alive: Callable[[], None]) -> Iterator[None]:
    """Whoever holds it is watched, so waiting for it is a sign of life."""
    with open(path, "w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                on_alive()
                time.sleep(_LOOK_EVERY_S)
        yield


def store_error(error: BaseException, uri: str) -> ModelError | StorageError:
    """StorageError when the store does not answer, which the farm waits out; else the model's name is wrong."""
    found = store_failure(error, uri)
    return found if isinstance(found, StorageError) else ModelError(f"model {found.message}", advice=found.advice)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _disk_error(error: OSError, what: str) -> ModelError | StorageFullError:
    if error.errno in _FULL:
        return StorageFullError(f"{what}: no space is left on this disk", advice="free space, or move the model cache")
    return ModelError(f"{what}: {_reason(error)}")
