"""`open_store`: from an address to the store that serves it."""

from __future__ import annotations

import os
from pathlib import Path

from render_farm.errors import UsageError
from render_farm.storage.meter import StorageMeter
from render_farm.storage.store import Store, StoreOptions
from render_farm.uris import AddressError, holds_secret, protocol_of, read_address, shown_uri


def open_store(
    uri: str | os.PathLike[str], options: StoreOptions | None = None, *, meter: StorageMeter | None = None
) -> Store:
    """Open the store at `uri`: a folder's path, `file://`, `s3://bucket/prefix`, `memory://name`, or any protocol
    that fsspec has a package for. Nothing is contacted or created yet. UsageError when `uri` is not usable, or holds a
    password or a signed query: the address is kept with every result, and shown in logs and reports.

    For S3, endpoint and credentials are what botocore finds (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, profiles, roles).
    `meter` counts what is moved; a pickled store has a new one.
    """
    store = _open(uri, options or StoreOptions())
    if meter is not None:
        store.meter = meter
    return store


def _open(uri: str | os.PathLike[str], options: StoreOptions) -> Store:
    text = os.fspath(uri)
    try:
        address = read_address(text)
    except AddressError as error:
        raise UsageError(f"storage {error.problem}", advice=error.advice) from None
    if holds_secret(text):
        raise UsageError(
            f"storage {shown_uri(text)!r} was given with a password, a key or a query: "
            "an output's address is kept with its results and shown in logs",
            advice="leave them out; credentials belong in the environment (AWS_ACCESS_KEY_ID ...), a profile of the "
            "store's library, or fsspec's configuration (FSSPEC_SFTP_PASSWORD ...), on every machine",
        )
    if address.is_local:
        from render_farm.storage.local import LocalStore

        try:
            folder = Path(address.place).absolute()
        except FileNotFoundError:
            raise UsageError(
                f"storage {text!r}: the current folder was deleted", advice="give a whole path, or change the folder"
            ) from None
        return LocalStore(str(folder), options)
    rest = address.place.strip("/")
    for part in rest.split("/")[1:]:
        if part in ("", ".", ".."):
            raise UsageError(f"storage {text!r}: empty, '.' and '..' are not folders", advice="remove them")
    if address.protocol == "s3":
        from render_farm.storage.s3 import S3Store

        return S3Store(f"s3://{rest}", options)
    from render_farm.storage.generic import FsspecStore

    return FsspecStore(f"{address.protocol}://{rest}", options)


def refuse_for_farm(uri: str) -> None:
    """Raise UsageError when workers in other processes could not see what is written to `uri`."""
    if protocol_of(uri) == "memory":
        raise UsageError(
            f"output {uri!r} lives in the memory of one process, and the farm's workers are other processes",
            advice="give a folder that every machine of the cluster sees, or s3://bucket/prefix",
        )
