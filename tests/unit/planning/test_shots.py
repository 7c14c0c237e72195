"""Films of shots: the segments of each, keys of takes, and what cannot be rendered."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_farm.errors import InvalidJobError
from render_farm.job import RenderJob
from render_farm.planning import FilmPlan, plan_film, spec_of_preset, with_inputs_read
from render_farm.planning.drawing import draw_shots, draw_windows
from render_farm.planning.resolve import resolve_job, resolve_shots
from render_farm.shots import Shot

SPEC = spec_of_preset("tiny", dtype="float32", fingerprint="f" * 16)
WINDOWS = {"base_num_frames": 21, "overlap_history": 5}
"""6 latent frames, 4 of them new: 16 pixel frames."""


def plan(shots=None, spec=SPEC, **values) -> FilmPlan:
    return plan_film(RenderJob(**{"job_id": "a", "seed": 1, **WINDOWS, **values}, shots=shots), spec)


def shot(prompt: str = "x", **values) -> Shot:
    return Shot(prompt=prompt, **values)


def refused(*shots: Shot, spec=SPEC, **values) -> str:
    with pytest.raises(InvalidJobError) as caught:
        plan(shots, spec, **values)
    return "; ".join(map(str, caught.value.problems))


prompts = st.sampled_from("abc")
takes = st.lists(
    st.tuples(
        prompts,
        st.sampled_from([None, 5, 17, 21, 37, 41]),
        st.none() | st.integers(0, 3),
        st.lists(
            st.tuples(prompts, st.sampled_from([None, 4, 8, 16, 20, 36]), st.none() | st.integers(0, 3)), max_size=3
        ),
    ),
    min_size=1,
    max_size=4,
)


def shots_of(take, **first) -> list[Shot]:
    prompt, num_frames, seed, more = take
    starts = shot(prompt, num_frames=num_frames, seed=seed, **first)
    return [starts, *(shot(other, num_frames=frames, seed=own) for other, frames, own in more)]


@settings(max_examples=30, deadline=None)
@given(st.lists(prompts, min_size=1, max_size=6), st.sampled_from([None, 5, 21]))
def test_equal_shots_without_cuts_are_the_film_of_a_prompt_list(listed, first):
    shots = [shot(prompt, num_frames=first if len(listed) == 1 else None) for prompt in listed]
    num_frames = (first or 21) if len(listed) == 1 else 21 + 16 * (len(listed) - 1)
    assert plan(shots) == plan(prompt=listed, num_frames=num_frames)


@settings(max_examples=40, deadline=None)
@given(takes, st.integers(0, 3), st.sampled_from([0, 20]))
def test_a_film_with_cuts_has_the_segments_of_the_films_of_its_takes(film, seed, addnoise):
    shots = list(itertools.chain.from_iterable(shots_of(take, cut=True) for take in film))
    whole = plan(shots, seed=seed, addnoise_condition=addnoise)
    keys, num_frames, cuts = [], 0, []
    for take in film:
        alone = plan(shots_of(take), seed=seed, addnoise_condition=addnoise)
        keys += alone.segment_keys
        own, index = whole.take_of(len(keys) - 1)
        assert (own.windows, own.job.seed) == (alone.windows, alone.take_of(index)[0].job.seed)
        cuts.append((cuts[-1] if cuts else 0) + alone.num_latent_frames)
        num_frames += alone.num_frames
        seeds = [one.seed for one in shots_of(take) if one.seed is not None]
        seed = seeds[-1] if seeds else seed
    assert whole.segment_keys == tuple(keys)
    assert (whole.num_frames, whole.cuts, whole.num_latent_frames) == (num_frames, tuple(cuts[:-1]), cuts[-1])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(takes, st.data())
def test_a_change_touches_its_take_from_its_segment_on_and_no_other(film, data):
    shots = list(itertools.chain.from_iterable(shots_of(take, cut=True) for take in film))
    changed = data.draw(st.integers(0, len(shots) - 1))
    field, value = data.draw(st.sampled_from([("prompt", "new"), ("seed", 9), ("guidance_scale", 4.5)]))
    before = plan(shots)
    after = plan([*shots[:changed], replace(shots[changed], **{field: value}), *shots[changed + 1 :]])
    assert after.num_segments == before.num_segments
    numbers = [n for n, one in enumerate(resolved(shots)) for _ in range(one.num_segments)]
    is_touched = False
    for window, number in zip(before.windows, numbers, strict=True):
        own = number == changed
        reseeded = (
            field == "seed"
            and number > changed
            and not any(one.seed is not None for one in shots[changed + 1 : number + 1])
        )
        is_touched = own or reseeded or (is_touched and not window.starts_take)
        assert (before.segment_keys[window.index] != after.segment_keys[window.index]) == is_touched


def resolved(shots):
    """Every shot, also where a prompt list describes the film."""
    job = RenderJob(job_id="a", seed=1, shots=shots, **WINDOWS)
    return resolve_shots(job, resolve_job(job, SPEC), SPEC)


def test_a_seed_starts_a_stream_even_when_it_is_the_same():
    one = plan([shot("a"), shot("b"), shot("c")])
    two = plan([shot("a"), shot("b", seed=1), shot("c")])
    three = plan([shot("a"), shot("b", seed=1), shot("c", seed=1)])
    assert one.segment_keys[0] == two.segment_keys[0]
    assert one.segment_keys[1] != two.segment_keys[1] == three.segment_keys[1]
    assert two.segment_keys[2] != three.segment_keys[2]
    assert [window.num_draws_before for window in three.windows] == [0, 0, 0]


def test_the_first_shots_values_are_the_films():
    film = plan([shot("a", seed=7, image="i.png", guidance_scale=4, cut=True)])
    assert film == plan(prompt="a", seed=7, image="i.png", guidance_scale=4, num_frames=21)
    assert film.job.task == "i2v"


def test_a_take_has_the_defaults_of_its_task():
    spec = spec_of_preset("df-1.3b-540p")
    sizes = {"base_num_frames": None, "overlap_history": None}
    film = plan([shot("a"), shot("b", cut=True, image="i.png"), shot("c"), shot("d", cut=True)], spec, **sizes)
    jobs = [film.take_of(index)[0].job for index in range(4)]
    assert [(job.task, job.flow_shift, job.guidance_scale) for job in jobs] == [
        ("t2v", 8.0, 6.0),
        ("i2v", 5.0, 5.0),
        ("i2v", 5.0, 5.0),
        ("t2v", 8.0, 6.0),
    ]
    assert [film.schedule(index).sigmas[1] for index in (0, 3)] == [film.schedule(0).sigmas[1]] * 2
    assert film.schedule(0).sigmas != film.schedule(1).sigmas
    alone = plan(prompt=["b", "c"], image="i.png", num_frames=177, spec=spec, **sizes)
    assert alone.segment_keys == film.segment_keys[1:3]
    given = plan([shot("a"), shot("b", cut=True, image="i.png")], spec, flow_shift=3.0, guidance_scale=2.0, **sizes)
    assert [(one.flow_shift, one.guidance_scale) for one in given.job.shots] == [(3.0, 2.0)] * 2


def test_pictures_count_by_their_content():
    film = plan([shot("a"), shot("b", cut=True, image="i.png")], image="h.png")
    other = plan([shot("a"), shot("b", cut=True, image="j.png")], image="h.png")
    assert film.job.inputs == {"image": "h.png", "image of shot 2": "i.png"}
    assert film.segment_keys[1] != other.segment_keys[1] and film.render_key != other.render_key
    read = [with_inputs_read(one, {"image": "1" * 64, "image of shot 2": "2" * 64}) for one in (film, other)]
    assert read[0].segment_keys == read[1].segment_keys and read[0].render_key == read[1].render_key
    alone = with_inputs_read(plan(prompt="b", image="k.png", num_frames=21), {"image": "2" * 64})
    assert alone.segment_keys == read[0].segment_keys[1:]
    assert with_inputs_read(film, {"image": "1" * 64, "image of shot 2": "3" * 64}).render_key != read[0].render_key


def test_a_video_is_extended_by_the_first_take():
    film = plan([shot("a", num_frames=37), shot("b", cut=True)], video="v.mp4")
    assert [film.take_of(index)[0].job.task for index in range(film.num_segments)] == ["v2v", "v2v", "t2v"]
    assert film.num_repeated_frames == 5
    assert film.segment_keys[:2] == plan(prompt="a", video="v.mp4", num_frames=37).segment_keys


def test_the_note_of_a_short_segment_is_that_of_its_take():
    first = shot("a", num_frames=21, image="a.png")
    assert plan([first, shot("b", cut=True, num_frames=5)]).warnings == ()
    (note,) = plan([first, shot("b", cut=True, num_frames=41, image="b.png")]).warnings
    assert note.startswith("the last segment has 3 latent frames, a whole window 6; diffusers fails on it for i2v")


def test_a_last_image_closes_a_film_of_shots_without_cuts():
    film = plan([shot("a", num_frames=17), shot("b")], image="a.png", last_image="b.png")
    assert [window.num_last_image_frames for window in film.windows] == [0, 1]


@pytest.mark.parametrize(
    ("shots", "values", "message"),
    [
        ([shot(num_frames=98)], {}, "shots: shot 1: num_frames 98 is not of the form 4n+1"),
        ([shot(num_frames=98)], {}, "97 or 101 would work"),
        ([shot(), shot(num_frames=18)], {}, "shot 2: num_frames 18 is not of the form 4n; 16 or 20 would work"),
        ([shot(), shot(num_frames=3)], {}, "shot 2: num_frames 3 is not of the form 4n; 4 would work"),
        ([shot(), shot(cut=True, num_frames=16)], {}, "shot 2: num_frames 16 is not of the form 4n+1"),
        ([shot(num_frames=1), shot()], {}, "shot 1: num_frames 1 is less than the 5 frames of overlap_history 5 that"),
        ([shot(), shot(guidance_scale=1)], {}, "shot 2: guidance_scale 1 turns guidance off"),
        ([shot(), shot(guidance_scale=3)], {"guidance_scale": 1}, "turns guidance on in a film that starts with 1"),
        ([shot(), shot(cut=True, num_frames=1, image="i")], {}, "shot 2: num_frames 1 leaves nothing to render after"),
        ([shot(), shot(cut=True)], {"image": "i", "last_image": "j"}, "last_image: closes a film without cuts"),
        (
            [shot(), shot(cut=True, image="i")],
            {"causal_block_size": 2},
            "causal_block_size: 2 does not work with the im",
        ),
        (
            [shot(), shot(num_frames=12), shot()],
            {"causal_block_size": 2},
            "num_frames 8 or 16 would work (or causal_block_si",
        ),
        ([shot(), shot()], {"overlap_history": 21}, "overlap_history: 21 leaves no new frames in a window of base_num"),
        ([shot(num_frames=100_000)] * 3, {}, "shots: are 18,750 segments; the most is 2,000"),
        ([shot(num_frames=5), shot(cut=True)], {"video": "v"}, "shot 1: num_frames 5 leaves nothing to render after"),
        ([shot(num_frames=3), shot()], {"overlap_history": 17}, "shot 1: num_frames 3 is not of the form 4n+1, as"),
        ([shot(num_frames=3), shot()], {"overlap_history": 17}, "; 17 would work"),
        ([shot(num_frames=2)], {"image": "i"}, "shot 1: num_frames 2 is not of the form 4n+1, as the first frame"),
        ([shot(num_frames=2)], {"image": "i"}, "; 5 would work"),
        ([shot(num_frames=50)], {"causal_block_size": 2, "base_num_frames": 49}, "; 45 would work"),
        ([shot(num_frames=37), shot("y", num_frames=12)], {"causal_block_size": 2}, "shots: shot 2: num_frames 12"),
        ([shot(num_frames=37), shot(num_frames=12)], {"causal_block_size": 2}, "shots: shot 2: num_frames 12 gives"),
        ([shot(num_frames=1, image="i")], {}, "shots: shot 1: num_frames 1 leaves nothing to render after the image"),
        ([shot(image="i")], {"task": "t2v"}, "shots: shot 1: image: is given, but task t2v takes none; leave it null"),
    ],
)
def test_what_cannot_be_rendered_is_refused(shots, values, message):
    assert message in refused(*shots, **values)


@pytest.mark.parametrize("num_frames", [8, 16])
def test_what_a_refusal_names_works(num_frames):
    assert plan([shot(), shot(num_frames=num_frames), shot()], causal_block_size=2).num_segments == 3


def test_models_without_windows_or_images_are_named():
    t2v = spec_of_preset("t2v-14b-540p")
    for several in ([shot("a"), shot("b")], [shot("a", num_frames=97), shot("b", num_frames=80)]):
        said = refused(*several, spec=t2v, base_num_frames=None, overlap_history=None)
        assert "shots: 2 shots need a model that renders windows" in said
    assert "2 shots need a model that renders windows (tiny, df-" in refused(
        shot(), shot(cut=True), spec=t2v, base_num_frames=None, overlap_history=None
    )
    assert plan([shot("a")], t2v, base_num_frames=None, overlap_history=None).num_frames == 97
    no_images = replace(SPEC, tasks=("t2v",))
    assert "shot 2: its image needs task i2v, which tiny does not serve" in refused(
        shot(), shot(cut=True, image="i"), spec=no_images
    )


def test_shots_are_drawn():
    film = plan([shot("a"), shot("b", num_frames=8), shot("c\nd", cut=True, seed=5, num_frames=37)])
    assert draw_shots(film) == [
        "shot 1 (frames 1-21, segment 1): a",
        "shot 2 (frames 22-29, segment 2): b",
        "shot 3 (frames 30-66, segments 3-4, cut, seed 5): c d",
    ]
    texts = [line.rpartition("│ ")[2] for line in draw_windows(film)]
    assert texts == [
        "frames  1-21",
        "frames 22-29, from 17-21",
        "frames 30-50, after a cut",
        "frames 51-66, from 46-50",
    ]


def draft(number: int, **values) -> FilmPlan:
    job = RenderJob(**{"job_id": "a", "prompt": "x", "seed": 1, "num_frames": 69, **WINDOWS, **values})
    return plan_film(job, SPEC, first_segments=number)


def test_a_draft_is_the_beginning_of_its_film():
    whole = draft(0)
    assert (whole.num_segments, whole.draft_note) == (4, "")
    for number in (1, 2, 4, 9):
        part = draft(number)
        assert part.segment_keys == whole.segment_keys[:number]
        assert part.num_frames == (21, 37, 69, 69)[(1, 2, 4, 9).index(number)]
        assert part.draft_note == f"a draft: {min(number, 4)} of the film's 4 segments"
        assert part.render_key != whole.render_key
    assert len({draft(number).render_key for number in range(5)}) == 5


def test_a_draft_with_a_cut_ends_in_any_take():
    shots = [shot("x"), shot("y", cut=True, num_frames=37)]
    whole = plan(shots)
    for number in (1, 2):
        part = draft(number, prompt=None, num_frames=None, shots=shots)
        assert part.segment_keys == whole.segment_keys[:number]
        assert part.take_of(number - 1)[0].windows[0].num_latent_frames == 6


def test_a_draft_does_not_see_the_last_image():
    film = draft(1, image="a.png", last_image="b.png")
    assert [window.num_last_image_frames for window in film.windows] == [0]
