"""Segment keys: what changes from segment k on changes the keys from k on, and nothing else changes any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from render_farm.errors import InvalidJobError
from render_farm.job import LoraRef, RenderJob
from render_farm.planning import FilmPlan, plan_film, spec_of_preset, with_inputs_read
from render_farm.planning.segment_keys import segment_keys

SPEC = spec_of_preset("tiny", dtype="float32", fingerprint="f" * 16)
LONG = {"num_frames": 257, "base_num_frames": 97, "overlap_history": 17}
"""Three segments."""


def plan(**values) -> FilmPlan:
    return plan_film(RenderJob(**{"job_id": "a", "prompt": "x", "seed": 1, **values}), SPEC)


def num_shared(a: FilmPlan, b: FilmPlan) -> int:
    """How many keys two films have in common. Asserts that they are those of their beginnings."""
    pairs = list(zip(a.segment_keys, b.segment_keys, strict=False))
    shared = next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))
    assert not set(a.segment_keys[shared:]) & set(b.segment_keys[shared:])
    return shared


SIZES = [(257, 97, 17, 1), (257, 97, 17, 5), (97, 97, 17, 5), (77, 37, 5, 1), (53, 21, 5, 1), (197, 21, 5, 1)]
films = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
        "seed": st.integers(0, 3),
        "addnoise_condition": st.sampled_from([0, 20]),
        "guidance_scale": st.sampled_from([1.0, 6.0]),
    },
    optional={"tags": st.just({"a": "b"}), "owner": st.just("me")},
)
SIZE = ("num_frames", "base_num_frames", "overlap_history", "causal_block_size")
sizes = st.sampled_from(SIZES).map(lambda size: dict(zip(SIZE, size, strict=True)))
NO_PIXEL_OF_A_SEGMENT = {
    "job_id": "b",
    "owner": "you",
    "tags": {"c": "d"},
    "priority": 90,
    "quality": 3,
    "fps": 12,
    "memory": "offload_block",
    "keep_overlap": True,
    "fit": "pad",
}
EVERY_SEGMENT = {
    "seed": 7,
    "height": 96,
    "width": 96,
    "num_inference_steps": 5,
    "flow_shift": 4.5,
    "guidance_scale": 4.0,
    "sampler": "corrected",
    "cache": "first_block:0.1",
    "memory": "fp8_cast",
    "loras": [LoraRef(path="x.safetensors")],
}


@settings(max_examples=40, deadline=None)
@given(films, sizes, st.sampled_from(sorted(NO_PIXEL_OF_A_SEGMENT)))
def test_what_touches_no_pixel_of_a_segment_changes_no_key(film, size, column):
    assert (
        plan(**film, **size).segment_keys
        == plan(**{**film, **size, column: NO_PIXEL_OF_A_SEGMENT[column]}).segment_keys
    )


@settings(max_examples=40, deadline=None)
@given(films, sizes, st.sampled_from(sorted(EVERY_SEGMENT)))
def test_what_touches_every_segment_changes_every_key(film, size, column):
    assert num_shared(plan(**film, **size), plan(**{**film, **size, column: EVERY_SEGMENT[column]})) == 0


@settings(max_examples=40, deadline=None)
@given(films, sizes, st.data())
def test_a_changed_prompt_changes_the_keys_from_its_segment_on(film, size, data):
    before = plan(**film, **size)
    prompts = [before.job.prompt_of(segment) for segment in range(before.num_segments)]
    changed = data.draw(st.integers(0, before.num_segments - 1))
    after = plan(**{**film, **size, "prompt": [*prompts[:changed], "new", *prompts[changed + 1 :]]})
    assert num_shared(before, after) == changed


@settings(max_examples=40, deadline=None)
@given(films, sizes, sizes)
def test_films_share_the_segments_whose_windows_they_share(film, size, other):
    a, b = plan(**film, **size), plan(**film, **other)
    pairs = zip(a.windows, b.windows, strict=False)
    same = next((index for index, (one, two) in enumerate(pairs) if one != two), None)
    expected = min(a.num_segments, b.num_segments) if same is None else same
    assert num_shared(a, b) == (expected if size["causal_block_size"] == other["causal_block_size"] else 0)


def test_a_longer_film_begins_with_the_shorter_one():
    assert plan(num_frames=97).segment_keys == plan(**LONG).segment_keys[:1]
    assert num_shared(plan(**{**LONG, "num_frames": 177}), plan(**LONG)) == 2


@pytest.mark.parametrize("column", ["addnoise_condition", "overlap_history"])
def test_what_concerns_the_prefix_leaves_the_first_segment(column):
    assert num_shared(plan(**LONG), plan(**{**LONG, column: 9})) == 1


def test_drift_concerns_the_segments_after_the_first():
    assert num_shared(plan(**LONG), plan(**LONG, drift="adain:0.25")) == 1
    assert num_shared(plan(**LONG, drift="adain:0.5"), plan(**LONG, drift="adain:0.25")) == 1
    assert plan(**LONG).render_key == plan(**LONG, drift="off").render_key != plan(**LONG, drift="adain:0.5").render_key
    assert plan(**LONG, drift="adain:0.250").approximations == ("drift adain:0.25",)
    assert plan(num_frames=97, drift="adain:0.25").approximations == ()


def test_noise_that_is_not_added_can_be_drawn_in_any_way():
    assert num_shared(plan(**LONG), plan(**LONG, prefix_noise="once")) == 3
    noisy = {**LONG, "addnoise_condition": 20}
    assert num_shared(plan(**noisy), plan(**noisy, prefix_noise="once")) == 1


def test_a_negative_prompt_without_guidance_changes_nothing():
    assert num_shared(plan(**LONG, guidance_scale=1), plan(**LONG, guidance_scale=0.5, negative_prompt="z")) == 3
    assert num_shared(plan(**LONG), plan(**LONG, negative_prompt="z")) == 0


def test_inputs_count_where_they_are_shown():
    images = {"image": "a.png", "last_image": "b.png", **LONG}
    spec = replace(SPEC, tasks=("t2v", "i2v", "flf2v", "v2v"))

    def keys(**values):
        return plan_film(RenderJob(job_id="a", prompt="x", seed=1, **{**images, **values}), spec)

    assert num_shared(keys(), keys(image="c.png")) == 0
    assert num_shared(keys(), keys(last_image="c.png")) == 2, "only the last segment sees it"
    assert num_shared(keys(), keys(fit="pad")) == 0
    assert num_shared(keys(), keys(fps=12)) == 3
    video = {"image": None, "last_image": None, "video": "v.mp4", "overlap_history": 17}
    assert num_shared(keys(**video), keys(**video, fps=12)) == 0, "its frames are read at the film's rate"
    same = [with_inputs_read(keys(image=name), {"image": "1" * 64, "last_image": "2" * 64}) for name in ("c", "d")]
    assert num_shared(*same) == 3, "the same picture under another name"


def test_the_model_counts_by_its_content():
    job = RenderJob(job_id="a", prompt="x", seed=1, **LONG)
    base = plan_film(job, SPEC)
    assert num_shared(base, plan_film(job, replace(SPEC, name="/elsewhere"))) == 3
    for change in ({"fingerprint": "0" * 16}, {"dtype": "bfloat16"}, {"approximation": "sage"}):
        assert num_shared(base, plan_film(job, replace(SPEC, **change))) == 0


def test_the_frame_rate_counts_for_models_that_are_told_it():
    told = replace(SPEC, sample_info=True)
    by_rate = [plan_film(RenderJob(job_id="a", prompt="x", seed=1, fps=fps), told).segment_keys for fps in (16, 24, 30)]
    assert by_rate[0] != by_rate[1] == by_rate[2]


def test_keys_of_films_that_are_stored_stay():
    """Segments of earlier versions are found under these. When this changes, so must SCHEMA, and on purpose."""
    assert [key[:8] for key in plan(**LONG, guidance_scale=3).segment_keys] == ["d0625495", "7449d12c", "88a815ea"]


EDITS = st.one_of(
    st.tuples(st.just("prompt"), st.lists(st.sampled_from("abc"), min_size=1, max_size=9)),
    *(st.tuples(st.just(name), st.just(value)) for name, value in [*NO_PIXEL_OF_A_SEGMENT.items(), ("seed", 9)]),
    st.tuples(st.just("addnoise_condition"), st.sampled_from([0, 20])),
    st.tuples(st.just("num_frames"), st.integers(5, 260)),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(films, sizes, st.lists(EDITS, min_size=1, max_size=4))
def test_after_random_edits_exactly_the_changed_end_is_new(film, size, edits):
    """The rule, written a second time: a segment is the same when all that its latents are computed from is."""
    before = {**film, **size}
    try:
        a, b = plan(**before), plan(**{**before, **dict(edits)})
    except InvalidJobError:
        assume(False)

    def facts(film: FilmPlan, index: int):
        window, job = film.windows[index], film.job
        noise = job.addnoise_condition if window.num_prefix_frames else 0
        return job.seed, job.prompt_of(index), film.schedule(index), window.start, window.num_latent_frames, noise

    common = min(a.num_segments, b.num_segments)
    expected = next((index for index in range(common) if facts(a, index) != facts(b, index)), common)
    assert num_shared(a, b) == expected


def test_a_film_of_windows_has_one_key_each():
    film = plan(**LONG)
    assert len(set(film.segment_keys)) == film.num_segments == 3
    assert next(segment_keys(film.job, film.spec, film.windows)) == film.segment_keys[0]
