"""The scheduler's policy from the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from render_farm.config import SchedulingSettings
from render_farm.errors import UsageError
from render_farm.scheduling.policy import SchedulingPolicy

_Number = TypeVar("_Number", int, float)


def policy_of(settings: SchedulingSettings) -> SchedulingPolicy:
    """Raises `UsageError` for what cannot work."""
    if settings.share_by not in ("owner", "none") and not settings.share_by.startswith("tag:"):
        raise UsageError(f"scheduling: share_by: {settings.share_by!r} is not owner, none or tag:NAME")
    if settings.aging_s < 0:
        raise UsageError(f"scheduling: aging_s: {settings.aging_s:g} is less than 0 (0: waiting is worth nothing)")
    return SchedulingPolicy(
        aging_s=settings.aging_s,
        shares=_by_name("shares", settings.shares, float),
        quotas=_by_name("quotas", settings.quotas, int),
    )


def _by_name(field: str, entries: tuple[str, ...], number: Callable[[str], _Number]) -> dict[str, _Number]:
    found = {}
    for entry in entries:
        name, equals, value = entry.rpartition("=")
        try:
            found[name] = number(value)
        except ValueError:
            equals = ""
        if not equals or not found[name] > 0:
            raise UsageError(f"scheduling: {field}: {entry!r} is not NAME=NUMBER with a number above 0")
    return found
