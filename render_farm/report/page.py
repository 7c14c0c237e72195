"""The page: one HTML file with its style, its script and its data inside. What users wrote reaches the browser as JSON
text only, and the script never makes HTML of it."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
from functools import cache
from string import Template
from typing import Any
from urllib.parse import urlsplit

_SCRIPT = ("base", "head", "failures", "films", "film", "throughput", "timeline", "tables", "page")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def build_page(data: dict[str, Any], *, live: bool = False) -> bytes:
    """The page of `page_data`'s value. A `live` page asks its server for updates."""
    script, style = _script(), _asset("page.css")
    plain = " ".join(_plain_origins(data))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            f"img-src 'self' file: https: data: {plain}".rstrip(),
            f"media-src 'self' file: https: {plain}".rstrip(),
            *(["connect-src 'self'"] if live else []),
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    page = Template(_asset("page.html")).substitute(
        policy=policy,
        title=_text(f"{data['run']['id']} - render_farm"),
        style=style,
        script=script,
        data=dump_data({**data, "live": live}),
    )
    return page.encode()


def plain_page(title: str, body: str) -> bytes:
    """A page of the same looks without data; `body` is HTML."""
    script, style = _asset("theme.js"), _asset("page.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; base-uri 'none'"
    )
    page = Template(_asset("plain.html")).substitute(
        policy=policy, title=_text(title), style=style, script=script, body=body
    )
    return page.encode()


def _plain_origins(data: dict[str, Any]) -> list[str]:
    """Where signed links lead that are not https: a store of one's own."""
    links = (urlsplit(link) for names in data.get("media", {}).values() for link in names.values())
    return sorted({f"http://{link.netloc}" for link in links if link.scheme == "http"})


def dump_data(data: dict[str, Any]) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return text


def _text(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;")


@cache
def _script() -> str:
    """The script's parts as one function, so that they see each other and the page's data nobody else."""
    parts = "\n".join(_asset(f"script/{name}.js") for name in _SCRIPT)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


@cache
def _asset(name: str) -> str:
    return (importlib.resources.files("render_farm.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a content security policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
