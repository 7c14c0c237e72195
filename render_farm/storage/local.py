"""A folder as a store. Works on any file system that several machines share, too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from render_farm.errors import NotFoundError
from render_farm.storage.failures import from_os_error
from render_farm.storage.files import (
    PART_PREFIX,
    copy_stream,
    create_exclusively,
    link_or_copy,
    open_local,
    sweep_parts,
    write_atomically,
)
from render_farm.storage.meter import GIVEN_UP, READ, WRITTEN
from render_farm.storage.store import Keys, Store, StoreOptions, check_key, check_prefix


class LocalStore(Store):
    """Contracts: `Store`. Content types are not kept, because files have none."""

    def __init__(self, root_uri: str, options: StoreOptions) -> None:
        super().__init__(root_uri, options)
        self._root = Path(root_uri)

    def uri(self, key: str) -> str:
        return str(self._path(key))

    def read_bytes(self, key: str) -> bytes:
        with self._translated_errors("read", key):
            data = self._path(key).read_bytes()
        self.meter.moved(READ, len(data))
        return data

    def write_bytes(self, key: str, data: bytes, content_type: str | None = None) -> None:
        with self._translated_errors("write", key), write_atomically(self._path(key)) as file:
            file.write(data)
        self.meter.moved(WRITTEN, len(data))

    def put_file(self, local_path: str | os.PathLike[str], key: str, content_type: str | None = None) -> None:
        with (
            open_local(local_path) as reader,
            self._translated_errors("write", key),
            write_atomically(self._path(key)) as writer,
        ):
            copy_stream(reader, writer)
            self.meter.moved(WRITTEN, writer.tell())

    def get_file(self, key: str, local_path: str | os.PathLike[str]) -> None:
        with self._translated_errors("read", key), open(self._path(key), "rb") as reader:
            try:
                with write_atomically(Path(local_path)) as writer:
                    copy_stream(reader, writer)
                    self.meter.moved(READ, writer.tell())
            except OSError as error:
                raise from_os_error(error, "write", str(local_path)) from error

    def create(self, key: str, data: bytes, content_type: str | None = None) -> bool:
        with self._translated_errors("create", key):
            is_created = create_exclusively(self._path(key), data)
        if is_created:
            self.meter.moved(WRITTEN, len(data))
        return is_created

    def exists(self, key: str) -> bool:
        with self._translated_errors("look for", key):
            try:
                return self._path(key).is_file()
            except NotADirectoryError:
                return False

    def size(self, key: str) -> int:
        with self._translated_errors("look at", key):
            try:
                return self._path(key).stat().st_size
            except NotADirectoryError as error:
                raise FileNotFoundError(*error.args) from error

    def delete(self, key: str) -> None:
        with self._translated_errors("delete", key), suppress(FileNotFoundError, NotADirectoryError):
            self._path(key).unlink()

    def delete_tree(self, prefix: str) -> None:
        folder = self._path(check_key(prefix.removesuffix("/")))
        with self._translated_errors("delete", prefix):
            for _ in range(3):  # a writer that was given up may add a file while its folder goes
                try:
                    shutil.rmtree(folder)
                except FileNotFoundError:
                    pass
                except OSError:
                    if not folder.is_dir():
                        raise
                if not folder.exists():
                    return
            shutil.rmtree(folder)

    def prune(self, prefix: str) -> None:
        with self._translated_errors("delete", prefix):
            for parent, _, _ in os.walk(self._path(prefix), topdown=False):
                with suppress(OSError):  # it holds something, or somebody else removed it
                    Path(parent).rmdir()

    def list(self, prefix: str = "") -> Keys:
        folder = self._root / check_prefix(prefix)
        keys: Keys = []
        with self._translated_errors("list", prefix):
            for parent, _, names in os.walk(folder, onerror=_raise_unless_missing):
                inside = Path(parent).relative_to(self._root)
                keys += [(inside / name).as_posix() for name in names if not name.startswith(PART_PREFIX)]
        return sorted(keys)

    def list_folders(self, prefix: str = "") -> Keys:
        with self._translated_errors("list", prefix):
            try:
                with os.scandir(self._root / check_prefix(prefix)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def copy(self, source_key: str, target_key: str, content_type: str | None = None) -> None:
        with self._translated_errors("copy", source_key, to=target_key):
            link_or_copy(self._path(source_key), self._path(target_key))

    def sweep(
        self, prefix: str, older_than_s: float = 86_400.0, *, only: Callable[[str], bool] = lambda folder: True
    ) -> int:
        with self._translated_errors("clean", prefix):
            return sweep_parts(
                self._root / check_prefix(prefix),
                older_than_s,
                only=lambda folder: folder == self._root or only(folder.relative_to(self._root).as_posix()),
            )

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _translated_errors(self, operation: str, key: str, *, to: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = str(self._root / key) + (f" to {self._root / to}" if to else "")
            found = from_os_error(error, operation, where)
            if not isinstance(found, NotFoundError):
                self.meter.failed(operation, GIVEN_UP)
            raise found from error


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
