"""A film as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Mapping

from render_farm.farm.run.memory_steps import memory_modes
from render_farm.farm.run.spec import FilmEntry
from render_farm.planning.seconds import cost_class, segments_seconds
from render_farm.scheduling.events import QueuedFilm


def scheduled(run_id: str, entry: FilmEntry, device: str, *, clock_ahead_s: float) -> QueuedFilm:
    """`clock_ahead_s`: the machine's clock less Unix time."""
    plan = entry.task.plan
    return QueuedFilm(
        run_id=run_id,
        job_id=entry.task.job_id,
        num_segments=plan.num_segments,
        segments_done=entry.segments_done,
        model=entry.task.model,
        adapters=plan.job.adapters,
        priority=entry.priority,
        deadline_s=None if entry.deadline_s is None else entry.deadline_s + clock_ahead_s,
        share=entry.share,
        group_size=entry.group.size,
        joined_sizes=tuple(shape.size for shape in entry.joined),
        joined_speeds=entry.joined_speeds,
        segments_s=segments_seconds(plan, entry.costs, device),
        cost_class=cost_class(plan),
        segment_keys=entry.segment_keys,
        num_memory_modes=len(memory_modes(plan, device, in_groups=entry.in_groups)),
    )


def share_of(share_by: str, owner: str | None, tags: Mapping[str, str] | None) -> str:
    """Whose share of the farm a job uses: by `owner`, or by the tag that `share_by` names as `tag:NAME`."""
    if share_by.startswith("tag:"):
        return (tags or {}).get(share_by.removeprefix("tag:"), "")
    return (owner or "") if share_by == "owner" else ""
