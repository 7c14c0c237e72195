"""The metadata services of AWS, Google and Azure, with the paths, headers and answers that they document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.helpers.receiver import running


class MetadataServer(ThreadingHTTPServer):
    """One cloud's. Without a notice until `gone_at` is set."""

    def __init__(self, cloud: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cloud = cloud
        self.gone_at: datetime | None = None
        self.fails = False
        """Answers 500."""
        self.resource = "farm-7"
        """The machine that Azure's event is about. This one is called `farm-7`."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        is_token = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer("a-token" if self.server.cloud == "AWS" and is_token else None)

    def do_GET(self) -> None:
        self._answer({"AWS": self._aws, "Google": self._google, "Azure": self._azure}[self.server.cloud]())

    def _aws(self) -> str | None:
        gone_at = self.server.gone_at
        asked = self.path == "/latest/meta-data/spot/instance-action"
        if not asked or gone_at is None or self.headers["X-aws-ec2-metadata-token"] != "a-token":
            return None
        return json.dumps({"action": "terminate", "time": f"{gone_at:%Y-%m-%dT%H:%M:%SZ}"})

    def _google(self) -> str | None:
        asked = self.path == "/computeMetadata/v1/instance/preempted"
        if not asked or self.headers["Metadata-Flavor"] != "Google":
            return None
        return "FALSE" if self.server.gone_at is None else "TRUE"

    def _azure(self) -> str | None:
        if self.headers["Metadata"] != "true":
            return None
        if self.path == "/metadata/instance/compute/name?api-version=2021-02-01&format=text":
            return "farm-7"
        if self.path != "/metadata/scheduledevents?api-version=2020-07-01":
            return None
        gone_at = self.server.gone_at
        event = {"EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": [self.server.resource]}
        if gone_at is not None:
            event |= {"EventStatus": "Scheduled", "NotBefore": format_datetime(gone_at.astimezone(UTC), usegmt=True)}
        return json.dumps({"DocumentIncarnation": 1, "Events": [] if gone_at is None else [event]})

    def _answer(self, text: str | None) -> None:
        self.send_response(500 if self.server.fails else 404 if text is None else 200)
        body = (text or "").encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def metadata_server(cloud: str) -> Iterator[MetadataServer]:
    with running(MetadataServer(cloud)) as server:
        yield server
