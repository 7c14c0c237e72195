"""Where an input comes from: its protocol, and whether that is allowed."""

from __future__ import annotations

import os
from pathlib import Path

from render_farm.errors import InputError
from render_farm.media.limits import InputLimits
from render_farm.models import PRESETS
from render_farm.uris import Address, AddressError, canonical, read_address, shown_uri


def check_protocol(uri: str, limits: InputLimits) -> str:
    """The protocol of `uri`. InputError when it is not allowed or the URI cannot be one."""
    protocol = read_input_address(uri).protocol
    allowed = {canonical(name) for name in limits.protocols}
    if protocol not in allowed:
        if protocol == "http" and "https" in allowed:
            raise refusal(uri, "plain http is not allowed: anyone on the way could change it", "use https")
        raise refusal(
            uri, f"inputs are not read from {protocol}:", f"allowed are {', '.join(sorted(allowed)) or 'none'}"
        )
    return protocol


def read_input_address(uri: str) -> Address:
    """Where an input is. InputError when the address cannot be used."""
    try:
        return read_address(uri)
    except AddressError as error:
        raise InputError(error.problem, advice=error.advice) from None


def check_model_uri(name: str, limits: InputLimits) -> None:
    """InputError when `name`, a manifest's model, is a URI that models are not read from: of a protocol that inputs are
    not read from either, or of https, whose driver would follow a redirect to anywhere; or a folder outside of
    `allowed_roots`. Presets, hub ids and other names pass."""
    if not name or name in PRESETS:
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
    elif _is_path(name) or os.path.isdir(address.place):  # noqa: PTH112
        check_roots(name, address.place, allowed_roots(limits))


def _is_path(name: str) -> bool:
    """Whether a model's name can only be that of a folder."""
    return name.lower().startswith(("/", "~", ".", "file:", "local:")) or name.count("/") > 1


def allowed_roots(limits: InputLimits) -> list[str] | None:
    """Where local files may be, links followed; None: anywhere."""
    roots = limits.allowed_roots
    return None if roots is None else [os.path.realpath(os.path.expanduser(root)) for root in roots]  # noqa: PTH111


def check_roots(uri: str, path: str, roots: list[str] | None) -> None:
    """InputError when `path` is in none of `roots`. The same answer whether the file exists or not: nothing is told
    about what lies outside."""
    if roots is None or any(Path(os.path.realpath(path)).is_relative_to(root) for root in roots):
        return
    places = f"put it in {' or '.join(roots)}" if roots else "put it on your object store"
    raise refusal(uri, "local files from there are not allowed", places)


def refusal(uri: str, problem: str, advice: str = "") -> InputError:
    """The error for an input that cannot be used: which, what is wrong, and what would work."""
    return InputError(f"{shown_uri(uri)}: {problem}", advice=advice)
