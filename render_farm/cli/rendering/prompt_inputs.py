"""The flags of `render --prompt` whose texts are read here, as columns of its one job."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from render_farm.errors import UsageError
from render_farm.number_text import read_number
from render_farm.uris import shown_uri


def input_columns(given: Mapping[str, Any]) -> dict[str, object]:
    """Of `given`, `image`, `last_image`, `video`, `loras` (texts, each `URI` or `URI=WEIGHT`) and the images of
    `shots`, with relative paths resolved: they are meant from the current folder, and workers run in others. And
    `step_list`, as numbers."""
    columns: dict[str, object] = {
        name: _resolved(given[name]) for name in ("image", "last_image", "video") if name in given
    }
    if "step_list" in given:
        columns["step_list"] = _numbers(given["step_list"])
    if isinstance(given.get("shots"), list):
        columns["shots"] = [_shot(item) for item in given["shots"]]
    return columns | ({"loras": [_lora(text) for text in given["loras"]]} if given.get("loras") else {})


def input_flags(columns: Mapping[str, Any]) -> dict[str, object]:
    """The same as flags again, by their parameters' names, for a command that is run elsewhere."""
    flags = {name: columns[name] for name in ("image", "last_image", "video") if name in columns}
    loras = [f"{lora['path']}={lora.get('weight', 1.0)}" for lora in columns.get("loras", ())]
    return flags | ({"loras": loras} if loras else {})


def _numbers(text: str) -> object:
    """`1000,750` and `[1000, 750]` as a list; another text as it is, which the column then refuses."""
    try:
        return [_number(part) for part in text.strip("[]").split(",")]
    except ValueError:
        return text


def _number(text: str) -> int | float:
    number = read_number(text)
    return int(text) if text.strip().lstrip("+-").isdigit() else number


def _shot(item: object) -> object:
    image = item.get("image") if isinstance(item, dict) else None
    return {**item, "image": _resolved(image)} if isinstance(item, dict) and isinstance(image, str) else item


def _lora(text: str) -> dict[str, object]:
    """A URI may hold `=` itself: only a number after the last one is a weight."""
    path, separator, written = text.rpartition("=")
    try:
        weight = float(written) if separator else None
    except ValueError:
        weight = None
    if weight is None:
        return {"path": _resolved(text)}
    if "_" in written or not math.isfinite(weight):
        raise UsageError(
            f"--lora {shown_uri(text)!r}: the weight {written!r} is not a finite number, written without _",
            advice=f"give one such as 0.8; if {written} is the end of the address, add =1",
        )
    return {"path": _resolved(path), "weight": weight}


def _resolved(value: str) -> str:
    from render_farm.manifest.files import resolve_uri

    if not value.strip():  # a variable of the shell that is not set
        raise UsageError("an input's address is empty", advice="give a path or a URI, or leave the flag out")
    return resolve_uri(str(Path.cwd() / "here"), value)
