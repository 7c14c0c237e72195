"""`Store`: objects under keys, on a local folder, S3 or any fsspec protocol, with the same guarantees on each.

A key is relative to the store's root, like `a/video.mp4`. No method caches: each answers from the store itself.
A store may be used from several threads at once, pickled, and reopened in another process by its URI.

Every method raises, besides what it names, `StorageUnavailableError` (no such bucket, no access, no connection),
`StorageFullError` (no space) and `StorageError` (anything else, after a bounded number of tries where trying again
can help), each saying what was done, where, and what would work; ValueError is a malformed key, a mistake of the
caller.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from render_farm.errors import NotFoundError, UsageError
from render_farm.storage.files import PART_PREFIX
from render_farm.storage.meter import StorageMeter

_CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".m4s": "video/iso.segment",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".html": "text/html",
    ".txt": "text/plain",
    ".log": "text/plain",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}
Keys = list[str]  # inside the classes, `list` is a method


def content_type_for(name: str) -> str:
    """The content type of an object by its name; `application/octet-stream` when nothing better is known."""
    return _CONTENT_TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How patient a remote store is. An endpoint that does not answer is reported within about 25 s."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    """Longest silence of the server within one request."""
    slowest_bytes_per_s: int = 256 << 10
    """An upload may take `read_timeout_s` and this pace on top, then it is given up and tried again."""
    num_tries: int = 4
    """Tries of a request that fails in a way that may pass (5xx, throttling, a lost connection)."""
    first_delay_s: float = 0.25
    """Longest pause before the second try. It triples before each further one (`backoff.py`)."""
    give_up_after_s: float = 25.0
    """No further try starts later than this after the first."""
    part_bytes: int = 16 << 20
    """Size of the parts of a multipart upload or download; up to four are held in memory."""


class Store(ABC):
    """See the module. Subclasses: `LocalStore`, `S3Store`, `FsspecStore`; made by `open_store`."""

    def __init__(self, root_uri: str, options: StoreOptions) -> None:
        self.root_uri = root_uri
        self.options = options
        self.meter = StorageMeter()
        """Its traffic and failures."""

    def __reduce__(self) -> tuple[type[Store], tuple[str, StoreOptions]]:
        return type(self), (self.root_uri, self.options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root_uri!r})"

    def uri(self, key: str) -> str:
        """Where `key` is, as people write it: a path for a local store, else `protocol://...`."""
        return f"{self.root_uri}/{check_key(key)}"

    @abstractmethod
    def read_bytes(self, key: str) -> bytes:
        """The whole object. NotFoundError when there is none."""

    @abstractmethod
    def write_bytes(self, key: str, data: bytes, content_type: str | None = None) -> None:
        """Write or replace an object. No client can observe a partially written one, whenever this process dies.
        On return it is durable and every later read sees it. `content_type` defaults to that of the key's name."""

    @abstractmethod
    def put_file(self, local_path: str | os.PathLike[str], key: str, content_type: str | None = None) -> None:
        """Upload a local file with the guarantees of `write_bytes`, in bounded memory. NotFoundError when the local
        file is missing."""

    @abstractmethod
    def get_file(self, key: str, local_path: str | os.PathLike[str]) -> None:
        """Download to a local file that appears complete or not at all. NotFoundError when there is no object."""

    @abstractmethod
    def create(self, key: str, data: bytes, content_type: str | None = None) -> bool:
        """Write an object only if there is none: True if this call created it, False if one was there. Of any number
        of calls, in any processes, exactly one returns True, where the store honours create-only writes
        (`probe.create_only_honoured`). `data` differs between callers (holds a token): answers get lost, and then the
        content decides who won, so that a caller who finds exactly its own bytes there may count as the creator."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is an object (a folder is none)."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of an object. NotFoundError when there is none."""

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """Bytes of those of `keys` that there is an object under. Thousands at once cost few requests on S3 when they
        lie close together."""
        found = {}
        for key in keys:
            with suppress(NotFoundError):
                found[key] = self.size(key)
        return found

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; fine when there is none."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Remove every object below the folder `prefix`; fine when there is none. Not atomic."""

    def prune(self, prefix: str) -> None:  # noqa: B027  (most stores know no folders)
        """Remove the folder `prefix` and those below it that hold nothing, where a store has folders."""

    @abstractmethod
    def list(self, prefix: str = "") -> Keys:
        """Keys of all objects below the folder `prefix`, at any depth, sorted; [] when there is no such folder."""

    @abstractmethod
    def list_folders(self, prefix: str = "") -> Keys:
        """Keys of the folders directly below `prefix`, sorted, from one listing that does not descend."""

    @abstractmethod
    def copy(self, source_key: str, target_key: str, content_type: str | None = None) -> None:
        """Copy an object within the store, with the guarantees of `write_bytes` for the target and without the
        bytes passing through this machine where the store can. NotFoundError when there is no source."""

    def presign(self, keys: Iterable[str], expires_s: int) -> dict[str, str]:
        """Links by key that anyone can read the objects with until they expire. The store is not contacted, so there
        may be no such objects. UsageError where the store has no such links, or not for that long."""
        raise UsageError(
            f"{self.root_uri}: there are no signed links for this kind of storage",
            advice="open the page from its folder, or through `render-farm serve`",
        )

    @abstractmethod
    def sweep(
        self, prefix: str, older_than_s: float = 86_400.0, *, only: Callable[[str], bool] = lambda folder: True
    ) -> int:
        """Remove what dead writers left invisibly below `prefix` (temporary files, unfinished multipart uploads): the
        ones known to be dead, and any older than `older_than_s`. Returns how many. With `only`, those directly in the
        folders whose keys it accepts; a local store enters no folder that it refuses."""


def check_key(key: str) -> str:
    """Return `key` if it is well formed, else raise ValueError: keys can never leave the store's root."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(PART_PREFIX) for part in parts) or "\0" in key or "\\" in key:
        raise ValueError(f"malformed object key {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """Like `check_key`, for a folder: "" is the root, and one trailing slash is allowed and dropped."""
    return check_key(prefix.removesuffix("/")) if prefix else ""
