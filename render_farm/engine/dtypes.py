"""The names of dtypes, without torch."""

from __future__ import annotations

from render_farm.errors import UsageError

DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
"""By every name that is understood, the one that torch has."""


def canonical_dtype(name: str | None, device_type: str) -> str:
    """`auto` or None is bfloat16 on `cuda` and float32 on the CPU. Raises `UsageError` for a name that is unknown."""
    if name is None or name == "auto":
        return "bfloat16" if device_type == "cuda" else "float32"
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r} is not one of auto, float32, bfloat16, float16")
    return DTYPES[name]
