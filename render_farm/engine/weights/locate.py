"""Find a model by any of its names and make it a local folder."""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from render_farm.engine.weights.fingerprint import COMPONENTS, MAGNITUDES, SUFFIXES
from render_farm.errors import HubError, ModelError, StorageError, StorageFullError
from render_farm.extras import missing_package
from render_farm.media.fetching.store_errors import store_errors, store_failure, store_options
from render_farm.models import PRESETS
from render_farm.storage.hub import hub_endpoint, hub_error, hub_exceptions, way_out
from render_farm.uris import Address, AddressError, read_address, shown_uri

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FULL = (errno.ENOSPC, errno.EDQUOT)
DEFAULT_CACHE = Path("~/.cache/render_farm/models")
_WANTED = [
    "model_index.json",
    MAGNITUDES,
    *(f"{component}/*{suffix}" for component in COMPONENTS for suffix in SUFFIXES),
]


def locate_model(name: str, *, cache_folder: Path | None = None) -> Path:
    """The local folder of a model: a preset's name, a folder, an fsspec URI or a hub id.

    A URI is copied once to `cache_folder` (default `~/.cache/render_farm/models`), a hub id to the hub's own cache
    (`HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` count). Raises `ModelError`, or `StorageError` when a store or the
    hub has no proper answer; whether the folder holds a usable model is `checkpoint.read_checkpoint`'s business.
    """
    preset = PRESETS.get(name)
    if preset is not None:
        return _from_hub(preset.hub_id, name) if preset.hub_id else _built_in()
    try:
        address = read_address(name)
    except AddressError as error:
        raise ModelError(f"model {error.problem}", advice=error.advice) from None
    if not address.is_local:
        return _from_uri(address, (cache_folder or DEFAULT_CACHE).expanduser())
    folder = Path(address.place)
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return _from_hub(name, name)
    near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
    presets = f"presets: {', '.join(PRESETS)}; or give a folder, a URI or a hub id"
    advice = f"did you mean {near[0]}?" if near else presets
    raise ModelError(f"model {name!r} is neither a preset nor a folder that exists", advice=advice)


def _built_in() -> Path:
    from render_farm.tiny import MODEL_DIR

    return MODEL_DIR


def _from_hub(hub_id: str, name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    asked = f"model {name} ({hub_id} on the Hugging Face hub)"
    if name == hub_id:
        asked = f"model {name} (no such folder is here, so it is taken as a Hugging Face hub id)"
    try:
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


def _from_uri(address: Address, cache_folder: Path) -> Path:
    """Copy a model folder once. The local folder is named by the URI and the listing (sizes, times or tags), so changed
    objects are copied again; a lock lets workers of one host share one copy."""
    import fsspec

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
    identity = hashlib.sha256(repr((uri, sorted(listing.items()))).encode()).hexdigest()[:16]
    folder = cache_folder / f"{Path(root).name}-{identity}"
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        with _locked(cache_folder / f".{folder.name}.lock"):
            if not folder.is_dir():
                _copy(filesystem, root.rstrip("/"), listing, folder)
    except store_errors() as error:
        if isinstance(error, OSError) and (error.filename or error.errno in _FULL):  # of this disk
            raise _disk_error(error, f"model {shown_uri(uri)}: copying to {folder}") from error
        raise store_error(error, uri) from None
    return folder


def _listing(filesystem: Any, root: str) -> dict[str, str]:
    """Wanted files below `root`: path inside the model to something that changes with the content."""
    found = {}
    for path, info in filesystem.find(root, detail=True).items():
        relative = path[len(root) :].lstrip("/")
        component, _, file = relative.rpartition("/")
        if relative in ("model_index.json", MAGNITUDES) or (component in COMPONENTS and Path(file).suffix in SUFFIXES):
            tag = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
            found[relative] = f"{info.get('size')} {tag}"
    return found


def _copy(filesystem: Any, root: str, listing: dict[str, str], folder: Path) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for relative in listing:
            target = partial / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(f"{root}/{relative}", str(target))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
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
