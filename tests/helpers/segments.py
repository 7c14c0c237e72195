"""Segments of films that began before they were stored under keys of their own."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import save

from render_farm.storage import checked_json
from render_farm.storage.earlier_films import SNAPSHOT_SCHEMA, STEP_SCHEMA, read_earlier_film
from render_farm.storage.hashing import sha256_bytes
from render_farm.storage.layout import FilmKeys, split_film_key
from render_farm.storage.store import Store


def save_as_before(store: Store, film: str, index: int, latents: np.ndarray) -> None:
    """Store segment `index` of a film in its own folder, and the snapshot that lists it, as earlier versions did."""
    keys = FilmKeys(film=film)
    data = save({"latents": np.ascontiguousarray(latents)}, metadata={"segment": f"{film}/{index}"})
    name = f"{keys.segments}/{index:04d}-old.safetensors"
    store.write_bytes(name, data)
    record = {
        "index": index,
        "key": name,
        "sha256": sha256_bytes(data),
        "num_bytes": len(data),
        "num_latent_frames": latents.shape[2],
        "seconds": 1.5,
        "worker": "old",
        "group_shape": [1, 1, 1],
        "attempt": "old",
        "finished_at": "2026-11-01T00:00:00.000+00:00",
        "engine": {},
    }
    number = index + 1
    content = {"film": film, "render_key": split_film_key(film)[1], "number": number}
    if number <= 16 or number % (1 << (number.bit_length() - 3)) == 0:
        before = read_earlier_film(store, film)[0][:index]
        document = {**content, "segments": [*(one.to_dict() for one in before), record]}
        store.write_bytes(keys.state(number), checked_json.dump(document, schema=SNAPSHOT_SCHEMA))
    else:
        document = {**content, "segments": [record], "since": index}
        store.write_bytes(keys.state(number), checked_json.dump(document, schema=STEP_SCHEMA))
