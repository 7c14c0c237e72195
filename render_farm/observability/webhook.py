"""Notices as HTTP POSTs: signed JSON, or the body that Slack's incoming webhooks take.

With a secret, a POST carries two signatures of the same body. Both are HMAC-SHA256, and a receiver checks either one
and refuses old timestamps. The first is that of standardwebhooks.com, for which there are libraries in most languages.
It covers the id, a dot, the timestamp, a dot and the body. The second covers the timestamp, a dot and the body:

    webhook-id: msg_0f3c...
    webhook-timestamp: 1763712000
    webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=
    X-Render-Farm-Timestamp: 1763712000
    X-Render-Farm-Signature: sha256=5f2c...
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import time
import urllib.error
import urllib.request

from render_farm.observability.notices import NotDelivered, Notice

TEMPLATES = ("json", "slack")
_TIMEOUT_S = 10.0
_ENCODED_KEY = "whsec_"
"""How a secret starts whose rest is the key in base64, as Standard Webhooks writes it."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None  # a POST would become a GET, and the body go elsewhere than it was meant to


_OPENER = urllib.request.build_opener(_NoRedirects)


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
        self._key = _key_of(secret) if secret else b""
        self._template = template

    def send(self, notice: Notice) -> None:
        """See `Channel`."""
        content = json.dumps(notice.to_dict()).encode()
        body = json.dumps(slack_body(notice)).encode() if self._template == "slack" else content
        headers = {"Content-Type": "application/json", "User-Agent": "render_farm"}
        if self._secret:
            stamp = str(int(time.time()))
            message_id = f"msg_{hashlib.sha256(content).hexdigest()[:32]}"  # the same at every try
            headers |= {
                "webhook-id": message_id,
                "webhook-timestamp": stamp,
                "webhook-signature": standard_signature(self._key, message_id, stamp, body),
                "X-Render-Farm-Timestamp": stamp,
                "X-Render-Farm-Signature": signature(self._secret, stamp, body),
            }
        send_request(urllib.request.Request(self._url, data=body, headers=headers, method="POST"), "the webhook")


def send_request(request: urllib.request.Request, receiver: str) -> None:
    """Send a request whose answer matters only in its status. Redirects are not followed. NotDelivered unless the
    answer is a success, with `receiver` as the subject of the message."""
    try:
        _OPENER.open(request, timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        error.close()
        passing = error.code in (408, 425, 429) or error.code >= 500
        raise NotDelivered(f"{receiver} answered {error.code}", final=not passing) from error
    except http.client.HTTPException as error:
        raise NotDelivered(f"{receiver} does not answer in HTTP: {error!r}") from error
    except (OSError, ValueError) as error:  # OSError includes URLError
        raise NotDelivered(f"{receiver} cannot be reached: {getattr(error, 'reason', error)}") from error


def signature(secret: str, stamp: str, body: bytes) -> str:
    """The second signature of the module."""
    return "sha256=" + hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


def standard_signature(key: bytes, message_id: str, stamp: str, body: bytes) -> str:
    """The first signature of the module."""
    digest = hmac.digest(key, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def _key_of(secret: str) -> bytes:
    if not secret.startswith(_ENCODED_KEY):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_ENCODED_KEY), validate=True)
    except binascii.Error as error:
        raise ValueError(f"webhook_secret: what follows {_ENCODED_KEY} is not base64: {error}") from None


def slack_body(notice: Notice) -> dict[str, object]:
    """A message with a heading and the report's place; what could be markup in names is escaped as Slack asks."""
    text, report = (
        value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for value in (notice.text, notice.report)
    )
    section = {"type": "section", "text": {"type": "mrkdwn", "text": f"*{text}*\nReport: `{report}`"}}
    return {"text": text, "blocks": [section]}
