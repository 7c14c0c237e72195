"""Addresses: the one reader of everything that names a file, a folder or an object, and how it is shown in messages.

Manifests, inputs, LoRAs, models, outputs and settings all read an address here, so that a spelling is understood
everywhere or refused everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_COLON = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?!:)")
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]+:[:/])")
_INSIDE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)\s*(://[^\s'\"<>]+)")
_NO_COLON = re.compile(r"(s3|gs|gcs|az|abfs|https?)//", re.IGNORECASE)
_WINDOWS = re.compile(r"[A-Za-z]:\\|\\\\")
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})")
_OF_NIGHT = re.compile(r"\{(?:date|year|month|day)\}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_ALIASES = {"local": "file", "s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs"}
_REMOTE = frozenset(
    (
        "s3",
        "gs",
        "az",
        "abfs",
        "adl",
        "http",
        "https",
        "memory",
        "hdfs",
        "sftp",
        "ssh",
        "ftp",
        "smb",
        "github",
        "hf",
        "data",
    )
)
"""Protocols that need `//`: in `s3:bucket/a` somebody forgot them. Other names before a colon are part of a path."""
_SHOWN_CHARACTERS = 200
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


class AddressError(ValueError):
    """An address that cannot be used. `problem` says why, with the address, and `advice` what would work."""

    def __init__(self, text: str, problem: str, advice: str) -> None:
        super().__init__(f"{shown_uri(text)}: {problem}" if text else problem)
        self.problem = str(self)
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where something is."""

    protocol: str
    """Lower case, without synonyms. `file` for what lies on a disk of this machine."""
    place: str
    """A path of this machine, the user's folder put in for `~`; else what stands after `://`."""

    @property
    def is_local(self) -> bool:
        return self.protocol == "file"

    @property
    def text(self) -> str:
        """The address as every library reads it: a path, or `protocol://place`."""
        return self.place if self.is_local else f"{self.protocol}://{self.place}"


def read_address(text: str, environment: Mapping[str, str] | None = None) -> Address:
    """What `text` names. AddressError for a spelling that some library would read as another place.

    Local: a path, `file:/path`, `file:///path` or `file://localhost/path`. Characters such as `#`, `?` and `::` are
    part of a path. Else `protocol://...`. For S3, the endpoint in `environment` (None: this process's) is checked too.
    """
    if not text.strip():
        raise AddressError(text, "the address is empty", "give a path, or a URI such as s3://bucket/folder")
    if any(character < " " or character == "\x7f" for character in text):
        raise AddressError(text, "it holds a control character", "check the address for line breaks and zero bytes")
    if _CHAIN.search(text):
        raise AddressError(
            text, "chained addresses (with ::) are not allowed", "give the address of the file or folder itself"
        )
    _check_placeholders(text)
    found = _PROTOCOL.match(text)
    if found is None:
        _check_path(text)
        found = _COLON.match(text)
        protocol = canonical(found[1]) if found else ""
        if protocol == "data":
            raise AddressError(text[:40], "addresses that hold the data itself are not read", "save it as a file")
        if found and protocol in _REMOTE:
            raise AddressError(text, f"{protocol}: must be followed by //", f"write {protocol}://...")
        if found and protocol != "file" and text[found.end() :].startswith("/"):
            raise AddressError(text, f"{protocol}: is no known protocol", f"if it is a folder's name, write ./{text}")
        path = text[found.end() :] if found and protocol == "file" else text
        return Address(protocol="file", place=_expanded(text, path))
    protocol, place = canonical(found[1]), text[found.end() :]
    if protocol == "file":
        return Address(protocol="file", place=_path_of_uri(text, place))
    if protocol == "s3":
        check_s3_endpoint(os.environ if environment is None else environment)
    # fsspec would open what stands behind ::, with any protocol. An IPv6 address has one, too, and needs no fsspec.
    if "::" in place and protocol not in ("https", "http"):
        raise AddressError(text, "names with :: are read as chained addresses by fsspec", "rename the object")
    if not place.strip("/") or (place.startswith("/") and protocol in ("s3", "gs", "https", "http")):
        raise AddressError(text, "no bucket or host is named", f"write {protocol}://bucket/folder")
    return Address(protocol=protocol, place=place)


def _check_placeholders(text: str) -> None:
    """AddressError for what only a shell or `nightly` fills in: taken as written, films would go to a folder of that
    name."""
    if found := _OF_NIGHT.search(text):
        raise AddressError(
            text, f"it holds {found[0]}, which only `render-farm nightly` fills in", "write the date itself"
        )
    found = _VARIABLE.search(text)
    if found and not os.path.lexists(text[: (text + "/").index("/", found.end())]):
        name = found[0]
        raise AddressError(
            text,
            f"it holds the variable {name}, which only a shell fills in",
            f"write its value, or make the folder first if it is called {name}",
        )


def _check_path(text: str) -> None:
    """AddressError for a path that is an address with something before or within its protocol."""
    if "://" in text:
        inside = _INSIDE.search(text)
        advice = f"did you mean {shown_uri(inside[1] + inside[2])}?" if inside else "remove ://, or what is before it"
        raise AddressError(text, "a path with :// in it", advice)
    if found := _NO_COLON.match(text):
        raise AddressError(text, "a colon is missing", f"did you mean {found[1]}://{text[found.end() :]}?")
    if _WINDOWS.match(text):
        raise AddressError(text, "a path of Windows", "give the path on this machine, such as /mnt/c/films")


def _path_of_uri(text: str, place: str) -> str:
    """The path of `file://` + `place`. A host there is almost always a folder whose slash was forgotten."""
    host, slash, _ = place.partition("/")
    path = place[len(host) :]
    if host and host.lower() != "localhost":
        advice = f"did you mean {host}{path}?" if host in (".", "..") or host.startswith("~") else ""
        raise AddressError(text, f"a file URI with the host {host!r}", advice or f"did you mean file:///{host}{path}?")
    if not slash:
        raise AddressError(text, "no folder or file is named", "write file:///folder")
    if _ESCAPE.search(path):
        raise AddressError(
            text,
            "percent signs in a file URI can be read in two ways",
            f"write the path itself: {unquote(path)}, or {path} if that is its name",
        )
    return path


def _expanded(text: str, path: str) -> str:
    """`path` with the user's folder put in."""
    if not path.strip():
        raise AddressError(text, "no folder or file is named", "give its path")
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)  # noqa: PTH111
    if expanded.startswith("~") and not os.path.exists(path):  # noqa: PTH110  (no error for a name that is too long)
        user = path.partition("/")[0]
        raise AddressError(text, f"there is no user {user[1:]!r}, or it has no folder", "write the path without ~")
    return expanded


def relative_path(text: str) -> str | None:
    """The path that `read_address` finds in `text`, when it is meant from some folder. None for other addresses, and
    for one that cannot be read, so that `read_address` sees it as it was written."""
    found = _COLON.match(text)
    protocol = canonical(found[1]) if found else ""
    path = text[found.end() :] if found and protocol == "file" else text
    if protocol in _REMOTE or (found and path is text and text[found.end() :].startswith("/")):
        return None
    try:
        _check_path(text)
        if path.startswith(("~", "$")):
            path = read_address(text).place
    except AddressError:
        return None
    return path if path.strip() and not path.startswith("/") else None


def check_s3_endpoint(environment: Mapping[str, str]) -> None:
    """AddressError when the S3 endpoint that botocore will use is none, or holds sign-in data: libraries put the
    endpoint into their messages. The value itself is never shown then."""
    name = next((name for name in S3_ENDPOINTS if environment.get(name)), None)
    if name is None:
        return
    try:
        parts = urlsplit(environment[name])
        bad_port = parts.port is not None and not parts.port
    except ValueError:
        parts, bad_port = None, True
    if parts is not None and parts.username is not None:
        raise AddressError(
            name, "it holds sign-in data", "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the address alone"
        )
    if parts is None or bad_port or parts.scheme not in ("http", "https") or not parts.hostname:
        raise AddressError(name, "it is not an http or https address", "write https://host or http://host:port")


def canonical(protocol: str) -> str:
    """A protocol's name in lower case and without synonyms."""
    name = protocol.lower()
    return _ALIASES.get(name, name)


def protocol_of(uri: str) -> str:
    """What stands before the colon, lower-case and without synonyms; `file` for a plain path. For messages only:
    `read_address` decides what an address means."""
    match = _COLON.match(uri)
    protocol = canonical(match.group(1)) if match else "file"
    return protocol if match and (protocol in _REMOTE or _PROTOCOL.match(uri)) else "file"


def shown_uri(uri: str) -> str:
    """`uri` for messages: sign-in data and queries (signatures of presigned URLs) left out, and one printable line."""
    uri = "::".join(_without_secrets(part) for part in _CHAIN.split(uri))
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in uri)
    if len(line) > _SHOWN_CHARACTERS:
        line = f"{line[: _SHOWN_CHARACTERS // 2]}...{line[-_SHOWN_CHARACTERS // 2 :]}"
    return line


def without_query(uri: str) -> str:
    """`uri` without the query and the fragment of an http or https address, where signatures are. Elsewhere `?` and
    `#` are part of a name."""
    return re.split("[?#]", uri, maxsplit=1)[0] if protocol_of(uri) in ("http", "https") else uri


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
    the beginning of a password with unescaped characters. S3's access points are named by an `arn:` with colons."""
    if "://" not in uri:
        return any(character in uri for character in "@?")
    if protocol_of(uri) == "s3" and _host(uri).startswith("arn:"):
        return False
    return re.search(r":(?!\d*$)(?![^\[]*\])", _host(uri)) is not None


def _host(uri: str) -> str:
    """Host and port, or the container and its account."""
    authority = _parts(uri)[0]
    return authority if protocol_of(uri) in ("abfs", "az") else authority.rpartition("@")[2]


def _parts(uri: str) -> tuple[str, str, str]:
    """Authority, path with its slash, and query with its question mark."""
    place = uri.partition("://")[2]
    if protocol_of(uri) in ("http", "https"):  # elsewhere a # is a part of a name
        place = place.partition("#")[0]
    place, question, query = place.partition("?")
    authority, slash, path = place.partition("/")
    return authority, f"{slash}{path}", f"{question}{query}"
