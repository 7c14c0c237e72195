"""Films that began before segments had keys of their own are read as far as they are whole."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.storage import checked_json, open_store
from render_farm.storage.earlier_films import SNAPSHOT_SCHEMA, read_earlier_film
from render_farm.storage.layout import FilmKeys, film_key
from tests.helpers.segments import save_as_before

FILM, OTHER = film_key("job", "0123456789ab"), film_key("other", "0123456789ab")
KEYS = FilmKeys(film=FILM)
LATENTS = np.zeros((1, 1, 1, 1, 1), np.float32)


def stored(name: str, number: int):
    store = open_store(f"memory://earlier-{name}")
    for index in range(number):
        save_as_before(store, FILM, index, LATENTS)
    return store


def test_any_other_film_has_none(tmp_path):
    assert read_earlier_film(open_store(tmp_path), FILM) == ((), ())


@pytest.mark.parametrize("number", [1, 16, 17, 20, 21, 33, 47])
def test_a_film_is_read_whole_wherever_it_stopped(number):
    segments, problems = read_earlier_film(stored(f"whole-{number}", number), FILM)
    assert [record.index for record in segments] == list(range(number))
    assert problems == ()


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign"])
def test_the_newest_whole_object_counts(damage):
    store = stored(damage, 3)
    data = store.read_bytes(KEYS.state(3))
    foreign = data.replace(KEYS.folder.encode(), FilmKeys(film=OTHER).folder.encode())
    store.write_bytes(KEYS.state(3), {"torn": data[: len(data) // 2], "empty": b"", "foreign": foreign}[damage])
    segments, problems = read_earlier_film(store, FILM)
    assert len(segments) == 2
    assert "00000003.json" in problems[0]
    made_up = checked_json.dump({"film": FILM, "render_key": "0123456789ab", "segments": 3}, schema=SNAPSHOT_SCHEMA)
    store.write_bytes(KEYS.state(2), made_up)
    assert len(read_earlier_film(store, FILM)[0]) == 1


def test_a_torn_object_in_a_long_film_costs_what_builds_on_it():
    store = stored("long", 31)
    store.write_bytes(KEYS.state(30), b"{")
    segments, problems = read_earlier_film(store, FILM)
    assert len(segments) == 29
    assert "builds on number 30" in problems[0] and "00000030.json" in problems[1]
