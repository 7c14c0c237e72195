"""A proxy before a real S3 server that makes it fail: one fault after another as asked, or a storm of them."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_STORM = (("503", 0.10), ("500", 0.10), ("lost", 0.03), ("cut", 0.03), ("slow", 0.05))
"""Faults and how often: a fifth of the requests is refused."""
_REFUSALS = {
    "500": (500, "InternalError", ""),
    "503": (503, "ServiceUnavailable", ""),
    "expired": (400, "ExpiredToken", "<Message>The provided token has expired.</Message>"),
    "old": (400, "InvalidArgument", "<Message>Unsupported header x-amz-sdk-checksum-algorithm</Message>"),
    "region": (400, "AuthorizationHeaderMalformed", "<Message>the region is wrong; expecting 'eu-west-1'</Message>"),
}
"""Status, code, and more of the answer."""


def _has_checksum(headers: Message) -> bool:
    return any(name.lower().startswith(("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")) for name in headers)


_LATENCY_S = 0.005, 0.1


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a real server, except as `faults` says: one word for each coming request, then all pass.

    `503`: answers so without passing on. `lost`: passes on, then hangs up without an answer. `cut`: passes on, and
    hangs up in the middle of the answer's body. `plain`: passes on without If-None-Match, as a server that ignores it.
    `500`, `slow` (half a second to three late), `silent` (no answer until `speak`). `storm` draws them at random.
    `expired`: the session token has; `old`: a store that refuses the headers for newer checksums; `region`: another
    one than the bucket's. `always WORD` stays. `refused`: what is stored under a name that ends so gets a 503 always.
    `is_expired`: the credentials are no longer valid. `latency`: draws how long each request takes, 5 to 100 ms.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.faults: list[str] = []
        self.num_requests = 0
        self.refused = ""
        self.lock = threading.Lock()
        self.storm: random.Random | None = None
        self.latency: random.Random | None = None
        self.is_expired = False
        self.speak = threading.Event()
        self.speak.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self) -> str:
        with self.lock:
            self.num_requests += 1
            if self.storm is not None:
                return self._draw(self.storm)
            if self.faults[:1] and self.faults[0].startswith("always "):
                return self.faults[0].removeprefix("always ")
            return self.faults.pop(0) if self.faults else ""

    def _draw(self, storm: random.Random) -> str:
        luck = storm.random()
        for fault, share in _STORM:
            if luck < share:
                return fault
            luck -= share
        return ""

    def handle_error(self, request, client_address):  # a client that hangs up is no news here
        pass


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue"

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # its sender was killed; the server behind would wait for the rest
            self.close_connection = True
            return
        self.server.speak.wait()
        if self.server.latency is not None:
            time.sleep(self.server.latency.uniform(*_LATENCY_S))
        if self.server.is_expired:
            self._answer(400, {}, b"<Error><Code>ExpiredToken</Code></Error>")
            return
        fault = self.server.next_fault()
        if self.server.refused and self.command == "PUT" and self.path.partition("?")[0].endswith(self.server.refused):
            fault = "503"
        if fault == "old" and not _has_checksum(self.headers):
            fault = ""
        if fault in _REFUSALS:
            status, code, more = _REFUSALS[fault]
            self._answer(status, {}, f"<Error><Code>{code}</Code>{more}</Error>".encode())
            return
        if fault == "slow":
            time.sleep(random.uniform(0.5, 3.0))
        headers = dict(self.headers.items())
        if fault == "plain":
            headers.pop("If-None-Match", None)
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if fault == "lost":
            self.close_connection = True
        elif fault == "cut":
            self._answer(answer.status, dict(answer.getheaders()), data, data[: len(data) // 2])
            self.close_connection = True
        else:
            self._answer(answer.status, dict(answer.getheaders()), data)

    def _answer(self, status: int, headers: dict, data: bytes, sent: bytes | None = None) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(data))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if sent is None else sent)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_):
        pass


@contextmanager
def proxied(endpoint: str) -> Iterator[FaultyProxy]:
    """A proxy before the server at `endpoint`, for the length of a block."""
    server = FaultyProxy(endpoint)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.speak.set()
        server.shutdown()
        server.server_close()
        thread.join()
