"""A local HTTP server that stands for the Hugging Face hub: the endpoints that its clients ask, and its failures."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LFS_BYTES = 10_000
"""Larger files have a sha256, as the hub's large-file storage gives it; the others git's sha1."""


@dataclass
class Hub:
    """Repositories by id, a folder each; and how the server misbehaves."""

    repositories: dict[str, Path]
    url: str = ""
    gated: set[str] = field(default_factory=set)
    cut_after: dict[str, int] = field(default_factory=dict)
    """A file's path in its repository to bytes after which its next download is cut, once."""
    corrupt: dict[str, int] = field(default_factory=dict)
    """A file's path to how many of its next downloads have a wrong byte."""
    silent_s: float = 0.0
    """How long requests are left without an answer."""
    busy: int = 0
    """How many of the next requests are answered `busy_status`."""
    busy_status: int = 503
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range header)."""

    def downloads(self, path: str) -> list[str]:
        """The Range headers of the downloads of a file, in order."""
        return [asked for method, where, asked in self.requests if method == "GET" and where.endswith(f"/{path}")]


@contextmanager
def serve_hub(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub on a free loopback port, stopped at the end."""
    hub = Hub(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.silent_s = 0.0
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: object) -> None:
        self.hub = hub
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, f"/{path}", self.headers.get("Range") or ""))
        if self.hub.silent_s:
            time.sleep(self.hub.silent_s)
            self.close_connection = True
            return
        if self.hub.busy:
            self.hub.busy -= 1
            return self._fail(self.hub.busy_status, "", "try later")
        parts = path.split("/")
        is_api = parts[:2] == ["api", "models"]
        hub_id = "/".join(parts[2:4] if is_api else parts[:2])
        rest = parts[4:] if is_api else parts[2:]
        folder = self.hub.repositories.get(hub_id)
        if folder is None:
            return self._fail(404, "RepoNotFound", "Repository not found")
        if hub_id in self.hub.gated:
            return self._fail(403, "GatedRepo", f"Access to model {hub_id} is restricted")
        if rest[1:2] and rest[1] not in ("main", commit_of(folder)):
            return self._fail(404, "RevisionNotFound", "Invalid rev id")
        if is_api and (not rest or rest[0] == "revision"):
            return self._json({"id": hub_id, "modelId": hub_id, "sha": commit_of(folder), **_listing(folder)})
        if is_api and rest[0] == "tree":
            return self._json(_tree(folder))
        if rest[0] == "resolve" and (folder / "/".join(rest[2:])).is_file():
            return self._file(folder, "/".join(rest[2:]))
        return self._fail(404, "EntryNotFound", "Entry not found")

    def _json(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, folder: Path, path: str) -> None:
        body = (folder / path).read_bytes()
        etag = _content_id(folder / path)
        start, asked = 0, self.headers.get("Range")
        if asked and asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                return self._fail(416, "", "out of range")
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit_of(folder))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        part = bytearray(body[start:])
        if self.hub.corrupt.get(path):
            self.hub.corrupt[path] -= 1
            part[len(part) // 2] ^= 1
        cut = self.hub.cut_after.pop(path, None)
        if cut is None:
            self.wfile.write(part)
            return
        self.wfile.write(part[:cut])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def content_id(body: bytes) -> str:
    """The ETag of a file: sha256 of a large one, git's blob id of a small one."""
    if len(body) > LFS_BYTES:
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()


def commit_of(folder: Path) -> str:
    """A commit id that follows the repository's content."""
    digest = hashlib.sha1()
    for path in _files(folder):
        digest.update(f"{path} {_content_id(folder / path)}\n".encode())
    return digest.hexdigest()


def _content_id(path: Path) -> str:
    return _known_content_id(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _known_content_id(path: Path, time_ns: int) -> str:
    return content_id(path.read_bytes())


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _facts(folder: Path, path: str) -> dict:
    size, identity = (folder / path).stat().st_size, _content_id(folder / path)
    if size <= LFS_BYTES:
        return {"size": size, "blobId": identity, "oid": identity}
    pointer = hashlib.sha1(f"pointer {identity}".encode()).hexdigest()
    lfs = {"sha256": identity, "oid": identity, "size": size, "pointerSize": 130}
    return {"size": size, "blobId": pointer, "oid": pointer, "lfs": lfs}


def _listing(folder: Path) -> dict:
    return {"siblings": [{"rfilename": path, **_facts(folder, path)} for path in _files(folder)], "private": False}


def _tree(folder: Path) -> list[dict]:
    return [{"type": "file", "path": path, **_facts(folder, path)} for path in _files(folder)]
