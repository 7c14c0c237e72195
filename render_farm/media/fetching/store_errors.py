"""What fsspec's file systems raise, as the farm's errors: the store is silent, or the request is wrong."""

from __future__ import annotations

import os
import sys
import threading
from functools import lru_cache
from typing import Any

import fsspec

from render_farm.errors import InputError, StorageError
from render_farm.extras import missing_package
from render_farm.media.fetching.uris import refusal
from render_farm.store_advice import diagnose, s3_code
from render_farm.uris import shown_uri


def store_options(protocol: str) -> dict[str, Any]:
    """An endpoint that does not answer is reported in seconds, not after s3fs's and botocore's minutes of retries."""
    if protocol != "s3":
        return {}
    return {
        "skip_instance_cache": True,  # an instance remembers its endpoint; the environment may have changed
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 3}},
    }


def open_place(protocol: str, place: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. Making one for S3 takes a tenth of a second of CPU time and
    megabytes, and a manifest may have thousands of inputs there: one is kept for each environment."""
    if protocol != "s3":
        return fsspec.url_to_fs(place, **store_options(protocol))  # type: ignore[no-any-return]
    variables = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with _one_at_a_time:  # the first inputs are read by many threads at once
        fs = _s3_of(os.getpid(), variables)
    return fs, fs._strip_protocol(place)


_one_at_a_time = threading.Lock()


@lru_cache(maxsize=4)
def _s3_of(process: int, variables: tuple[tuple[str, str], ...]) -> Any:
    return fsspec.filesystem("s3", **store_options("s3"))


def store_errors() -> tuple[type[BaseException], ...]:
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


def store_failure(error: BaseException, uri: str) -> InputError | StorageError:
    """The farm's error for `error`. Its own words are not repeated: they may hold signed addresses."""
    name, status, code = type(error).__name__, *_status(error)
    if isinstance(error, ImportError):
        # fsspec's own words: which package
        advice = f"{missing_package(error)[1] or 'install it'} on every worker"
        return refusal(uri, f"a package for it is missing: {error}", advice)
    if found := diagnose(error):
        if found.of_this_side:
            return StorageError(f"{shown_uri(uri)}: {found.problem}", advice=found.advice)
        return refusal(uri, found.problem, found.advice)
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
    code, status = s3_code(error)
    while not code and error is not None:
        found = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(found, int):
            return found, ""
        error = error.__cause__
    return status, code


def _is_silence(error: BaseException) -> bool:
    if isinstance(error, ConnectionError):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        names & {"HTTPClientError", "EndpointConnectionError", "IncompleteReadError", "ServiceRequestError"}
        or names & {"ClientConnectionError", "ClientPayloadError", "ServiceResponseError", "TransportError"}
    )
