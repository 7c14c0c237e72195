"""Frame spans: what a pass computes, what it stores, and which queries see what."""

from __future__ import annotations

import itertools

import pytest

from render_farm.engine.denoising.rows import window_spans
from render_farm.engine.transformer.span import FrameSpan
from render_farm.planning import make_schedule


@pytest.mark.parametrize(("ar_step", "num_prefix", "caches"), itertools.product([0, 1, 3, 9], [0, 2, 4], [True, False]))
def test_spans_cover_what_moves_and_store_each_frame_once(ar_step: int, num_prefix: int, caches: bool) -> None:
    schedule = make_schedule(
        num_latent_frames=10,
        num_prefix_frames=num_prefix,
        num_inference_steps=4,
        flow_shift=3.0,
        ar_step=ar_step,
        causal_block_size=2,
    )
    cached = 0
    for row, span in enumerate(window_spans(schedule, caches=caches)):
        moving = [block for block, moves in enumerate(schedule.updates[row]) if moves]
        assert span.start == cached
        assert (span.output_start, span.stop) == (moving[0] * 2, moving[-1] * 2 + 2)
        cached += span.num_stored
        # Only blocks at timestep 0 are stored, and all before the moving ones are by then.
        assert all(schedule.timestep_row(row)[block] == 0 for block in range(cached // 2))
        assert cached == (span.output_start if caches else 0)


def test_query_groups_see_the_frames_up_to_their_block() -> None:
    blocks = FrameSpan(start=2, stop=8, output_start=4, num_stored=2, block_size=2)
    assert list(blocks.query_groups(2)) == [(2, 4, 4), (4, 6, 6), (6, 8, 8)]
    assert list(blocks.query_groups(4)) == [(4, 6, 6), (6, 8, 8)]
    everything = FrameSpan(start=0, stop=7, output_start=3)
    assert list(everything.query_groups(3)) == [(3, 7, 7)]
