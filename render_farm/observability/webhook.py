"""Notices as HTTP POSTs: signed JSON, or the body that Slack's incoming webhooks take.

The signature is `sha256=` and the HMAC-SHA256, in hex, of the time stamp, a dot and the body, with the shared secret:

    X-Render-Farm-Timestamp: 1763712000
    X-Render-Farm-Signature: sha256=5f2c...

A receiver computes the same and refuses old time stamps.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request

from render_farm.observability.notices import NotDelivered, Notice

TEMPLATES = ("json", "slack")
_TIMEOUT_S = 10.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None  # a POST would become a GET, and the body go elsewhere than it was meant to


class Webhook:
    """A channel; see the module."""

    def __init__(self, url: str, *, secret: str | None = None, template: str = "json") -> None:
        """`url` is http or https; without a `secret` nothing is signed. ValueError for anything else."""
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"webhook {url!r}: an http or https address is needed")
        if template not in TEMPLATES:
            raise ValueError(f"webhook template {template!r} is not one of {', '.join(TEMPLATES)}")
        self._url = url
        self._secret = secret
        self._template = template
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, notice: Notice) -> None:
        """See `Channel`."""
        body = json.dumps(slack_body(notice) if self._template == "slack" else notice.to_dict()).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "render_farm"}
        if self._secret:
            stamp = str(int(time.time()))
            headers |= {
                "X-Render-Farm-Timestamp": stamp,
                "X-Render-Farm-Signature": signature(self._secret, stamp, body),
            }
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        try:
            self._opener.open(request, timeout=_TIMEOUT_S).close()
        except urllib.error.HTTPError as error:
            error.close()
            passing = error.code in (408, 425, 429) or error.code >= 500
            raise NotDelivered(f"the webhook answered {error.code}", final=not passing) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise NotDelivered(f"the webhook cannot be reached: {getattr(error, 'reason', error)}") from error


def signature(secret: str, stamp: str, body: bytes) -> str:
    """See the module."""
    return "sha256=" + hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


def slack_body(notice: Notice) -> dict[str, object]:
    """A message with a heading and the report's place; what could be markup in names is escaped as Slack asks."""
    text, report = (
        value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for value in (notice.text, notice.report)
    )
    section = {"type": "section", "text": {"type": "mrkdwn", "text": f"*{text}*\nReport: `{report}`"}}
    return {"text": text, "blocks": [section]}
