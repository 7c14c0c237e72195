"""Turns what file systems, botocore and fsspec raise into the farm's errors, with what, where and what would work."""

from __future__ import annotations

import errno
import os

from render_farm.errors import (
    NotFoundError,
    RenderFarmError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from render_farm.store_advice import diagnose, s3_code

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_WRONG_KIND = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_UNKNOWN = 501
_TRANSIENT_CODES = {
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "OperationAborted",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "BadDigest",
}


def from_os_error(error: OSError, operation: str, where: str) -> RenderFarmError:
    """The farm's error for `error` of a local disk. `operation` reads like "write", `where` is a path."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"cannot {operation} {where}: there is no such object")
    if error.errno in _FULL:
        return StorageFullError(
            f"cannot {operation} {where}: {reason}; nothing half-written was left there",
            advice="free some space or give another folder, then run the same command again",
        )
    if error.errno in _REFUSED:
        return StorageUnavailableError(
            f"cannot {operation} {where}: {reason}",
            advice="give a folder that this user may write to",
        )
    if error.errno in _WRONG_KIND:
        return StorageUnavailableError(
            f"cannot {operation} {where}: {reason}",
            advice="a file is where a folder is needed, or the reverse; give another folder",
        )
    return StorageError(f"cannot {operation} {where}: {reason}")


def from_s3_error(error: BaseException, operation: str, uri: str, endpoint: str) -> RenderFarmError:
    """The farm's error for what s3fs or botocore raised. `uri` is the object's, `endpoint` names the server."""
    what = f"cannot {operation} {uri}"
    name = type(error).__name__
    code, status = s3_code(error)
    bucket = uri.split("/")[2]
    if found := diagnose(error):
        said = "" if found.of_this_side else f": {_one_line(error)}"
        return StorageUnavailableError(f"{what}: {found.problem}{said}", advice=found.advice)
    if code == "NoSuchBucket" or (status == 404 and operation in ("list", "clean")):
        return StorageUnavailableError(
            f"{what}: there is no bucket {bucket!r} at {endpoint}",
            advice=f"create it (aws s3 mb s3://{bucket}) or give another bucket",
        )
    if code in ("NoSuchKey", "404", "NotFound") or (isinstance(error, FileNotFoundError) and status in (0, 404)):
        return NotFoundError(f"{what}: there is no such object")
    if "Credential" in name or code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
        return StorageUnavailableError(
            f"{what}: no valid credentials ({code or error})",
            advice="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role",
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        return StorageUnavailableError(
            f"{what}: {endpoint} refuses access ({code or error})",
            advice=f"the credentials need GetObject, PutObject, DeleteObject and ListBucket on {bucket!r}",
        )
    if isinstance(error, OSError) and error.errno in _FULL and not status:
        return from_os_error(error, operation, uri)
    if not status and (is_transient(error) or "Endpoint" in name):
        return StorageUnavailableError(
            f"{what}: no answer from {endpoint} ({name}: {_one_line(error)})",
            advice="check AWS_ENDPOINT_URL (http or https, host and port) and the network",
        )
    if name in ("ParamValidationError", "ValueError", "InvalidBucketName") or code == "InvalidBucketName":
        return StorageUnavailableError(f"{what}: {_one_line(error)}", advice="check the bucket's name and the endpoint")
    return StorageError(f"{what}: {endpoint} answered {status or ''} {code} ({_one_line(error)})")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    code, status = s3_code(error)
    if status or code:
        return (status >= 500 and status != _UNKNOWN) or status == 429 or code in _TRANSIENT_CODES
    import aiohttp
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.SSLError) or (type(error) is boto.HTTPClientError and diagnose(error)):
        return False
    return isinstance(
        error,
        boto.HTTPClientError
        | boto.ConnectionError
        | boto.IncompleteReadError
        | ResponseParserError
        | aiohttp.ClientError
        | TimeoutError
        | ConnectionError,
    )


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= 200 else f"{line[:200]}..."
