"""Which latent frames each denoising step of a segment computes, and which it reads from the key/value cache.

The same rules as the engine's loop (`engine.denoising.window`): with causal blocks, blocks that have not started are
skipped. Finished blocks are computed once again, to be cached, as soon as nothing before them changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from render_farm.planning.film import FilmPlan


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Latent frames [start, stop) of a window are computed; those before come from the cache."""

    start: int
    stop: int

    @property
    def num_frames(self) -> int:
        return self.stop - self.start

    @property
    def num_cached_frames(self) -> int:
        return self.start


def num_cacheable_frames(plan: FilmPlan, segment: int) -> int:
    """Latent frames whose keys and values are final before the segment ends: 0 without causal blocks, or when noise is
    added to the prefix again at every step."""
    job, schedule = plan.job, plan.schedule(segment)
    changes = plan.windows[segment].num_prefix_frames and job.addnoise_condition > 0 and job.prefix_noise == "per_step"
    if changes or not schedule.is_causal:
        return 0
    return schedule.indices[-1].count(schedule.num_inference_steps + 1) * schedule.block_size


def passes(plan: FilmPlan, segment: int, *, with_cache: bool = True) -> Iterator[Pass]:
    """The passes of a segment, in order; `with_cache` if finished blocks may be cached at all."""
    window, schedule = plan.windows[segment], plan.schedule(segment)
    if not schedule.is_causal:
        yield Pass(start=0, stop=window.num_seen_frames)
        return
    caches = with_cache and num_cacheable_frames(plan, segment) > 0
    start = 0
    for updates in schedule.updates:
        first = updates.index(True) * schedule.block_size
        yield Pass(start=start, stop=first + sum(updates) * schedule.block_size)
        if caches:
            start = first
