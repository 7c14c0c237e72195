"""Whether a window keeps the keys and values of its finished blocks, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from render_farm.engine.transformer.group import RenderGroup
from render_farm.engine.transformer.kv_cache import cache_bytes
from render_farm.planning import FilmPlan

_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """The decision for one window."""

    keeps: bool
    reason: str
    num_frames: int
    """Latent frames that are final before the window ends; 0 when none is."""
    needed_bytes: int
    """The memory for their keys and values: all layers and guidance branches of one rank together."""
    budget_bytes: int
    """The memory available for it next to the model."""

    def to_dict(self) -> dict[str, Any]:
        """For `job.json`."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.num_frames:
            return f"kv_cache: off, {self.reason}"
        sizes = f"{self.needed_bytes / _GIGABYTE:.3g} GB of keys and values, {self.budget_bytes / _GIGABYTE:.3g} GB"
        return f"kv_cache: {'on' if self.keeps else 'off, blocks are recomputed'}, {self.reason} ({sizes} to spare)"


def plan_cache(
    plan: FilmPlan,
    segment: int,
    *,
    asked: str,
    budget_bytes: int,
    transformer: Mapping[str, Any],
    bytes_per_element: int,
    group: RenderGroup,
) -> CachePlan:
    """One rank's decision for a segment; `asked` is `auto`, `on` or `off`, `transformer` the model's configuration.

    Nothing can be kept without causal blocks, and nothing where the prefix is noised again at every step.
    """
    schedule = plan.schedule(segment)
    num_frames = schedule.indices[-1].count(schedule.num_inference_steps + 1) * schedule.block_size
    reason = ""
    if not schedule.is_causal or not num_frames:
        reason = "no block is final before the others"
    elif plan.prefix_changes(segment):
        reason = "the prefix is noised again at every step"
    num_frames = 0 if reason else num_frames
    branches = range(2 if plan.job.guided else 1)[group.own_branches(2 if plan.job.guided else 1)]
    needed = cache_bytes(
        num_tokens=num_frames * plan.tokens_per_frame,
        num_layers=transformer["num_layers"],
        num_branches=len(branches),
        num_heads=transformer["num_attention_heads"],
        head_dim=transformer["attention_head_dim"],
        bytes_per_element=bytes_per_element,
    )
    needed //= group.head_shares
    fits = needed <= budget_bytes
    if not reason:
        reason = ("it fits" if fits else "it does not fit") if asked == "auto" else "as asked"
    return CachePlan(
        keeps=num_frames > 0 and (asked == "on" or (asked == "auto" and fits)),
        reason=reason,
        num_frames=num_frames,
        needed_bytes=needed if num_frames else 0,
        budget_bytes=budget_bytes,
    )
