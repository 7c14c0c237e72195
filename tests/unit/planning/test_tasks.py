"""i2v, flf2v and v2v: windows against diffusers' own loops, what is refused, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingVideoToVideoPipeline
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import plan_film, with_inputs_read
from render_farm.planning.cost import segment_token_passes
from render_farm.planning.drawing import draw_windows
from render_farm.planning.resolve import infer_task, pixel_parameters
from tests.helpers.reference_loop import FACTS, IMAGE, INPUTS, loop_of, planned_calls
from tests.helpers.repaired import RepairedImagePipeline


def plan(task: str, /, **values):
    return plan_film(RenderJob(**{"job_id": "a", "prompt": "x", "seed": 1, **INPUTS[task], **values}), FACTS)


def refusal(task: str, /, **values) -> str:
    with pytest.raises(InvalidJobError) as caught:
        plan(task, **values)
    return "; ".join(map(str, caught.value.problems))


# --- windows, against the reference's loops ---------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    task=st.sampled_from(["i2v", "flf2v"]),
    num_frames=st.integers(1, 90),
    base=st.integers(5, 40),
    overlap=st.integers(1, 36),
    ar_step=st.sampled_from([0, 0, 1, 2, 3]),
    num_steps=st.integers(1, 2),
)
def test_windows_of_image_tasks_equal_the_reference_loop(task, num_frames, base, overlap, ar_step, num_steps):
    values = {
        "num_frames": num_frames,
        "base_num_frames": base,
        "overlap_history": overlap,
        "ar_step": ar_step,
        "num_inference_steps": num_steps,
    }
    try:
        film = plan(task, **values, height=16, width=16)
    except InvalidJobError:
        assume(False)
    inputs = {"image": IMAGE, **({"last_image": IMAGE} if task == "flf2v" else {})}
    calls, num_latent_frames = loop_of(RepairedImagePipeline, **inputs).run(**values, causal_block_size=1)
    expected = planned_calls(film)
    if task == "flf2v":
        # The last window sees one frame more, at timestep 0; the steps in which only that one would move are left out.
        rows = film.schedule(film.num_segments - 1).num_rows
        expected = [*expected[:-rows], *((*row, 0) for row in expected[-rows:])]
        assert len(calls) - len(expected) == min(ar_step, num_steps)
        num_latent_frames -= 1
    assert calls[: len(expected)] == expected
    assert film.num_latent_frames == num_latent_frames
    assert sum(window.num_kept_frames for window in film.windows) == num_latent_frames
    assert [window.num_input_frames for window in film.windows] == [1] + [0] * (film.num_segments - 1)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    num_frames=st.integers(1, 90),
    base=st.integers(5, 40),
    overlap=st.integers(0, 8).map(lambda n: 4 * n + 1),
    block=st.sampled_from([1, 1, 2, 3]),
    ar_step=st.sampled_from([0, 0, 1, 2]),
    num_steps=st.integers(1, 2),
)
def test_windows_of_video_films_equal_the_reference_loop(num_frames, base, overlap, block, ar_step, num_steps):
    values = {
        "num_frames": num_frames,
        "base_num_frames": base,
        "overlap_history": overlap,
        "causal_block_size": block,
        "ar_step": ar_step,
        "num_inference_steps": num_steps,
    }
    try:
        film = plan("v2v", **values, height=16, width=16)
    except InvalidJobError:
        assume(False)
    video = torch.zeros(1, 3, overlap + 3, 16, 16)
    loop = loop_of(SkyReelsV2DiffusionForcingVideoToVideoPipeline, video=video)
    calls, num_latent_frames = loop.run(**values)
    assert planned_calls(film) == calls
    assert film.num_latent_frames == num_latent_frames
    assert sum(window.num_kept_frames for window in film.windows) == num_latent_frames


def test_windows_by_task():
    def windows(task):
        film = plan(task, num_frames=257)
        return [
            (
                w.num_latent_frames,
                w.num_input_frames,
                w.num_history_frames,
                w.num_prefix_frames,
                w.num_last_image_frames,
            )
            for w in film.windows
        ]

    assert windows("t2v") == [(25, 0, 0, 0, 0), (25, 0, 5, 5, 0), (25, 0, 5, 5, 0)]
    assert windows("i2v") == [(25, 1, 0, 1, 0), (25, 0, 5, 5, 0), (25, 0, 5, 5, 0)]
    assert windows("flf2v") == [(25, 1, 0, 1, 0), (25, 0, 5, 5, 0), (25, 0, 5, 5, 1)]
    assert windows("v2v") == [(25, 5, 0, 5, 0), (25, 0, 5, 5, 0), (25, 0, 5, 5, 0)]


# --- tasks and inputs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", INPUTS)
def test_the_task_is_inferred_from_the_inputs(task):
    assert infer_task(RenderJob(job_id="a", prompt="x", **INPUTS[task])) == task


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"last_image": "b.png"}, "image: is missing; task flf2v needs image and last_image: give its URI"),
        ({"task": "i2v"}, "image: is missing; task i2v needs image"),
        ({"task": "v2v", "image": "a.png"}, "video: is missing; task v2v needs video"),
        ({"task": "v2v", "image": "a.png"}, "image: is given, but task v2v takes video; leave it null"),
        ({"task": "i2v", **INPUTS["flf2v"]}, "last_image: is given, but task i2v takes image; leave it null"),
        ({**INPUTS["v2v"], **INPUTS["i2v"]}, "image: is given, but task v2v takes video; leave it null"),
        ({"task": "t2v", "video": "c.mp4"}, "video: is given, but task t2v takes none; leave it null"),
    ],
)
def test_inputs_that_do_not_fit_the_task_are_refused(values, message):
    assert message in refusal("t2v", **values)


def test_a_checkpoint_that_does_not_serve_the_task_is_refused():
    spec = replace(FACTS, tasks=("t2v", "i2v"))
    with pytest.raises(InvalidJobError, match="task: v2v is not served by tiny; it serves t2v"):
        plan_film(RenderJob(job_id="a", prompt="x", video="c.mp4"), spec)


# --- what diffusers crashes on or gets wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("i2v", {"causal_block_size": 5}, "causal_block_size: 5 does not work with task i2v: an image is one latent"),
        ("flf2v", {"causal_block_size": 2}, "causal_block_size: 2 does not work with task flf2v"),
        ("i2v", {"num_frames": 1}, "num_frames: 1 leaves nothing to render after the image; the least is 5"),
        ("flf2v", {"num_frames": 3}, "num_frames: 1 leaves nothing to render after the image; the least is 5"),
        ("v2v", {"num_frames": 17}, "num_frames: 17 leaves nothing to render after the 17 frames of overlap_history"),
        ("v2v", {"num_frames": 17}, "the least is 21"),
        ("v2v", {"overlap_history": 18}, "overlap_history: 18 is not of the form 4n+1"),
        ("v2v", {"overlap_history": 18}, "17 or 21 would work"),
        ("v2v", {"overlap_history": 97, "num_frames": 257}, "overlap_history: 97 leaves no new frames in a window"),
        ("v2v", {"causal_block_size": 5, "num_frames": 93}, "causal_block_size: 5 does not divide window 0"),
        ("i2v", {"overlap_history": 97, "num_frames": 257}, "overlap_history: 97 leaves no new frames in a window"),
        ("i2v", {"num_inference_steps": 201, "flow_shift": 5}, "num_inference_steps: 201 is too many for flow_shift 5"),
    ],
)
def test_refused_with_the_field_and_a_way_out(task, values, message):
    assert message in refusal(task, **values)


def test_the_ways_out_work():
    plan("i2v", num_frames=5)
    plan("v2v", num_frames=21)
    for overlap in (17, 21):
        plan("v2v", overlap_history=overlap)
    plan("i2v", causal_block_size=1, ar_step=2)


def test_frame_counts_offered_for_a_video_leave_something_to_render():
    message = refusal("v2v", num_frames=25, causal_block_size=5, overlap_history=17)
    assert "num_frames 37 would work" in message
    plan("v2v", num_frames=37, causal_block_size=5, overlap_history=17)


def test_films_that_diffusers_renders_have_no_warnings():
    assert plan("i2v", num_frames=97).warnings == ()
    assert plan("i2v", num_frames=257).warnings == ()
    assert plan("flf2v", num_frames=97).warnings == ()
    assert plan("flf2v", num_frames=193, overlap_history=1).warnings == ()
    assert plan("v2v", num_frames=257, keep_overlap=True).warnings == ()


def test_the_plan_warns_where_it_renders_more_than_diffusers():
    (short,) = plan("i2v", num_frames=237).warnings
    assert short == (
        "the last segment has 20 latent frames, a whole window 25; diffusers fails on it for i2v, "
        "here it is rendered as for t2v"
    )
    (closing,) = plan("flf2v", num_frames=257).warnings
    assert closing == (
        "last_image in a film of 3 segments is an extension: it closes the last segment, the others do not see it; "
        "diffusers fails"
    )
    assert len(plan("flf2v", num_frames=237).warnings) == 2
    (once,) = plan("v2v", num_frames=257).warnings
    assert once == (
        "the video is the input and 240 new frames: the 17 of overlap_history, which num_frames counts, are not shown "
        "twice as diffusers does (keep_overlap keeps them)"
    )


def test_a_video_prefix_that_is_cut_is_said():
    cut = plan("v2v", num_frames=157, overlap_history=21, causal_block_size=5, base_num_frames=157, keep_overlap=True)
    assert cut.windows[0].num_prefix_frames == 5
    assert "takes over 1 fewer" in cut.warnings[0]


# --- frames, work, keys, pictures -------------------------------------------------------------------------------------


def test_the_overlap_is_shown_once_unless_asked_for():
    assert plan("v2v", num_frames=257).num_repeated_frames == 17
    assert plan("v2v", num_frames=257, keep_overlap=True).num_repeated_frames == 0
    assert plan("i2v", num_frames=257, keep_overlap=False).num_repeated_frames == 0


def test_the_last_image_costs_one_frame_a_step():
    without, closed = plan("i2v"), plan("flf2v")
    rows = without.schedule(0).num_rows
    more = segment_token_passes(closed, 0) - segment_token_passes(without, 0)
    assert more == rows * 2 * without.tokens_per_frame


def test_the_key_follows_the_content_of_inputs_that_were_read():
    by_uri = plan("i2v")
    read = with_inputs_read(by_uri, {"image": "12ab"})
    moved = with_inputs_read(plan("i2v", image="elsewhere.png"), {"image": "12ab"})
    changed = with_inputs_read(by_uri, {"image": "34cd"})
    assert read.render_key == moved.render_key
    assert len({by_uri.render_key, plan("i2v", image="b.png").render_key, read.render_key, changed.render_key}) == 4
    job = RenderJob(job_id="a", prompt="x", seed=1, image="a.png")
    assert plan_film(job, FACTS, input_digests={"image": "12ab"}) == read
    assert pixel_parameters(read.job)["input_digests"] == (("image", "12ab"),)


def test_the_two_images_count_each_by_itself():
    film = plan("flf2v")
    one = with_inputs_read(film, {"image": "12ab", "last_image": "34cd"})
    other = with_inputs_read(film, {"image": "34cd", "last_image": "12ab"})
    assert one.render_key != other.render_key
    assert one.job.input_digests == (("image", "12ab"), ("last_image", "34cd"))


def test_a_text_to_video_key_is_as_it_was():
    job = RenderJob(job_id="a", prompt="x", seed=1, guidance_scale=4.0)
    film = plan_film(job, replace(FACTS, fingerprint="f"))
    assert film.render_key == "30c767f78172"
    assert with_inputs_read(film, {"image": "12ab"}) == film


def test_the_picture_shows_what_the_inputs_give():
    assert draw_windows(plan("i2v", num_frames=97))[0].endswith("frames  1-97, 1 from image")
    assert draw_windows(plan("flf2v", num_frames=97))[0].endswith("frames  1-97, 1 from image, towards last_image")
    lines = draw_windows(plan("v2v", num_frames=257))
    assert lines[0].endswith("frames   1-97, 1-17 from video")
    assert "░" in lines[0].split("│")[1]
    assert lines[1].endswith("frames  98-177, from 81-97")
