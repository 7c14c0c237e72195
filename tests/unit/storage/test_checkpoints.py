"""Segment checkpoints and film state: bit-exact, prefix-only, and never believed when damaged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_farm.errors import CorruptCheckpointError, LeaseHeldError
from render_farm.storage import open_store
from render_farm.storage.checkpoints import (
    SegmentMeta,
    SegmentRecord,
    load_film,
    load_film_state,
    load_segment,
    record_segment,
    save_segment,
)
from render_farm.storage.layout import FilmKeys, film_key

FILM = film_key("job", "0123456789ab")
KEYS = FilmKeys(film=FILM)


def latents_of(index, frames=5):
    return np.random.default_rng(index).standard_normal((1, 16, frames, 4, 6), dtype=np.float32)


def extend(store, state, index, attempt="a", worker="w"):
    meta = SegmentMeta(attempt=attempt, seconds=1.5, worker=worker, group_shape=(2, 2, 1))
    return record_segment(store, state, save_segment(store, FILM, index, latents_of(index), meta))


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


@pytest.fixture
def three(store):
    state = load_film_state(store, FILM)
    for index in range(3):
        state = extend(store, state, index)
    return state


def test_a_film_not_begun_is_empty(store):
    state = load_film_state(store, FILM)
    assert (state.number, state.segments, state.problems, state.render_key) == (0, (), (), "0123456789ab")


def test_latents_come_back_bit_for_bit(store):
    latents = latents_of(0)
    latents[0, 0, 0, 0, :3] = [np.nan, np.inf, -0.0]
    record = save_segment(store, FILM, 0, latents[..., ::-1], SegmentMeta(attempt="a"))
    loaded = load_segment(store, record)
    assert loaded.dtype == np.float32
    assert loaded.tobytes() == np.ascontiguousarray(latents[..., ::-1]).tobytes()
    assert record.num_latent_frames == 5
    assert record.num_bytes == store.size(record.key)


@pytest.mark.parametrize("wrong", [np.zeros((1, 16, 5, 4, 6)), np.zeros((16, 5, 4, 6), np.float32)])
def test_other_dtypes_and_ranks_are_refused(store, wrong):
    with pytest.raises(ValueError, match="float32"):
        save_segment(store, FILM, 0, wrong, SegmentMeta(attempt="a"))


def test_a_resumed_film_is_the_one_that_was_saved(store, three):
    film = load_film(store, FILM)
    assert film.state == three
    assert film.state.num_latent_frames == 15
    assert film.state.segments[0].group_shape == (2, 2, 1)
    for index, latents in enumerate(film.latents):
        assert np.array_equal(latents, latents_of(index))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove", "foreign"])
def test_a_damaged_segment_ends_the_usable_prefix(store, tmp_path, three, damage):
    path = tmp_path / three.segments[1].key
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    changed = {"cut": data[:-1], "empty": b"", "foreign": b"not safetensors"}.get(damage, data)
    path.unlink()
    if damage != "remove":
        path.write_bytes(bytes(changed))
    with pytest.raises(CorruptCheckpointError, match="segment 1"):
        load_segment(store, three.segments[1])
    film = load_film(store, FILM)
    assert len(film.state.segments) == len(film.latents) == 1
    assert "segment 1" in film.state.problems[0]
    again = extend(store, film.state, 1, attempt="b")
    assert [record.attempt for record in again.segments] == ["a", "b", "a"], (
        "the one after it continues the same latents"
    )
    film = load_film(store, FILM)
    assert film.state == again
    for index, latents in enumerate(film.latents):
        assert np.array_equal(latents, latents_of(index))


def test_what_follows_a_damaged_segment_that_comes_out_otherwise_is_dropped(store, tmp_path, three):
    (tmp_path / three.segments[0].key).unlink()
    state = load_film(store, FILM).state
    assert [record.index for record in state.set_aside] == [0, 1, 2]
    other = save_segment(store, FILM, 0, latents_of(9), SegmentMeta(attempt="b"))
    assert record_segment(store, state, other).segments == (other,)
    assert load_film_state(store, FILM).segments == (other,)


@pytest.mark.parametrize("damage", ["torn", "garbled", "empty", "flipped", "not-a-dict", "foreign", "newer-schema"])
def test_a_damaged_newest_state_is_skipped_and_reported(store, tmp_path, three, damage):
    path = tmp_path / KEYS.state(3)
    data = path.read_bytes()
    other = FilmKeys(film=film_key("other", "0123456789ab")).folder
    path.write_bytes(
        {
            "torn": data[: len(data) // 2],
            "garbled": bytes(len(data)),
            "empty": b"",
            "flipped": data.replace(b'"seconds":1.5', b'"seconds":2.5', 1),
            "not-a-dict": b"[1, 2]",
            "foreign": data.replace(KEYS.folder.encode(), other.encode()),
            "newer-schema": data.replace(b"render_farm.film/1", b"render_farm.film/2"),
        }[damage]
    )
    state = load_film_state(store, FILM)
    assert len(state.segments) == 2
    assert state.number == 3  # its number is taken
    assert "00000003.json" in state.problems[0]
    assert extend(store, state, 2, attempt="b").number == 4
    assert load_film_state(store, FILM).segments[2].attempt == "b"


def test_all_states_damaged_means_begin_again(store, tmp_path, three):
    for number in (1, 2, 3):
        (tmp_path / KEYS.state(number)).write_bytes(b"{")
    state = load_film_state(store, FILM)
    assert (state.number, state.segments, len(state.problems)) == (3, (), 3)
    assert extend(store, state, 0, attempt="b").number == 4


def test_the_second_of_two_workers_is_told_and_writes_nothing(store, three):
    first = extend(store, three, 3, attempt="a", worker="alpha")
    with pytest.raises(LeaseHeldError, match="alpha"):
        extend(store, three, 3, attempt="b", worker="beta")
    assert load_film_state(store, FILM) == first
    assert np.array_equal(load_segment(store, first.segments[3]), latents_of(3))  # its own object, not the other's


def test_segments_follow_without_a_gap(store, three):
    record = save_segment(store, FILM, 5, latents_of(5), SegmentMeta(attempt="a"))
    with pytest.raises(ValueError, match="cannot follow"):
        record_segment(store, three, record)


def test_a_segment_saved_but_not_recorded_does_not_count(store, three):
    save_segment(store, FILM, 3, latents_of(3), SegmentMeta(attempt="crashed"))
    assert load_film_state(store, FILM) == three


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_json_in_a_record_is_refused_not_crashed_on(value):
    good = SegmentRecord(
        index=0, key="k", sha256="s", num_bytes=1, num_latent_frames=1, seconds=1.0, worker="w",
        group_shape=(1, 1, 1), attempt="a", finished_at="t",
    ).to_dict()  # fmt: skip
    for name in good:
        try:
            record = SegmentRecord.from_dict({**good, name: value})
        except ValueError:
            continue
        assert json.loads(json.dumps(record.to_dict()))[name] == json.loads(json.dumps(value))


def record_of(index: int) -> SegmentRecord:
    """A segment whose latents nobody asks for."""
    return SegmentRecord(
        index=index,
        key=f"{KEYS.segments}/{index:05d}-a.safetensors",
        sha256="0" * 64,
        num_bytes=13 << 20,
        num_latent_frames=20,
        seconds=61.25,
        worker="worker-0.1",
        group_shape=(1, 1, 1),
        attempt="a" * 16,
        finished_at="2026-01-31T06:00:00.000+00:00",
        engine={"attention": "torch_flash", "compiled": True},
    )


def state_bytes(store, num_segments: int) -> int:
    state = load_film_state(store, FILM)
    for index in range(num_segments):
        state = record_segment(store, state, record_of(index))
    assert load_film_state(store, FILM) == state
    return sum(store.sizes(store.list(KEYS.states)).values())


@pytest.mark.slow
def test_the_state_of_a_film_grows_with_its_segments_and_not_with_their_square():
    sizes = {number: state_bytes(open_store(f"memory://grows-{number}"), number) for number in (10, 100, 1000)}
    print(sizes)
    assert sizes[100] < 20 * sizes[10]
    assert sizes[1000] < 15 * sizes[100]
    assert sizes[1000] < 10 << 20


@pytest.mark.parametrize("number", [17, 18, 20, 21, 31, 33, 47, 64, 99, 130])
def test_a_long_film_is_read_whole_wherever_it_stops_and_goes_on_from_there(number):
    store = open_store(f"memory://long-{number}")
    state_bytes(store, number)
    state = load_film_state(store, FILM)
    assert [record.index for record in state.segments] == list(range(number))
    assert (state.number, state.problems) == (number, ())
    other = replace(record_of(number - 5), sha256="1" * 64)
    back = record_segment(store, state.truncated(number - 5), other)
    assert len(back.segments) == number - 4
    assert load_film_state(store, FILM) == back


def test_a_torn_object_in_a_long_film_costs_what_builds_on_it():
    store = open_store("memory://torn")
    state_bytes(store, 31)
    store.write_bytes(KEYS.state(30), b"{")
    state = load_film_state(store, FILM)
    assert (len(state.segments), state.number) == (29, 31)
    assert "builds on number 30" in state.problems[0] and "00000030.json" in state.problems[1]
    again = record_segment(store, state, record_of(29))
    assert load_film_state(store, FILM) == again, "what follows lists everything"
