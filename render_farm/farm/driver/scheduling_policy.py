"""The scheduler's policy and the limits of a cluster that grows, from the settings and the flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from render_farm.config import SchedulingSettings
from render_farm.errors import UsageError
from render_farm.farm.run.request import RunRequest
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.scaling import ScaleLimits

_Number = TypeVar("_Number", int, float)


def policy_of(settings: SchedulingSettings) -> SchedulingPolicy:
    """Raises `UsageError` for values that cannot work."""
    if settings.share_by not in ("owner", "none") and not settings.share_by.startswith("tag:"):
        raise UsageError(f"scheduling: share_by: {settings.share_by!r} is not owner, none or tag:NAME")
    if settings.aging_s < 0:
        raise UsageError(f"scheduling: aging_s: {settings.aging_s:g} is less than 0 (0: waiting is worth nothing)")
    return SchedulingPolicy(
        aging_s=settings.aging_s,
        shares=_by_name("shares", settings.shares, float),
        quotas=_by_name("quotas", settings.quotas, int),
    )


def scale_limits(request: RunRequest, address: str) -> ScaleLimits | None:
    """How far the cluster may grow. Raises `UsageError` for limits that cannot be kept."""
    price = request.settings.gpu_price_per_hour
    if request.max_gpus is None:
        if request.max_cost is not None:
            raise UsageError("--max-cost is for a cluster that grows", advice="give --max-gpus too")
        return None
    if address == "local":
        raise UsageError(
            "--max-gpus: a private Ray does not grow", advice="give the --address of a cluster with an autoscaler"
        )
    if request.max_cost is not None and not price:
        raise UsageError(
            "--max-cost: the price of a GPU is unknown",
            advice="set gpu_price_per_hour in the settings file, or RENDER_FARM_GPU_PRICE_PER_HOUR",
        )
    return ScaleLimits(
        max_workers=request.max_gpus,
        max_cost=request.max_cost,
        price_per_hour=price,
        gpus_per_node=request.settings.group.gpus_per_node,
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
