"""`[inputs]`: what an input image, video or LoRA of a job may be, and where it may come from."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import ClassVar
from urllib.parse import urlsplit

from render_farm.config import Table, setting
from render_farm.uris import canonical, holds_secret, read_address, shown_uri

_POSITIVE = {"ge": 1}
_PIXELS = {"ge": 1, "le": 2**31 - 1}
"""FFmpeg takes no larger limit, and the memory for so many pixels can be asked for."""
_SECONDS = {"gt": 0, "le": 365 * 24 * 3600}


def _canonical_place(text: str) -> str:
    """An entry of `allowed_places`. ValueError for one that cannot mean what it seems to."""
    if text.endswith("://"):
        return text.lower()
    address = read_address(text)
    if holds_secret(text) or ("@" in address.place.partition("/")[0] and address.protocol in ("http", "https")):
        raise ValueError("a place holds no sign-in data and no query; write the address alone")
    if address.is_local and not address.place.startswith("/"):
        raise ValueError(f"{text}: write the whole path of a folder, or a URI such as s3://bucket/folder")
    return address.text


def _canonical_root(text: str) -> str:
    """An entry of `allowed_roots`. ValueError for what is not a whole path."""
    address = read_address(text)
    if not address.is_local or not address.place.startswith("/"):
        raise ValueError(f"{shown_uri(text)}: write the whole path of a folder on this machine, such as /data/inputs")
    return address.text


def _canonical_protocol(text: str) -> str:
    """An entry of `protocols`. ValueError for one that no address can have."""
    from fsspec import available_protocols

    if canonical(text) not in available_protocols():
        raise ValueError(f"{text!r} is no known protocol; write what stands before ://, such as s3 or https")
    return canonical(text)


def _canonical_host(text: str) -> str:
    """An entry of `trusted_hosts`, as it is compared. ValueError for one that no server can match."""
    with suppress(ValueError):
        return str(ip_address(text.strip("[]")))
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0 or parts.netloc != text or text.endswith(":") or re.search(r"[\s@*]", text):
        raise ValueError(f"{shown_uri(text)!r} is not the name of a host; write it as name or name:port, with no more")
    return host if port is None else f"{host}:{port}"


@dataclass(frozen=True, kw_only=True)
class InputLimits(Table):
    """Limits on the inputs of a job. Manifests are not trusted."""

    variables: ClassVar[str] = "RENDER_FARM_INPUT_"

    max_image_bytes: int = setting(
        64 << 20,
        "Size of an image's file. It is counted while it arrives, whatever the server says.",
        unit="bytes",
        limits=_POSITIVE,
    )
    max_video_bytes: int = setting(4 << 30, "Size of a video's file.", unit="bytes", limits=_POSITIVE)
    max_lora_bytes: int = setting(4 << 30, "Size of a LoRA's file.", unit="bytes", limits=_POSITIVE)
    max_lora_header_bytes: int = setting(
        8 << 20,
        "Size of the header of a LoRA's file. Reading it takes about ten times as much memory.",
        unit="bytes",
        limits=_POSITIVE,
    )
    max_image_pixels: int = setting(
        89_478_485,
        "Width x height of an image (the default is Pillow's own threshold). A larger one is refused before decoding.",
        unit="pixels",
        limits=_PIXELS,
    )
    max_frame_pixels: int = setting(8192 * 4320, "Width x height of a video's frames.", unit="pixels", limits=_PIXELS)
    fetch_timeout_s: float = setting(
        600.0, "Longest time that getting one input may take, retries included.", unit="seconds", limits=_SECONDS
    )
    silence_timeout_s: float = setting(
        30.0, "Longest silence of an https server, and longest wait for a connection.", unit="seconds", limits=_SECONDS
    )
    decode_timeout_s: float = setting(
        1800.0, "Longest time that decoding one video may take.", unit="seconds", limits=_SECONDS
    )
    image_timeout_s: float = setting(
        30.0, "Longest time that decoding one image may take.", unit="seconds", limits=_SECONDS
    )
    protocols: tuple[str, ...] = setting(
        ("file", "s3", "gs", "az", "abfs", "https", "memory"),
        "What may stand before `://`. `file` also allows plain paths.",
        canonical=_canonical_protocol,
    )
    allowed_places: tuple[str, ...] | None = setting(
        None,
        "Places that inputs, LoRAs and models of a manifest must lie in: URIs such as `s3://bucket/folder` and "
        "`https://host/folder` with all that is below them, folders of this machine, and protocols such as `https://`. "
        "Unset allows all that `protocols` and `allowed_roots` allow. Set it when you render other people's manifests.",
        canonical=_canonical_place,
    )
    allow_hub: bool = setting(
        True, "Whether a row's `model` may be one that comes from the Hugging Face hub. Presets but `tiny` do."
    )
    max_model_bytes: int = setting(
        256 << 30, "Size of a model's files that are copied from a URI or the hub.", unit="bytes", limits=_POSITIVE
    )
    allowed_roots: tuple[str, ...] | None = setting(
        None,
        "Folders that local inputs and models of a manifest must lie in, links followed. Unset allows every file that "
        "the farm's user can read. Set it when you render other people's manifests. An empty list allows no local "
        "files.",
        canonical=_canonical_root,
    )
    trusted_hosts: tuple[str, ...] = setting(
        (),
        "Your own https servers, as `name` or `name:port`, that may have private or loopback addresses. Inputs come "
        "from no other such address. Link-local addresses (the cloud's metadata service) are never allowed.",
        canonical=_canonical_host,
    )
    ca_file: str | None = setting(
        None, "PEM file with certificates to trust besides the system's, for servers with a private authority."
    )
    max_redirects: int = setting(
        5,
        "How many redirects of an https server are followed. Each is checked like the first address.",
        limits={"ge": 0},
    )
    num_tries: int = setting(
        3, "How often an https request is tried when it fails for a reason that may pass.", limits=_POSITIVE
    )


@dataclass(frozen=True, kw_only=True)
class InputSettings(Table):
    """The part of the settings that rendering without a farm reads."""

    variables: ClassVar[str] = "RENDER_FARM_"

    inputs: InputLimits = field(default_factory=InputLimits)
