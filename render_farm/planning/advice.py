"""What the makers of the models and the people who use them advise against: said of a job, never refused."""

from __future__ import annotations

from collections.abc import Iterator

from render_farm.models import CAUSAL, PRESETS
from render_farm.planning.model_spec import ModelSpec
from render_farm.planning.resolve import ResolvedJob


def advice(job: ResolvedJob, spec: ModelSpec) -> Iterator[str]:
    """What is said of `job` whatever its length: `plan` and `manifest check` show it, `job.json` keeps it."""
    if is_published_forcing(spec) and job.causal_block_size > 1 and job.block_attention == CAUSAL:
        yield (
            f"block_attention causal with {spec.name}: its makers say that the released models do not support causal "
            "attention, and users report broken pictures; full is what they publish, and ar_step 0 with "
            "causal_block_size 1 is faster than full"
        )


def is_published_forcing(spec: ModelSpec) -> bool:
    """Whether these are the diffusion-forcing weights that Skywork released (`tiny` was trained here, a folder may hold
    anything)."""
    preset = PRESETS.get(spec.name)
    return preset is not None and preset.hub_id is not None and spec.renders_windows
