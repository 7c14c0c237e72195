"""A server that receives webhooks (`taken`: headers and bodies) and heartbeats (`asked`: paths)."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((dict(self.headers), body))
        self._answer()

    def do_GET(self):
        self.server.asked.append(self.path)
        self._answer()

    def _answer(self):
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def receiver(*answers):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.taken, server.asked, server.answers = [], [], list(answers)
    with running(server):
        server.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        yield server
