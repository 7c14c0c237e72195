"""Small JSON objects that can be checked: they hold a schema version and a checksum of their content.

An object store writes whole objects, but disks flip bits, people edit files, and not every file system keeps its
promises after a power cut: a document is used only if its checksum agrees.
"""

from __future__ import annotations

import json
from typing import Any

from render_farm.storage.hashing import sha256_bytes

CHECKSUM = "checksum"
SCHEMA = "schema"


class DamagedDocument(ValueError):
    """Bytes that are not a whole document of the expected schema. The message says what is wrong."""


def dump(content: dict[str, Any], *, schema: str) -> bytes:
    """`content` as JSON bytes with its schema name and checksum; the same content gives the same bytes.
    TypeError or ValueError for what JSON cannot hold, NaN included."""
    body = json.loads(json.dumps({**content, SCHEMA: schema}, allow_nan=False))  # as it will be read: string keys
    text = _canonical(body)
    return f'{{"{CHECKSUM}":"{sha256_bytes(text.encode())}",{text[1:]}\n'.encode()


def load(data: bytes, *, schema: str) -> dict[str, Any]:
    """The content given to `dump`. `DamagedDocument` when anything differs; a document of another schema version is
    refused too, never half understood."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedDocument(f"no JSON: {error}") from error
    if not isinstance(body, dict):
        raise DamagedDocument("no JSON object")
    if body.get(SCHEMA) != schema:
        raise DamagedDocument(f"schema {body.get(SCHEMA)!r} where {schema!r} is understood")
    checksum = body.pop(CHECKSUM, None)
    if checksum != sha256_bytes(_canonical(body).encode()):
        raise DamagedDocument("its checksum does not match its content")
    del body[SCHEMA]
    return body


def _canonical(body: dict[str, Any]) -> str:
    # On one line, which the encoder writes many times as fast: a run's state has a row for every job.
    return json.dumps(body, sort_keys=True, separators=(",", ":"))
