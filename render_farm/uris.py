"""How a URI that a person gave is named in messages, and whether it holds what must not be kept."""

from __future__ import annotations

import re

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]+:[:/])")
_ALIASES = {"local": "file", "s3a": "s3", "gcs": "gs", "abfss": "abfs"}
_SHOWN_CHARACTERS = 200


def canonical(protocol: str) -> str:
    """A protocol's name in lower case and without synonyms."""
    name = protocol.lower()
    return _ALIASES.get(name, name)


def protocol_of(uri: str) -> str:
    """What stands before the colon, lower-case and without synonyms; `file` for a plain path."""
    match = _PROTOCOL.match(uri)
    return canonical(match.group(1)) if match else "file"


def is_chained(uri: str) -> bool:
    """Whether fsspec would open one address through another (`simplecache::s3://...`)."""
    return _CHAIN.search(uri) is not None


def shown_uri(uri: str) -> str:
    """`uri` for messages: sign-in data and queries (signatures of presigned URLs) left out, and one printable line."""
    uri = "::".join(_without_secrets(part) for part in _CHAIN.split(uri))
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in uri)
    if len(line) > _SHOWN_CHARACTERS:
        line = f"{line[: _SHOWN_CHARACTERS // 2]}...{line[-_SHOWN_CHARACTERS // 2 :]}"
    return line


def holds_secret(uri: str) -> bool:
    """Whether `uri` holds a password or the parameters of a query, where the signatures of presigned URLs are. A user's
    name alone, or a container before the @, is none."""
    return any(_holds_secret(part) for part in _CHAIN.split(uri))


def _holds_secret(uri: str) -> bool:
    if protocol_of(uri) == "file" or "://" not in uri:
        return False
    authority, _, query = _parts(uri)
    return ":" in authority.rpartition("@")[0] or _is_malformed(uri) or "=" in query


def _without_secrets(uri: str) -> str:
    if protocol_of(uri) == "file":
        return uri
    if _is_malformed(uri):
        return f"{protocol_of(uri)}://..."
    if "://" not in uri:
        return uri
    _, path, query = _parts(uri)
    return f"{uri.partition('://')[0]}://{_host(uri)}{path}{'?...' if query else ''}"


def _is_malformed(uri: str) -> bool:
    """Whether it names no place, so that sign-in data may be anywhere in it. A port that is no number is most likely
    the beginning of a password with unescaped characters."""
    if "://" not in uri:
        return any(character in uri for character in "@?")
    return re.search(r":(?!\d*$)(?![^\[]*\])", _host(uri)) is not None


def _host(uri: str) -> str:
    """Host and port, or the container and its account."""
    authority = _parts(uri)[0]
    return authority if protocol_of(uri) in ("abfs", "az") else authority.rpartition("@")[2]


def _parts(uri: str) -> tuple[str, str, str]:
    """Authority, path with its slash, and query with its question mark."""
    place, question, query = uri.partition("://")[2].partition("#")[0].partition("?")
    authority, slash, path = place.partition("/")
    return authority, f"{slash}{path}", f"{question}{query}"
