"""Where inputs, LoRAs and models of a manifest may come from: `protocols`, `allowed_places`, `allowed_roots` and
`allow_hub`.

Addresses are compared part by part, so `s3://a/in` allows `s3://a/in/x.png` and not `s3://a/in-private/x.png`. What
could name another place than it seems to is refused: `..`, empty parts, and slashes that are written as %2F.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from render_farm.media.fetching.uris import read_input_address, refusal
from render_farm.media.limits import InputLimits
from render_farm.models import HUB_ID, PRESETS
from render_farm.uris import Address, canonical, read_address

_PORTS = {"https": 443, "http": 80}
_SHOWN_PLACES = 5


@dataclass(frozen=True, kw_only=True)
class _Place:
    """An address in parts. A rule without `parts` is a protocol alone."""

    protocol: str
    parts: tuple[str, ...] = ()
    """The bucket, or host and port, then the folders."""

    def holds(self, other: _Place) -> bool:
        return self.protocol == other.protocol and other.parts[: len(self.parts)] == self.parts


def check_place(uri: str, limits: InputLimits) -> str:
    """The protocol of `uri`. InputError when it is not allowed, the URI cannot be one, or it is in no allowed place.
    Local files are checked when they are opened."""
    address = read_input_address(uri)
    allowed = {canonical(name) for name in limits.protocols}
    if address.protocol not in allowed:
        if address.protocol == "http" and "https" in allowed:
            raise refusal(uri, "plain http is not allowed: anyone on the way could change it", "use https")
        raise refusal(
            uri, f"inputs are not read from {address.protocol}:", f"allowed are {', '.join(sorted(allowed)) or 'none'}"
        )
    if not address.is_local:
        _check_remote(uri, address, limits)
    return address.protocol


def check_model_uri(name: str, limits: InputLimits) -> None:
    """InputError when `name`, a manifest's model, is one that models are not read from: a URI of a protocol that inputs
    are not read from either, or of https, whose driver would follow a redirect to anywhere; a URI or folder outside of
    the allowed places; or a repository of the hub without `allow_hub`. Other names pass."""
    if not name:
        return
    if name in PRESETS:
        if PRESETS[name].hub_id:
            _check_hub(name, limits)
        return
    address = read_input_address(name)
    if not address.is_local:
        allowed = {canonical(given) for given in limits.protocols} - {"https", "http"}
        if address.protocol not in allowed:
            raise refusal(
                name,
                f"models are not read from {address.protocol}:",
                f"allowed are {', '.join(sorted(allowed))}; `render-farm models pull` brings a model there",
            )
        _check_remote(name, address, limits)
    elif _is_path(name) or os.path.isdir(address.place):  # noqa: PTH112
        if has_local_rules(limits):
            folder = Path(address.place)
            check_local(name, folder, limits)
            for path in (*folder.glob("*"), *folder.glob("*/*")):  # its files may be links, too
                check_local(name, path, limits)
    elif HUB_ID.fullmatch(name):
        _check_hub(name, limits)


def _check_hub(name: str, limits: InputLimits) -> None:
    if not limits.allow_hub:
        raise refusal(
            name,
            "models are not read from the Hugging Face hub (allow_hub)",
            "`render-farm models pull` brings it to a folder or URI, which a row may name",
        )


def _is_path(name: str) -> bool:
    """Whether a model's name can only be that of a folder."""
    return name.lower().startswith(("/", "~", ".", "file:", "local:")) or name.count("/") > 1


def _check_remote(uri: str, address: Address, limits: InputLimits) -> None:
    """InputError when `address`, which is not local, is in none of `allowed_places`."""
    if limits.allowed_places is None:
        return
    place = _place_of(address)
    if place is None:
        raise refusal(uri, "its path holds '..', an empty part or an escaped slash", "write the path itself")
    if not any(rule.holds(place) for rule in map(_rule, limits.allowed_places) if rule):
        raise refusal(
            uri,
            "nothing is read from there (allowed_places)",
            _advice(limits.allowed_places) or "the settings allow no place",
        )


def check_local(uri: str, path: str | os.PathLike[str], limits: InputLimits) -> None:
    """InputError when `path`, links followed, is not in the allowed folders. The same answer whether the file exists or
    not: nothing is told about what lies outside."""
    real = Path(os.path.realpath(path))
    for places in (limits.allowed_roots, limits.allowed_places):
        if places is None:
            continue
        folders = [os.path.realpath(os.path.expanduser(place)) for place in _local(places)]  # noqa: PTH111
        if not any(real.is_relative_to(folder) for folder in folders):
            raise refusal(
                uri, "local files from there are not allowed", _advice(places) or "put it on your object store"
            )


def has_local_rules(limits: InputLimits) -> bool:
    """Whether not every local file is allowed."""
    return limits.allowed_roots is not None or limits.allowed_places is not None


def _advice(places: tuple[str, ...]) -> str:
    if not places:
        return ""
    more = f" (and {len(places) - _SHOWN_PLACES} more)" if len(places) > _SHOWN_PLACES else ""
    return f"put it in {' or '.join(places[:_SHOWN_PLACES])}{more}"


def _local(places: tuple[str, ...]) -> list[str]:
    addresses = [read_address(place) for place in places if not place.endswith("://")]
    return [address.place for address in addresses if address.is_local]


@lru_cache(maxsize=256)
def _rule(text: str) -> _Place | None:
    """None for a folder of this machine."""
    if text.endswith("://"):
        return _Place(protocol=canonical(text.removesuffix("://")))
    address = read_address(text)
    return None if address.is_local else _place_of(address)


def _place_of(address: Address) -> _Place | None:
    """None when its path could be read in several ways."""
    if address.protocol in _PORTS:
        try:
            found = urlsplit(address.text)
            host, port = (found.hostname or "").rstrip(".").encode("idna").decode(), found.port
        except (ValueError, UnicodeError):
            return None
        host, path = f"{host}:{_PORTS[address.protocol] if port is None else port}", found.path
    else:
        host, slash, path = address.place.partition("/")
        path = slash + path
    parts = path.strip("/").split("/") if path.strip("/") else []
    if path.startswith("//") or path.endswith("//") or any(map(_is_ambiguous, parts)):
        return None
    decoded = [unquote(part) for part in parts] if address.protocol in _PORTS else parts
    return _Place(protocol=address.protocol, parts=(host, *decoded))


def _is_ambiguous(part: str) -> bool:
    """Whether a server may take it for another folder. Some decode twice, and some drop what stands after a `;`."""
    while (decoded := unquote(part)) != part:
        part = decoded
    return part.partition(";")[0].strip() in ("", ".", "..") or "/" in part or "\\" in part
