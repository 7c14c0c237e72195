"""`memory://` and every other protocol that fsspec knows (`gs://`, `az://`, ...), with fsspec's own guarantees:
object stores write whole objects and take create-only writes where their package does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from render_farm.errors import NotFoundError, StorageError, StorageUnavailableError, UsageError
from render_farm.extras import missing_package
from render_farm.storage.files import open_local, write_atomically
from render_farm.storage.meter import GIVEN_UP, READ, WRITTEN
from render_farm.storage.store import Keys, Store, StoreOptions, check_key, check_prefix, content_type_for
from render_farm.uris import protocol_of

_memory_lock = threading.RLock()
_NOTHING_TO_WRITE = ("data",)
_ADVICE = "give a folder, s3://bucket/prefix, or another object store"
_NO_LISTING = (FileNotFoundError, NotADirectoryError)


class FsspecStore(Store):
    """Contracts: `Store`. Content types are kept on Google Cloud Storage only."""

    def __init__(self, root_uri: str, options: StoreOptions) -> None:
        super().__init__(root_uri, options)
        self._protocol = protocol_of(root_uri)
        if self._protocol in _NOTHING_TO_WRITE:
            raise UsageError(f"storage {root_uri!r}: nothing can be written there", advice=_ADVICE)
        try:
            self._fs: Any = fsspec.filesystem(self._protocol, use_listings_cache=False)
            self._root = self._fs._strip_protocol(root_uri).rstrip("/")
        except (ValueError, ImportError) as error:
            raise UsageError(
                f"storage {root_uri!r}: {error}",
                advice=missing_package(error)[1] or "give a folder, s3://bucket/prefix, or install that package",
            ) from error
        except TypeError as error:  # an argument that the file system needs and that fsspec's configuration lacks
            raise UsageError(
                f"storage {root_uri!r}: {error}",
                advice="set what is missing in fsspec's configuration (~/.config/fsspec)",
            ) from error
        except Exception as error:  # each file system raises its own, and some need a folder or a library to begin with
            said = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise UsageError(f"storage {root_uri!r}: it cannot be opened: {said}", advice=_ADVICE) from error

    def read_bytes(self, key: str) -> bytes:
        with self._translated_errors("read", key):
            data: bytes = self._fs.cat_file(self._path(key))
        self.meter.moved(READ, len(data))
        return data

    def write_bytes(self, key: str, data: bytes, content_type: str | None = None) -> None:
        with self._translated_errors("write", key):
            self._make_parent(key)
            self._fs.pipe_file(self._path(key), data, **self._kind(key, content_type))
        self.meter.moved(WRITTEN, len(data))

    def put_file(self, local_path: str | os.PathLike[str], key: str, content_type: str | None = None) -> None:
        open_local(local_path).close()
        with self._translated_errors("write", key):
            self._make_parent(key)
            self._fs.put_file(os.fspath(local_path), self._path(key), **self._kind(key, content_type))
        self.meter.moved(WRITTEN, Path(local_path).stat().st_size)

    def get_file(self, key: str, local_path: str | os.PathLike[str]) -> None:
        if not self.exists(key):
            raise NotFoundError(f"cannot read {self.uri(key)}: there is no such object")
        with self._translated_errors("read", key), write_atomically(Path(local_path)) as file:
            self._fs.get_file(self._path(key), file.name)
            self.meter.moved(READ, Path(file.name).stat().st_size)

    def create(self, key: str, data: bytes, content_type: str | None = None) -> bool:
        with self._translated_errors("create", key):
            try:
                self._make_parent(key)
                self._fs.pipe_file(self._path(key), data, mode="create", **self._kind(key, content_type))
            except FileExistsError:
                return False
        self.meter.moved(WRITTEN, len(data))
        return True

    def exists(self, key: str) -> bool:
        with self._translated_errors("look for", key):
            return bool(self._fs.isfile(self._path(key)))

    def size(self, key: str) -> int:
        with self._translated_errors("look at", key):
            return int(self._fs.size(self._path(key)))

    def delete(self, key: str) -> None:
        with self._translated_errors("delete", key), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def delete_tree(self, prefix: str) -> None:
        path = self._path(check_key(prefix.removesuffix("/")))
        with self._translated_errors("delete", prefix), suppress(FileNotFoundError):
            self._fs.rm(path, recursive=True)

    def list(self, prefix: str = "") -> Keys:
        folder = self._folder(prefix)
        with self._translated_errors("list", prefix):
            try:
                paths = self._fs.find(folder)
            except _NO_LISTING:
                return []
        return sorted(path.removeprefix(f"{self._root}/") for path in paths if path.startswith(f"{folder}/"))

    def list_folders(self, prefix: str = "") -> Keys:
        with self._translated_errors("list", prefix):
            try:
                entries = self._fs.ls(self._folder(prefix), detail=True)
            except _NO_LISTING:
                return []
        return sorted(entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory")

    def copy(self, source_key: str, target_key: str, content_type: str | None = None) -> None:
        with self._translated_errors("copy", source_key):
            self._make_parent(target_key)
            self._fs.cp_file(self._path(source_key), self._path(target_key))

    def sweep(
        self, prefix: str, older_than_s: float = 86_400.0, *, only: Callable[[str], bool] = lambda folder: True
    ) -> int:
        return 0

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _folder(self, prefix: str) -> str:
        inside = check_prefix(prefix)
        return f"{self._root}/{inside}" if inside else self._root

    def _make_parent(self, key: str) -> None:
        if self._protocol == "memory":
            self._fs.makedirs(self._path(key).rpartition("/")[0], exist_ok=True)

    def _kind(self, key: str, content_type: str | None) -> dict[str, str]:
        if self._protocol == "gs":
            return {"content_type": content_type or content_type_for(key)}
        return {}

    @contextmanager
    def _translated_errors(self, operation: str, key: str) -> Iterator[None]:
        where = f"{self.root_uri}/{key}"
        lock = _memory_lock if self._protocol == "memory" else None
        try:
            if lock is None:
                yield
            else:
                with lock:  # makes fsspec's look-then-write one step between threads
                    yield
        except FileNotFoundError as error:
            raise NotFoundError(f"cannot {operation} {where}: there is no such object") from error
        except PermissionError as error:
            self.meter.failed(operation, GIVEN_UP)
            raise StorageUnavailableError(f"cannot {operation} {where}: {error}", advice="check credentials") from error
        except OSError as error:
            self.meter.failed(operation, GIVEN_UP)
            raise StorageError(f"cannot {operation} {where}: {error}") from error
