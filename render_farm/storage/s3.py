"""S3 and what speaks its protocol, through s3fs. One request, one try here: `_run` alone decides about further ones."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync

from render_farm.backoff import Backoff
from render_farm.errors import NotFoundError, StorageError, UsageError
from render_farm.storage.failures import from_s3_error, is_transient
from render_farm.storage.files import open_local, write_atomically
from render_farm.storage.meter import GIVEN_UP, READ, TRIED_AGAIN, WRITTEN
from render_farm.storage.store import Keys, Store, StoreOptions, check_key, check_prefix, content_type_for
from render_farm.store_advice import s3_code

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Pages = list[dict[str, Any]]

_LISTINGS_AT_ONCE = 8
_PAGE_KEYS = 1000
_NO_MULTIPLE_DELETES = (400, 405, 411, 501)
_LONGEST_LINK_S = 7 * 86_400
# What s3fs lets out: its own OSErrors, botocore's, aiohttp's (a body cut short), ValueError for a malformed endpoint.
_S3_ERRORS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError, ValueError)


class _OneTryFileSystem(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs repeats requests by itself, on top of botocore's repeating: together minutes of silence, and a create-only
    write whose answer was lost would look refused. Here each request is made once."""

    retries = 1


class S3Store(Store):
    """Contracts: `Store`. Objects carry their content type."""

    def __init__(self, root_uri: str, options: StoreOptions) -> None:
        super().__init__(root_uri, options)
        path = root_uri.removeprefix("s3://")
        self._bucket, _, prefix = path.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._opened: tuple[int, _OneTryFileSystem] | None = None

    @property
    def _fs(self) -> _OneTryFileSystem:
        """Opened at the first use, and again in a forked process, which must not share its parent's connections."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self, **config: Any) -> _OneTryFileSystem:
        return _OneTryFileSystem(
            skip_instance_cache=True,  # an instance remembers endpoint and credentials; the environment may change
            use_listings_cache=False,
            max_concurrency=4,
            default_block_size=self.options.part_bytes,
            config_kwargs={
                "connect_timeout": self.options.connect_timeout_s,
                "read_timeout": self.options.read_timeout_s,
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": 32,
                **config,
            },
        )

    def read_bytes(self, key: str) -> bytes:
        path = self._path(key)
        # max_concurrency=1 reads in one request; otherwise s3fs asks for the size first.
        data: bytes = self._run("read", key, lambda: self._fs.cat_file(path, max_concurrency=1))
        self.meter.moved(READ, len(data))
        return data

    def write_bytes(self, key: str, data: bytes, content_type: str | None = None) -> None:
        path, details = self._path(key), self._details(key, content_type)
        self._run("write", key, lambda: self._upload(self._fs._pipe_file(path, data, **details), len(data)))

    def put_file(self, local_path: str | os.PathLike[str], key: str, content_type: str | None = None) -> None:
        with open_local(local_path) as file:
            num_bytes = os.fstat(file.fileno()).st_size
        path, local, details = self._path(key), os.fspath(local_path), self._details(key, content_type)
        self._run("write", key, lambda: self._upload(self._fs._put_file(local, path, **details), num_bytes))

    def get_file(self, key: str, local_path: str | os.PathLike[str]) -> None:
        path, target = self._path(key), Path(local_path)

        def download() -> None:
            with write_atomically(target) as file:
                self._fs.get_file(path, file.name, chunksize=self.options.part_bytes)
                self.meter.moved(READ, Path(file.name).stat().st_size)

        self._run("read", key, download)

    def create(self, key: str, data: bytes, content_type: str | None = None) -> bool:
        path, details = self._path(key), self._details(key, content_type)

        def create_once() -> bool:
            try:
                self._upload(self._fs._pipe_file(path, data, mode="create", **details), len(data))
            except OSError as error:
                code, status = s3_code(error)
                if isinstance(error, FileExistsError) or code == "PreconditionFailed" or status == 412:
                    # The answer to an earlier try may have been lost (aiohttp repeats a PUT by itself, too): then
                    # the object there is ours.
                    try:
                        return bool(self._fs.cat_file(path, max_concurrency=1) == data)
                    except FileNotFoundError:  # someone's, and deleted since
                        return False
                if code == "NotImplemented" or status == 501:
                    log.warning("%s does not know create-only writes", self._endpoint())
                    self._upload(self._fs._pipe_file(path, data, **details), len(data))
                else:
                    raise
            return True

        return self._run("create", key, create_once)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFoundError:
            return False
        return True

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """From listings that start at a wanted key and skip to the next one: at most a request for each, and one for a
        thousand where nothing lies between them."""
        wanted = sorted({self._key(key) for key in keys})
        chunk = max(1, -(-len(wanted) // _LISTINGS_AT_ONCE))
        with ThreadPoolExecutor(max_workers=_LISTINGS_AT_ONCE) as pool:
            parts = pool.map(self._sizes, [wanted[at : at + chunk] for at in range(0, len(wanted), chunk)])
            return {key.removeprefix(self._prefix): size for part in parts for key, size in part.items()}

    def _sizes(self, wanted: Keys) -> dict[str, int]:
        """Of full keys, sorted."""
        found: dict[str, int] = {}
        at = 0
        while at < len(wanted):
            page = self._call(
                "list", "", "list_objects_v2", Prefix=self._prefix, StartAfter=wanted[at][:-1], MaxKeys=_PAGE_KEYS
            )
            there = {item["Key"]: int(item["Size"]) for item in page.get("Contents", [])}
            found.update(there)
            if not page.get("IsTruncated"):
                break
            at = bisect_right(wanted, max(there), lo=at)
        return {key: found[key] for key in wanted if key in found}

    def size(self, key: str) -> int:
        answer = self._call("look at", key, "head_object", Key=self._key(key))
        return int(answer["ContentLength"])

    def delete(self, key: str) -> None:
        self._call("delete", key, "delete_object", Key=self._key(key))

    def delete_tree(self, prefix: str) -> None:
        keys = [self._key(key) for key in self.list(check_key(prefix.removesuffix("/")))]
        for start in range(0, len(keys), 1000):
            objects = [{"Key": key} for key in keys[start : start + 1000]]
            try:
                answer = self._call("delete", prefix, "delete_objects", Delete={"Objects": objects, "Quiet": True})
            except StorageError as error:
                if s3_code(error)[1] not in _NO_MULTIPLE_DELETES:
                    raise
                for key in keys[start : start + 1000]:  # a store that does not know the request
                    self._call("delete", prefix, "delete_object", Key=key)
                continue
            for failed in answer.get("Errors", [])[:1]:
                refused = ClientError({"Error": failed}, "DeleteObjects")
                raise from_s3_error(refused, "delete", f"s3://{self._bucket}/{failed.get('Key')}", self._endpoint())

    def list(self, prefix: str = "") -> Keys:
        pages = self._pages(prefix, delimiter="")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return sorted(key.removeprefix(self._prefix) for key in keys if not key.endswith("/"))

    def list_folders(self, prefix: str = "") -> Keys:
        pages = self._pages(prefix, delimiter="/")
        folders = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(folder.removesuffix("/").rpartition("/")[2] for folder in folders)

    def copy(self, source_key: str, target_key: str, content_type: str | None = None) -> None:
        source, target = self._path(source_key), self._path(target_key)
        kind = content_type or content_type_for(target_key)
        # The directive makes a plain copy take the new content type; a multipart one takes it from its start.
        details = {"MetadataDirective": "REPLACE", "ContentType": kind}
        self._run("copy", source_key, lambda: self._fs.cp_file(source, target, **details))

    def presign(self, keys: Iterable[str], expires_s: int) -> dict[str, str]:
        if not 1 <= expires_s <= _LONGEST_LINK_S:
            raise UsageError(f"signed links for {expires_s} s", advice="S3 allows 1 second to 7 days")
        wanted = list(keys)
        # Newer buckets refuse the older signatures that botocore still makes for some regions.
        fs = self._open(signature_version="s3v4")

        async def sign() -> Keys:
            client = await fs.set_session()
            return [
                await client.generate_presigned_url(
                    "get_object", Params={"Bucket": self._bucket, "Key": self._key(key)}, ExpiresIn=expires_s
                )
                for key in wanted
            ]

        return dict(zip(wanted, self._run("sign links to", "", lambda: sync(fs.loop, sign)), strict=True))

    def sweep(
        self, prefix: str, older_than_s: float = 86_400.0, *, only: Callable[[str], bool] = lambda folder: True
    ) -> int:
        now, num_removed = datetime.now(UTC), 0
        for upload in self._uploads(prefix):
            folder = upload["Key"].removeprefix(self._prefix).rpartition("/")[0]
            if only(folder) and (now - upload["Initiated"]).total_seconds() > older_than_s:
                self._call("clean", prefix, "abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
                num_removed += 1
        return num_removed

    def _uploads(self, prefix: str) -> Pages:
        """Unfinished multipart uploads below a folder."""
        folder = self._prefix + (f"{check_prefix(prefix)}/" if prefix else "")
        uploads: Pages = []
        further: dict[str, str] = {}
        while True:
            page = self._call("clean", prefix, "list_multipart_uploads", Prefix=folder, **further)
            uploads += page.get("Uploads") or []
            if not page.get("IsTruncated"):
                return uploads
            further = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _key(self, key: str) -> str:
        return f"{self._prefix}{check_key(key)}"

    def _path(self, key: str) -> str:
        return f"{self._bucket}/{self._key(key)}"

    def _pages(self, prefix: str, delimiter: str) -> Pages:
        folder = self._prefix + (f"{check_prefix(prefix)}/" if prefix else "")
        pages: Pages = []
        further: dict[str, str] = {}
        while True:
            page = self._call("list", prefix, "list_objects_v2", Prefix=folder, Delimiter=delimiter, **further)
            pages.append(page)
            if not page.get("IsTruncated"):
                return pages
            further = {"ContinuationToken": page["NextContinuationToken"]}

    def _call(self, operation: str, key: str, method: str, **arguments: Any) -> dict[str, Any]:
        return self._run(operation, key, lambda: self._fs.call_s3(method, Bucket=self._bucket, **arguments))

    def _details(self, key: str, content_type: str | None) -> dict[str, Any]:
        return {"chunksize": self.options.part_bytes, "ContentType": content_type or content_type_for(key)}

    def _upload(self, request: Coroutine[Any, Any, Any], num_bytes: int) -> None:
        """Run an upload within a time limit. aiohttp starts its read time-out when the request has been sent, and
        a PUT is sent only after the server said "100 Continue": without a limit, one that says nothing hangs it."""
        limit_s = self.options.read_timeout_s + num_bytes / self.options.slowest_bytes_per_s

        async def limited() -> None:
            try:
                await asyncio.wait_for(request, limit_s)
            except TimeoutError as error:
                raise TimeoutError(str(error) or f"{num_bytes} bytes were not taken within {limit_s:.0f} s") from error

        sync(self._fs.loop, limited)
        self.meter.moved(WRITTEN, num_bytes)

    def _run(self, operation: str, key: str, request: Callable[[], Result]) -> Result:
        started, backoff = time.monotonic(), Backoff(self.options.first_delay_s, factor=3)
        for num_done in range(1, self.options.num_tries + 1):
            try:
                return request()
            except _S3_ERRORS as error:
                spent_s, delay_s = time.monotonic() - started, backoff.next_s(error)
                last = num_done == self.options.num_tries or spent_s + delay_s > self.options.give_up_after_s
                if last or not is_transient(error):
                    where = f"s3://{self._bucket}/{self._prefix}{key}".removesuffix("/")
                    found = from_s3_error(error, operation, where, self._endpoint())
                    if not isinstance(found, NotFoundError):
                        self.meter.failed(operation, GIVEN_UP)
                    raise found from error
                self.meter.failed(operation, TRIED_AGAIN)
                log.info("%s %s: %s; again in %.2f s", operation, key, error, delay_s)
            time.sleep(delay_s)
        raise AssertionError("unreachable")

    def _endpoint(self) -> str:
        fs = self._opened[1] if self._opened else None
        client = getattr(fs, "_s3", None)
        return str(client.meta.endpoint_url) if client is not None else "the S3 endpoint"
