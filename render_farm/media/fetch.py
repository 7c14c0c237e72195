"""The bytes of an input, from wherever its URI points, within the limits."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path

import fsspec

from render_farm.config import InputLimits
from render_farm.errors import RenderFarmError, StorageError
from render_farm.media.https import fetch_https
from render_farm.media.sink import Sink, Target
from render_farm.media.uris import check_protocol, refusal, shown_uri

_BLOCK_BYTES = 1 << 20


def fetch(uri: str, target: Target, *, max_bytes: int, limits: InputLimits) -> None:
    """Write the bytes of `uri` to `target`.

    InputError for everything that is the input's fault. StorageError when an object store does not answer or fails
    inside (the farm waits and tries again), StorageFullError when `target`'s disk is full.
    """
    protocol = check_protocol(uri, limits)
    sink = Sink(target, uri=uri, max_bytes=max_bytes, within_s=limits.fetch_timeout_s)
    if protocol in ("https", "http"):
        fetch_https(uri, sink, limits)
    elif protocol == "file":
        _fetch_local(uri, sink, limits)
    else:
        _fetch_from_store(uri, protocol, sink)
    if sink.num_bytes == 0:
        raise refusal(uri, "it is empty")


@contextmanager
def fetched_file(uri: str, *, max_bytes: int, limits: InputLimits) -> Iterator[Path]:
    """The bytes of `uri` as a temporary file, which is gone after the block. Errors as `fetch`.

    Local inputs are copied too: the file that was checked is then the one that is read.
    """
    with tempfile.TemporaryDirectory(prefix="render_farm-input-") as folder:
        path = Path(folder) / "input"
        with open(path, "w+b") as file:
            fetch(uri, file, max_bytes=max_bytes, limits=limits)
        yield path


def _fetch_local(uri: str, sink: Sink, limits: InputLimits) -> None:
    path = _local_path(uri)
    roots = None if limits.allowed_roots is None else [_resolved(root) for root in limits.allowed_roots]
    try:
        _check_roots(uri, _resolved(path), roots)
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            descriptor = file.fileno()
            # The file that is open now counts: a link may have changed since the check.
            if roots is not None and os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110
                _check_roots(uri, _resolved(f"/proc/self/fd/{descriptor}"), roots)
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise refusal(uri, "it is no ordinary file", "give the file itself")
            sink.expect(about.st_size)
            while block := file.read(_BLOCK_BYTES):
                sink.write(block)
    except FileNotFoundError:
        raise refusal(uri, "there is no such file", _LOCAL_ADVICE) from None
    except IsADirectoryError:
        raise refusal(uri, "it is a folder", "give the file itself") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise refusal(uri, f"it cannot be read: {reason}", "check the file's name and mode") from None


_LOCAL_ADVICE = "every worker must see it under this path; else put it on your object store"


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _local_path(uri: str) -> str:
    for prefix in ("file://", "local://", "file:", "local:"):
        if uri[: len(prefix)].lower() == prefix:
            uri = uri[len(prefix) :]
            break
    return os.path.expanduser(uri)  # noqa: PTH111


def _resolved(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))  # noqa: PTH111


def _check_roots(uri: str, path: str, roots: list[str] | None) -> None:
    """The same answer whether the file exists or not: nothing is told about what lies outside."""
    if roots is None or any(Path(path).is_relative_to(root) for root in roots):
        return
    places = f"put it in {' or '.join(roots)}" if roots else "put it on your object store"
    raise refusal(uri, "local files from there are not allowed", places)


def _fetch_from_store(uri: str, protocol: str, sink: Sink) -> None:
    if "::" in uri:  # fsspec would open what stands behind it, with any protocol
        raise refusal(uri, "chained addresses (with ::) are not allowed", "give the address of the file itself")
    place = f"{protocol}{uri[uri.index('://') :]}"

    def copy() -> None:
        fs, path = fsspec.url_to_fs(place, **_options(protocol))
        with fs.open(path, "rb", block_size=4 * _BLOCK_BYTES) as file:
            size = getattr(file, "size", None)
            if isinstance(size, int):
                sink.expect(size)
            while block := file.read(_BLOCK_BYTES):
                sink.write(block)

    try:
        _within(sink.left_s, copy)
    except RenderFarmError:
        raise
    except FutureTimeoutError:
        sink.stop()
        sink.check_time()
    except _store_errors() as error:
        raise _store_failure(error, uri) from None


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Run `work`, for at most `seconds`: file systems wait for their servers as long as they like. What is not done
    by then is left to a thread that ends with its next block. TimeoutError from here is `FutureTimeoutError`."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except TimeoutError as error:  # the store's, not this function's: it must not look like the latter
            done.set_exception(ConnectionError(str(error)))
        except BaseException as error:  # noqa: BLE001  (raised again by `result` below)
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="fetch-input", daemon=True).start()
    done.result(timeout=seconds)


def _options(protocol: str) -> dict[str, object]:
    """An endpoint that does not answer is reported in seconds, not after s3fs's and botocore's minutes of retries."""
    if protocol != "s3":
        return {}
    return {
        "skip_instance_cache": True,  # an instance remembers its endpoint; the environment may have changed
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 3}},
    }


def _store_errors() -> tuple[type[BaseException], ...]:
    """What fsspec's file systems raise. Those of the stores' own libraries are no OSErrors; they can only be raised
    once their library is loaded. Anything else is a mistake in the farm and passes."""
    libraries = {
        "botocore.exceptions": ("BotoCoreError", "ClientError"),
        "aiohttp": ("ClientError",),
        "gcsfs.retry": ("HttpError",),
        "google.auth.exceptions": ("GoogleAuthError",),
        "azure.core.exceptions": ("AzureError",),
    }
    found = [
        getattr(sys.modules[module], name)
        for module, names in libraries.items()
        if module in sys.modules
        for name in names
    ]
    return (OSError, ValueError, ImportError, *found)


def _store_failure(error: BaseException, uri: str) -> RenderFarmError:
    """The farm's error for `error`. Its own words are not repeated: they may hold signed addresses."""
    name, status, code = type(error).__name__, *_status(error)
    if isinstance(error, ImportError):
        # fsspec's own words: which package
        return refusal(uri, f"a package for it is missing: {error}", "install it on every worker")
    if status >= 500 or status == 429 or (not status and _is_silence(error)):
        return StorageError(
            f"{shown_uri(uri)}: the store does not answer properly ({code or name})",
            advice="check the network and the endpoint (AWS_ENDPOINT_URL)",
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return refusal(uri, "there is no such object", "check the bucket and the key, and the endpoint of the store")
    if isinstance(error, PermissionError) or status in (401, 403) or "Credential" in name:
        return refusal(uri, f"access is refused ({code or name})", "give the workers credentials that may read it")
    if isinstance(error, IsADirectoryError):
        return refusal(uri, "it is a folder", "give the file itself")
    return refusal(uri, f"it cannot be read ({code or name})", "check the address")


def _status(error: BaseException | None) -> tuple[int, str]:
    """Status and code of the store's answer behind `error`; 0 and "" when there was none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status or 0), str(response["Error"].get("Code", ""))
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int):
            return status, ""
        error = error.__cause__
    return 0, ""


def _is_silence(error: BaseException) -> bool:
    if isinstance(error, ConnectionError):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names & {"HTTPClientError", "EndpointConnectionError", "IncompleteReadError", "ServiceRequestError"}
        or names & {"ClientConnectionError", "ClientPayloadError", "ServiceResponseError", "TransportError"}
    )
