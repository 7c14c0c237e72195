"""How far a cluster may grow, from the settings and the flags."""

from __future__ import annotations

from render_farm.errors import UsageError
from render_farm.farm.run.request import RunRequest
from render_farm.scheduling.scaling import ScaleLimits


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
