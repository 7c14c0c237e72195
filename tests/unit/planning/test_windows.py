"""Windows equal those of diffusers' own loop, on random parameters."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import plan_film
from tests.helpers.reference_loop import FACTS, ReferenceLoop, planned_calls


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    num_frames=st.integers(1, 90),
    base=st.integers(5, 40),
    overlap=st.integers(1, 36),
    block=st.sampled_from([1, 1, 2, 3]),
    ar_step=st.sampled_from([0, 0, 1, 2]),
    num_steps=st.integers(1, 2),
)
def test_windows_equal_the_reference_loop(num_frames, base, overlap, block, ar_step, num_steps):
    job = RenderJob(
        job_id="a",
        prompt="x",
        num_frames=num_frames,
        base_num_frames=base,
        overlap_history=overlap,
        causal_block_size=block,
        ar_step=ar_step,
        num_inference_steps=num_steps,
        height=16,
        width=16,
    )
    try:
        plan = plan_film(job, FACTS)
    except InvalidJobError:
        assume(False)
    calls, num_latent_frames = ReferenceLoop(FACTS.defaults.flow_shift).run(
        num_frames=num_frames,
        base_num_frames=base,
        overlap_history=overlap,
        causal_block_size=block,
        ar_step=ar_step,
        num_inference_steps=num_steps,
    )
    assert planned_calls(plan) == calls
    assert plan.num_latent_frames == num_latent_frames
    assert sum(window.num_kept_frames for window in plan.windows) == num_latent_frames
