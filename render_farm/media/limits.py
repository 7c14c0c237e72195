"""`[inputs]`: what an input image, video or LoRA of a job may be, and where it may come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from render_farm.config import Table, setting
from render_farm.uris import holds_secret, read_address

_POSITIVE = {"ge": 1}
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
        limits=_POSITIVE,
    )
    max_frame_pixels: int = setting(8192 * 4320, "Width x height of a video's frames.", unit="pixels", limits=_POSITIVE)
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
    )
    trusted_hosts: tuple[str, ...] = setting(
        (),
        "Your own https servers, as `name` or `name:port`, that may have private or loopback addresses. Inputs come "
        "from no other such address. Link-local addresses (the cloud's metadata service) are never allowed.",
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
