"""A night's signs of life, for a service that raises the alarm when they do not come (a dead man's switch).

One GET when the night starts and one when it ends. An address with `{event}` gets `start`, then the exit code of the
night, as healthchecks.io takes them (`https://hc-ping.com/UUID/{event}`). An address without it can only say that all
is well, so it gets no GET for a night that ends with another code than 0.
"""

from __future__ import annotations

import urllib.request

from render_farm.observability.notices import Notice, NoticeKind
from render_farm.observability.webhook import send_request

_EVENT = "{event}"


class Heartbeat:
    """A channel for the two notices of a night. See the module."""

    def __init__(self, url: str) -> None:
        """`url` is as `NotifySettings.heartbeat_url` may be."""
        self._url = url

    def send(self, notice: Notice) -> None:
        """See `Channel`."""
        event = "start" if notice.kind is NoticeKind.NIGHT_STARTED else notice.state
        if _EVENT in self._url or event in ("start", "0"):
            address = self._url.replace(_EVENT, event)
            request = urllib.request.Request(address, headers={"User-Agent": "render_farm"})
            send_request(request, "the heartbeat's server")
