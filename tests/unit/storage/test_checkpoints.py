"""Stored segments: bit-exact, shared by films, a chain without gaps, and never believed when damaged."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_farm.errors import CorruptCheckpointError, LeaseHeldError
from render_farm.storage import checked_json, open_store
from render_farm.storage.checkpoints import (
    SegmentMeta,
    SegmentRecord,
    begin_film,
    continue_film,
    load_film,
    load_film_state,
    load_segment,
    read_film_keys,
    record_segment,
    save_segment,
    stored_segments,
)
from render_farm.storage.layout import FilmKeys, SegmentKeys, film_key
from tests.helpers.segments import save_as_before

FILM, SIBLING = film_key("job", "0123456789ab"), film_key("sibling", "0123456789ab")
KEYS = FilmKeys(film=FILM)
SEGMENTS = tuple(f"{index:032x}" for index in range(5))


def latents_of(index, frames=5):
    return np.random.default_rng(index).standard_normal((1, 16, frames, 4, 6), dtype=np.float32)


def extend(store, state, attempt="a", worker="w", latents=None):
    meta = SegmentMeta(attempt=attempt, seconds=1.5, worker=worker, group_shape=(2, 2, 1))
    latents = latents_of(len(state.segments)) if latents is None else latents
    return record_segment(store, state, save_segment(store, state, latents, meta))


def extended(store, film, number, keys=SEGMENTS):
    state = load_film_state(store, film, keys)
    while len(state.segments) < number:
        state = extend(store, state)
    return state


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    begin_film(store, FILM, SEGMENTS)
    return store


@pytest.fixture
def three(store):
    return extended(store, FILM, 3)


def test_a_film_not_begun_is_empty(store):
    state = load_film_state(store, FILM)
    assert (state.keys, state.segments, state.problems) == (SEGMENTS, (), ())
    unknown = load_film_state(store, SIBLING)
    assert (unknown.keys, unknown.segments, unknown.problems) == ((), (), ())


def test_latents_come_back_bit_for_bit(store):
    latents = latents_of(0)
    latents[0, 0, 0, 0, :3] = [np.nan, np.inf, -0.0]
    record = save_segment(store, load_film_state(store, FILM), latents[..., ::-1], SegmentMeta(attempt="a"))
    loaded = load_segment(store, record)
    assert loaded.dtype == np.float32
    assert loaded.tobytes() == np.ascontiguousarray(latents[..., ::-1]).tobytes()
    assert record.num_latent_frames == 5
    assert record.num_bytes == store.size(record.key)


@pytest.mark.parametrize("wrong", [np.zeros((1, 16, 5, 4, 6)), np.zeros((16, 5, 4, 6), np.float32)])
def test_other_dtypes_and_ranks_are_refused(store, wrong):
    with pytest.raises(ValueError, match="float32"):
        save_segment(store, load_film_state(store, FILM), wrong, SegmentMeta(attempt="a"))


def test_a_resumed_film_is_the_one_that_was_saved(store, three):
    film = load_film(store, FILM)
    assert film.state == three
    assert film.state.num_latent_frames == 15
    assert (film.state.segments[0].group_shape, film.state.segments[0].film) == ((2, 2, 1), FILM)
    for index, latents in enumerate(film.latents):
        assert np.array_equal(latents, latents_of(index))


def test_a_film_that_begins_alike_has_its_beginning_already(store, three):
    other = (*SEGMENTS[:2], "f" * 32)
    begin_film(store, SIBLING, other)
    film = load_film(store, SIBLING)
    assert film.state.segments == three.segments[:2]
    assert (film.state.num_reused, three.num_reused) == (2, 0)
    own = extend(store, film.state)
    assert (own.num_reused, own.segments[2].film, own.segments[2].previous) == (2, SIBLING, three.segments[1].sha256)
    assert load_film_state(store, FILM) == three
    assert stored_segments(store) == {*SEGMENTS[:3], "f" * 32}


def test_what_others_store_meanwhile_continues_the_film(store, three):
    begun = continue_film(store, load_film_state(store, SIBLING, SEGMENTS[:2]))
    later = continue_film(store, load_film_state(store, SIBLING, SEGMENTS[:2]), begun.latents[:1])
    assert later.state == begun.state
    assert [a.tobytes() for a in later.latents] == [a.tobytes() for a in begun.latents]


def test_a_films_state_grows_by_one_object_per_segment(store):
    """A record is about as large for the last segment as for the first."""
    state, sizes = load_film_state(store, FILM), []
    before = set(store.list())
    for _ in SEGMENTS:
        state = extend(store, state)
        new = set(store.list()) - before
        before |= new
        assert len(new) == 2
        sizes.append(sum(store.size(key) for key in new if key.endswith(".json")))
    assert max(sizes) < min(sizes) + 100


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
    extend(store, film.state, attempt="b")
    again = load_film(store, FILM)
    assert [record.attempt for record in again.state.segments] == ["a", "b", "a"], (
        "the one after it continues the same latents"
    )
    for index, latents in enumerate(again.latents):
        assert np.array_equal(latents, latents_of(index))


def test_what_follows_a_damaged_segment_that_comes_out_otherwise_is_replaced(store, tmp_path, three):
    (tmp_path / three.segments[0].key).unlink()
    state = extend(store, load_film(store, FILM).state, attempt="b", latents=latents_of(9))
    found = load_film_state(store, FILM)
    assert found.segments == state.segments, "segment 1 continues latents that are no more"
    assert "other latents" in found.problems[0]
    again = extend(store, found, attempt="b")
    assert load_film_state(store, FILM).segments[1] == again.segments[1]
    assert load_segment(store, three.segments[1]).tobytes() == latents_of(1).tobytes(), (
        "a film in the memory of a worker goes on with its own"
    )


@pytest.mark.parametrize("damage", ["torn", "garbled", "empty", "flipped", "not-a-dict", "foreign", "newer-schema"])
def test_a_damaged_record_is_reported_and_replaced(store, tmp_path, three, damage):
    path = tmp_path / SegmentKeys(key=SEGMENTS[2]).record
    data = path.read_bytes()
    path.write_bytes(
        {
            "torn": data[: len(data) // 2],
            "garbled": bytes(len(data)),
            "empty": b"",
            "flipped": data.replace(b'"seconds":1.5', b'"seconds":2.5', 1),
            "not-a-dict": b"[1, 2]",
            "foreign": (tmp_path / SegmentKeys(key=SEGMENTS[1]).record).read_bytes(),
            "newer-schema": data.replace(b"render_farm.segment/1", b"render_farm.segment/2"),
        }[damage]
    )
    state = load_film_state(store, FILM)
    assert len(state.segments) == 2
    assert path.name in state.problems[0]
    extend(store, state, attempt="b")
    assert load_film_state(store, FILM).segments[2].attempt == "b"


def test_a_record_that_names_an_object_of_another_segment_is_not_believed(store, three):
    record = {**three.segments[1].to_dict(), "key": three.segments[0].key, "sha256": three.segments[0].sha256}
    made_up = checked_json.dump({"segment": SEGMENTS[1], "record": record}, schema="render_farm.segment/1")
    store.write_bytes(SegmentKeys(key=SEGMENTS[1]).record, made_up)
    assert len(load_film_state(store, FILM).segments) == 1


def test_the_second_of_two_workers_is_told_and_leaves_nothing(store, three):
    first = extend(store, three, attempt="a", worker="alpha")
    keys = store.list()
    with pytest.raises(LeaseHeldError, match="alpha"):
        extend(store, three, attempt="b", worker="beta")
    assert load_film_state(store, FILM) == first
    assert store.list() == keys
    assert np.array_equal(load_segment(store, first.segments[3]), latents_of(3))


def test_a_segment_that_does_not_follow_is_refused(store, three):
    record = save_segment(store, three, latents_of(3), SegmentMeta(attempt="a"))
    with pytest.raises(ValueError, match="cannot follow"):
        record_segment(store, extend(store, three, attempt="b"), record)


def test_a_segment_saved_but_not_recorded_does_not_count(store, three):
    save_segment(store, three, latents_of(3), SegmentMeta(attempt="crashed"))
    assert load_film_state(store, FILM) == three


@pytest.mark.parametrize("data", [b"", b"{", b"[]"])
def test_a_damaged_list_of_a_film_is_reported(store, data):
    store.write_bytes(KEYS.manifest, data)
    assert "film.json is skipped" in load_film_state(store, FILM).problems[0]
    with pytest.raises(checked_json.DamagedDocument):
        read_film_keys(store, FILM)


def test_a_film_that_began_before_segments_had_keys_goes_on(store):
    for index in range(2):
        save_as_before(store, FILM, index, latents_of(index))
    film = load_film(store, FILM, SEGMENTS)
    assert [latents.tobytes() for latents in film.latents] == [latents_of(index).tobytes() for index in range(2)]
    assert film.state.num_reused == 0
    state = extend(store, film.state)
    assert (state.segments[2].previous, load_film(store, FILM).state) == (film.state.segments[1].sha256, state)
    assert load_film_state(store, SIBLING, SEGMENTS).segments == (), "no other film knows what it began with"


@pytest.mark.slow
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


def test_a_segment_after_a_cut_continues_nothing_and_starts_other_films(store, three):
    """Film 0, 1, 2, and after a cut 3, 4. Another film consists of 3 and 4 alone."""
    meta = SegmentMeta(attempt="cut")
    after = record_segment(store, three, save_segment(store, three, latents_of(3), meta, starts_take=True))
    assert after.segments[3].previous == ""
    whole = extend(store, after)
    assert load_film_state(store, FILM).segments == whole.segments
    begin_film(store, SIBLING, SEGMENTS[3:])
    sibling = load_film(store, SIBLING)
    assert [record.key for record in sibling.state.segments] == [record.key for record in whole.segments[3:]]
    assert [record.index for record in sibling.state.segments] == [0, 1]
    assert np.array_equal(sibling.latents[0], latents_of(3))


def test_a_cut_film_takes_what_the_film_of_its_take_has_stored(store, three):
    begin_film(store, SIBLING, SEGMENTS[3:])
    extended(store, SIBLING, 2, SEGMENTS[3:])
    assert len(load_film(store, FILM).latents) == 5
