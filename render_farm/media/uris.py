"""Where an input comes from: its protocol, whether that is allowed, and how it is named in messages."""

from __future__ import annotations

import re

from render_farm.config import InputLimits
from render_farm.errors import InputError

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_ALIASES = {"local": "file", "s3a": "s3", "gcs": "gs", "abfss": "abfs"}
_SHOWN_CHARACTERS = 200


def protocol_of(uri: str) -> str:
    """What stands before the colon, lower-case and without synonyms; `file` for a plain path."""
    match = _PROTOCOL.match(uri)
    name = match.group(1).lower() if match else "file"
    return _ALIASES.get(name, name)


def check_protocol(uri: str, limits: InputLimits) -> str:
    """The protocol of `uri`. InputError when it is not allowed or the URI cannot be one."""
    if not uri.strip():
        raise InputError("an input's URI is empty", advice="give a path or a URI like s3://bucket/picture.png")
    protocol = protocol_of(uri)
    allowed = {_ALIASES.get(name.lower(), name.lower()) for name in limits.protocols}
    if protocol not in allowed:
        if protocol == "http" and "https" in allowed:
            raise refusal(uri, "plain http is not allowed: anyone on the way could change it", "use https")
        raise refusal(
            uri, f"inputs are not read from {protocol}:", f"allowed are {', '.join(sorted(allowed)) or 'none'}"
        )
    if protocol != "file" and "://" not in uri:
        raise refusal(uri, f"{protocol}: must be followed by //", f"write {protocol}://...")
    return protocol


def check_model_uri(name: str, limits: InputLimits) -> None:
    """InputError when `name`, a manifest's model, is a URI that models are not read from: of a protocol that inputs are
    not read from either, or of https, whose driver would follow a redirect to anywhere. Other names pass."""
    if "://" not in name:
        return
    protocol = protocol_of(name)
    allowed = {_ALIASES.get(given.lower(), given.lower()) for given in limits.protocols} - {"https", "http"}
    if protocol not in allowed:
        raise refusal(
            name,
            f"models are not read from {protocol}:",
            f"allowed are {', '.join(sorted(allowed))}; `render-farm models pull` brings a model there",
        )


def shown_uri(uri: str) -> str:
    """`uri` for messages: sign-in data and queries (signatures of presigned URLs) left out, and one printable line."""
    if protocol_of(uri) != "file":
        head, separator, rest = uri.partition("://")
        place, question, _ = rest.partition("#")[0].partition("?")
        authority, slash, path = place.partition("/")
        if protocol_of(uri) not in ("abfs", "az"):  # there, the part before the @ is the container
            authority = authority.rpartition("@")[2]
        # A port that is no number is most likely the beginning of a password with unescaped characters.
        wrong = not separator or re.search(r":(?!\d*$)(?![^\[]*\])", authority) is not None
        uri = f"{protocol_of(uri)}://..." if wrong else f"{head}://{authority}{slash}{path}{'?...' if question else ''}"
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in uri)
    if len(line) > _SHOWN_CHARACTERS:
        line = f"{line[: _SHOWN_CHARACTERS // 2]}...{line[-_SHOWN_CHARACTERS // 2 :]}"
    return line


def refusal(uri: str, problem: str, advice: str = "") -> InputError:
    """The error for an input that cannot be used: which, what is wrong, and what would work."""
    return InputError(f"{shown_uri(uri)}: {problem}", advice=advice)
