"""Farm settings: a TOML file, then `RENDER_FARM_*` variables, then flags; read once into frozen dataclasses."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from render_farm.errors import UsageError

NAMESPACE = "render_farm"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds. Tests shorten them."""

    hang_floor_s: float = 60.0
    """A group that reports no step for max(this, 10 x its usual step) is ended."""
    first_step_floor_s: float = 600.0
    """The same for the first step of a segment, which may compile or load."""
    lease_s: float = 30.0
    """A run's holder counts as gone after this long without a renewal."""
    worker_start_s: float = 600.0
    """A worker that has not answered by then is started anew."""
    cluster_patience_s: float = 600.0
    """How long the cluster's faults (storage, network) in a row are waited out before a job fails of them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a farm needs to know that is not in a manifest."""

    output: str | None = None
    """Where runs go when neither a flag nor the run's URI says so."""
    model: str = "tiny"
    """The model of rows whose `model` is null."""
    model_cache: str = field(default_factory=lambda: str(Path.home() / ".cache" / "render_farm" / "models"))
    """Local folder for models that come from a URI."""
    dtype: str = "auto"
    """`auto` is bfloat16 on CUDA and float32 on the CPU."""
    attempts: int = 3
    """How often a segment is tried before its job fails; only the worker's faults count."""
    max_failed: str | None = None
    """A run stops when more jobs than this (`N` or `P%`) have failed; unset means never."""
    timeouts: Timeouts = field(default_factory=Timeouts)


def load_settings(*, file: str | None = None, environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Settings from `file` (TOML; also `$RENDER_FARM_CONFIG`), `RENDER_FARM_<FIELD>` variables and `flags`.

    Later sources win; flags that are None are ignored. Raises `UsageError` for an unreadable file or unknown key.
    """
    environment = os.environ if environment is None else environment
    settings = Settings()
    path = file or environment.get("RENDER_FARM_CONFIG")
    if path:
        settings = _apply(settings, _read_toml(path), source=path)
    from_environment: dict[str, Any] = {
        name: environment[f"RENDER_FARM_{name.upper()}"]
        for name in (f.name for f in fields(Settings) if f.name != "timeouts")
        if environment.get(f"RENDER_FARM_{name.upper()}")
    }
    timeouts = {
        f.name: environment[f"RENDER_FARM_{f.name.upper()}"]
        for f in fields(Timeouts)
        if environment.get(f"RENDER_FARM_{f.name.upper()}")
    }
    if timeouts:
        from_environment["timeouts"] = timeouts
    settings = _apply(settings, from_environment, source="the environment")
    return _apply(settings, {key: value for key, value in flags.items() if value is not None}, source="flags")


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as handle:
            return tomllib.load(handle)
    except OSError as error:
        raise UsageError(f"settings file {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"settings file {path} is not TOML: {error}") from error


def _apply(settings: Settings, values: Mapping[str, Any], *, source: str) -> Settings:
    known = {f.name for f in fields(Settings)}
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{source}: unknown setting {key!r}; known: {', '.join(sorted(known))}")
        if key == "timeouts":
            changes[key] = _apply_timeouts(settings.timeouts, value, source=source)
        elif key == "attempts":
            changes[key] = _number(int, key, value, source)
        else:
            changes[key] = value
    return replace(settings, **changes)


def _apply_timeouts(timeouts: Timeouts, values: Mapping[str, Any], *, source: str) -> Timeouts:
    known = {f.name for f in fields(Timeouts)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"{source}: unknown time-out {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return replace(timeouts, **{key: _number(float, key, value, source) for key, value in values.items()})


def _number(kind: type, key: str, value: Any, source: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UsageError(f"{source}: {key}: {value!r} is not a number") from None
