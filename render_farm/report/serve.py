"""A read-only server of reports over one output tree: the list of runs, each run's page as it is now, and the films.

    /                                     the runs
    /_runs/<run_id>/report.html           the page; it asks for report.json while the run goes on
    /<job_id>/video.mp4 | poster.jpg      with Range requests, so that players can seek
    /<job_id>/rejected-<seed>.jpg         the poster of a film that the checks rejected
    /_work/<work_key>/preview/...         the preview of a film that is not done

Nothing else is served, and nothing is written. An address that other machines reach needs a token. On the loopback
address requests must name it, so that no web page elsewhere can read along through a name of its own.
"""

from __future__ import annotations

import http.cookies
import ipaddress
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit

from render_farm.errors import NotFoundError, RenderFarmError
from render_farm.report.page import build_page, dump_data
from render_farm.report.page_data import Price
from render_farm.report.run_list import runs_page
from render_farm.report.writer import ReportWriter
from render_farm.storage.layout import (
    POSTER,
    PREVIEW_LIST,
    RUNS,
    VIDEO,
    WORK,
    FilmKeys,
    JobKeys,
    check_id,
    is_rejected_name,
)
from render_farm.storage.local import LocalStore
from render_farm.storage.store import Store, content_type_for

_BUILD_AT_MOST_EVERY_S = 2.0
_FILES_KEPT = 64
_BLOCK = 1 << 16
_COOKIE = "render_farm_token"
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")
_MOST_DIGITS = 18  # of a position in a file. Python refuses to convert thousands.


class ReportServer(ThreadingHTTPServer):
    """See the module. `serve_forever` blocks. `url` is the address to open, with the token."""

    daemon_threads = True

    def __init__(
        self,
        store: Store,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        price: Price = Price(),
    ) -> None:
        """`port` 0 takes a free one. `token` None makes one if it is needed. OSError if the port is taken."""
        super().__init__((host, port), _Handler)
        self.store = store
        self.is_loopback = _is_loopback(host)
        self.token = token or (None if self.is_loopback else secrets.token_urlsafe(24))
        self._price = price
        self._writers: dict[str, ReportWriter] = {}
        self._built: dict[str, tuple[float, dict[str, Any]]] = {}
        self._building = threading.Lock()
        self.media = _Media(store)

    @property
    def url(self) -> str:
        host, port = str(self.server_address[0]), self.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")

    def data(self, run_id: str) -> dict[str, Any]:
        """The data of a run's page, at most a few seconds old. NotFoundError if there is no such run."""
        with self._building:
            now = time.monotonic()
            built = self._built.get(run_id)
            if built is None or now - built[0] > _BUILD_AT_MOST_EVERY_S:
                writer = self._writers.get(run_id) or ReportWriter(self.store, run_id, self._price)
                built = (now, writer.data())
                self._writers[run_id], self._built[run_id] = writer, built
            return built[1]

    def server_close(self) -> None:
        super().server_close()
        self.media.close()


class _Media:
    """Films as local files: in place for a local store, otherwise as copies, of which the last few are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = Path(tempfile.mkdtemp(prefix="render-farm-serve-"))
        self._copies: OrderedDict[str, tuple[int, Path]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, key: str) -> tuple[IO[bytes], int]:
        """The file and its size. NotFoundError when there is none."""
        if isinstance(self._store, LocalStore):
            path = Path(self._store.uri(key))
        else:
            path = self._copied(key)
        try:
            return path.open("rb"), path.stat().st_size
        except OSError as error:
            raise NotFoundError(f"{key}: there is no such object") from error

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _copied(self, key: str) -> Path:
        size = self._store.size(key)
        with self._lock:
            known = self._copies.get(key)
            if known is not None and known[0] == size:
                self._copies.move_to_end(key)
                return known[1]
        path = self._folder / secrets.token_hex(8)
        self._store.get_file(key, path)
        with self._lock:
            dropped = [self._copies.pop(key)[1]] if key in self._copies else []
            self._copies[key] = (size, path)
            dropped += [self._copies.popitem(last=False)[1][1] for _ in range(len(self._copies) - _FILES_KEPT)]
        for old in dropped:
            old.unlink(missing_ok=True)
        return path


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"
    server_version = "render-farm"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        try:
            self._serve()
        except NotFoundError as error:
            self._say(HTTPStatus.NOT_FOUND, error.message)
        except RenderFarmError as error:
            self._say(HTTPStatus.BAD_GATEWAY, str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser has seen enough

    do_HEAD = do_GET

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: the address holds the token, and a page asks often."""

    def _serve(self) -> None:
        address = urlsplit(self.path)
        if not self._may_ask(parse_qs(address.query).get("token", [""])[0], address.path):
            return
        parts = [unquote(part) for part in address.path.split("/")[1:]]
        match parts:
            case [""]:
                self._send(runs_page(self.server.store), "text/html; charset=utf-8")
            case [runs, run_id, "report.html"] if runs == RUNS:
                page = build_page(self.server.data(_checked(run_id)), live=True)
                self._send(page, "text/html; charset=utf-8")
            case [runs, run_id, "report.json"] if runs == RUNS:
                self._send(dump_data(self.server.data(_checked(run_id))).encode(), "application/json")
            case [job_id, name] if name in (VIDEO, POSTER):
                self._send_file(JobKeys(job_id=_checked(job_id)).final(name), name)
            case [job_id, name] if is_rejected_name(name):
                self._send_file(f"{JobKeys(job_id=_checked(job_id)).folder}/{name}", name)
            case [work, work_key, "preview", name] if work == WORK and name == PREVIEW_LIST:
                # Whole, whatever range is asked for: players read it again and again while it grows.
                self._send(self.server.store.read_bytes(_preview_key(work_key, name)), content_type_for(name))
            case [work, work_key, "preview", name] if work == WORK:
                self._send_file(_preview_key(work_key, name), name, cache="no-store")
            case _:
                raise NotFoundError("there is nothing here")

    def _may_ask(self, given: str, path: str) -> bool:
        """Whether to answer. If not, the refusal has been sent."""
        token = self.server.token
        if token is None:
            host = (self.headers.get("Host") or "").rpartition(":")[0].strip("[]") or self.headers.get("Host", "")
            if host in ("localhost", "127.0.0.1", "::1"):
                return True
            self._say(HTTPStatus.FORBIDDEN, "ask for localhost or 127.0.0.1")
            return False
        if given and secrets.compare_digest(given.encode(), token.encode()):
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", path)
            self.send_header("Set-Cookie", f"{_COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/")
            self._end(0)
            return False
        cookies: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        try:
            cookies.load(self.headers.get("Cookie") or "")
        except http.cookies.CookieError:
            cookies.clear()
        held = cookies[_COOKIE].value if _COOKIE in cookies else ""
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if any(secrets.compare_digest(value.encode(), token.encode()) for value in (held, bearer)):
            return True
        self._say(HTTPStatus.UNAUTHORIZED, "the token is missing: open the address that `render-farm serve` printed")
        return False

    def _send_file(self, key: str, name: str, *, cache: str = "private, max-age=60") -> None:
        file, size = self.server.media.open(key)
        with file:
            header = self.headers.get("Range")
            span = _range(header, size)
            if span is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self._end(0)
                return
            start, stop = span
            partial = _asked_range(header) is not None
            self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
            self.send_header("Content-Type", content_type_for(name))
            self.send_header("Accept-Ranges", "bytes")
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self._end(stop - start, cache=cache)
            if self.command == "HEAD":
                return
            file.seek(start)
            left = stop - start
            while left > 0 and (block := file.read(min(_BLOCK, left))):
                self.wfile.write(block)
                left -= len(block)

    def _send(self, body: bytes, content_type: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self._end(len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _say(self, status: HTTPStatus, message: str) -> None:
        self._send(message.encode() + b"\n", "text/plain; charset=utf-8", status)

    def _end(self, length: int, *, cache: str = "no-store") -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", cache)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()


def _asked_range(header: str | None) -> re.Match[str] | None:
    """The requested range of bytes. None for anything else, which RFC 9110 lets a server ignore."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    return match if match and match.groups() != ("", "") else None


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and stop of the requested range. The whole file without a single range of bytes. None beyond its end."""
    match = _asked_range(header)
    if match is None:
        return 0, size
    first, last = match.groups()
    if first == "":
        return (max(0, size - _position(last)), size) if _position(last) else None
    start, stop = _position(first), min(size, _position(last) + 1) if last else size
    return (start, stop) if start < size and start < stop else None


def _position(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MOST_DIGITS else sys.maxsize


def _preview_key(work_key: str, name: str) -> str:
    try:
        return FilmKeys(film=work_key).preview(name)
    except ValueError as error:
        raise NotFoundError("there is nothing here") from error


def _checked(name: str) -> str:
    try:
        return check_id(name)
    except ValueError as error:
        raise NotFoundError("there is nothing here") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
