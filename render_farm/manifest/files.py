"""Opening manifests at any fsspec URI, with one clear error for everything that can go wrong on the way."""

from __future__ import annotations

import os
import posixpath
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from render_farm.errors import ManifestError, ManifestNotFoundError
from render_farm.extras import missing_package
from render_farm.store_advice import diagnose
from render_farm.uris import Address, AddressError, holds_secret, read_address, relative_path, shown_uri, without_query


def file_system(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `uri` and the path in it. Raises `ManifestError` for a scheme that is not known."""
    address = address_of(uri)
    with clear_errors(uri):
        if address.is_local:  # fsspec would split the path at ::
            return LocalFileSystem(), os.path.abspath(address.place)  # noqa: PTH100
        system, path = url_to_fs(address.text, **_options(address))
    return system, str(path)


def address_of(uri: str) -> Address:
    """Where the manifest `uri` is. Raises `ManifestError`."""
    try:
        return read_address(uri)
    except AddressError as error:
        raise ManifestError(error.problem, advice=error.advice) from None


@contextmanager
def open_binary(uri: str) -> Iterator[IO[bytes]]:
    """The object at `uri`, open for reading in binary. Raises `ManifestError`."""
    fs, path = file_system(uri)
    with clear_errors(uri):
        if is_local(fs):
            _check_kind(uri, os.stat(path).st_mode)  # noqa: PTH116
        with fs.open(path, "rb") as handle:
            yield handle


def _check_kind(uri: str, mode: int) -> None:
    """ManifestError for what is no file. Opening a pipe would wait for its writer, and it can be read only once."""
    if stat.S_ISDIR(mode):
        raise ManifestError(f"{shown_uri(uri)} is a folder", advice="give the file in it")
    if not stat.S_ISREG(mode):
        raise ManifestError(f"{shown_uri(uri)} is not a regular file", advice="write it to a file, and give that")


@contextmanager
def clear_errors(uri: str, doing: str = "read") -> Iterator[None]:
    """Turns whatever a file system raises into a `ManifestError` that says what, where and what would work."""
    try:
        yield
    except FileNotFoundError as error:
        found = diagnose(error)
        advice = found.advice if found else _not_found_advice(uri)
        raise ManifestNotFoundError(f"{shown_uri(uri)}: not found", advice=advice) from error
    except _others() as error:
        if found := diagnose(error):
            raise ManifestError(f"{shown_uri(uri)}: cannot {doing} it: {found.problem}", advice=found.advice) from error
        if isinstance(error, PermissionError):
            raise ManifestError(
                f"{shown_uri(uri)}: no permission to {doing} it",
                advice="check the file's mode, or the credentials of its store",
            ) from error
        said = "" if holds_secret(uri) else str(error)  # a store's words may hold the whole address
        reason = getattr(error, "strerror", None) or said or type(error).__name__
        raise ManifestError(f"{shown_uri(uri)}: cannot {doing} it: {reason}", advice=_advice(error)) from error


def resolve_uri(manifest_uri: str, value: str) -> str:
    """`value` as an absolute path or URI: relative ones are meant from the folder of the manifest."""
    relative = relative_path(value)
    if relative is None:
        return value
    address = address_of(manifest_uri)
    folder = _folder(address)
    if not address.is_local:
        bucket, _, path = folder.partition("/")
        inside = posixpath.normpath(posixpath.join("/", path, relative)).lstrip("/")
        return f"{address.protocol}://{bucket}/{inside}"
    return os.path.normpath(os.path.join(os.path.abspath(folder), relative))  # noqa: PTH100, PTH118


def folder_of(manifest_uri: str) -> str:
    """The folder of a manifest, as an absolute path or a URI."""
    address = address_of(manifest_uri)
    folder = _folder(address)
    return os.path.abspath(folder) if address.is_local else f"{address.protocol}://{folder}"  # noqa: PTH100


def _folder(address: Address) -> str:
    place = address.place if address.is_local else without_query(address.text).partition("://")[2]
    return place.rpartition("/")[0] or ("/" if place.startswith("/") else ".")


def _options(address: Address) -> dict[str, Any]:
    """An endpoint that does not answer is reported in seconds, not after s3fs's and botocore's minutes of retries."""
    if address.protocol != "s3":
        return {}
    return {
        "skip_instance_cache": True,  # an instance remembers its endpoint; the environment may have changed
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"total_max_attempts": 2}},
    }


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether `fs` is this machine's own disk."""
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _others() -> tuple[type[Exception], ...]:
    """What a file system raises besides the two above: a ValueError is an unknown scheme or a malformed URI.

    botocore's errors are no OSErrors; they can only be raised once it is loaded, which happens for s3:// alone.
    """
    module = sys.modules.get("botocore.exceptions")
    botocore = (module.BotoCoreError, module.ClientError) if module else ()
    return (OSError, ValueError, ImportError, *botocore)


def _not_found_advice(uri: str) -> str:
    if "://" in uri:
        return "check the bucket and the key, and the endpoint of the store"
    return f"looked in {os.path.dirname(os.path.abspath(uri)) or '/'}"  # noqa: PTH100, PTH120


def _advice(error: BaseException) -> str:
    name = type(error).__name__
    if "Credentials" in name:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if "Connect" in name or "Endpoint" in name or "Timeout" in name:
        return "check the network, and AWS_ENDPOINT_URL"
    if isinstance(error, ImportError):
        return missing_package(error)[1] or "install the package that it names"
    return ""
