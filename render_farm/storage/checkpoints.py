"""What is stored of a film: a chain of segments, each under its own key, shared by all films that begin alike.

    _work/_segments/<2 hex>/<key>-<attempt>.safetensors      latents, one object per attempt
    _work/_segments/<2 hex>/<key>.json                       create-only: which attempt is the segment
    _work/<film>/film.json                                   which segments the film consists of

Of several workers that render one segment, in one run or in two, one creates the record. The others are told so and
continue from its latents. A record names the checksum of the segment before, if it continues one: a chain goes only as
far as every segment continues the very bytes that are stored before it. Nobody has to wait for anybody.

The beginning of a film that an earlier version stored (`earlier_films.py`) is read. What follows it is stored as above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from render_farm.errors import CorruptCheckpointError, LeaseHeldError, NotFoundError, StorageError
from render_farm.storage import checked_json
from render_farm.storage.earlier_films import read_earlier_film
from render_farm.storage.layout import SEGMENTS, FilmKeys, SegmentKeys, segment_of
from render_farm.storage.segments import SegmentMeta, SegmentRecord, load_segment, save_latents
from render_farm.storage.store import Store, check_key

__all__ = [
    "LoadedFilm",
    "SegmentMeta",
    "SegmentRecord",
    "StoredFilm",
    "begin_film",
    "continue_film",
    "latents_of",
    "load_film",
    "load_film_state",
    "load_segment",
    "read_film_keys",
    "record_segment",
    "save_segment",
    "stored_segments",
]

FILM_SCHEMA = "render_farm.film/2"
SEGMENT_SCHEMA = "render_farm.segment/1"
_RECORD_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class StoredFilm:
    """What a film has so far. `segments` are 0..k without a gap."""

    film: str
    keys: tuple[str, ...] = ()
    """Of all its segments; empty when they are not known."""
    segments: tuple[SegmentRecord, ...] = ()
    problems: tuple[str, ...] = ()
    """What was skipped while loading, one line each, for the log."""

    @property
    def num_latent_frames(self) -> int:
        return sum(record.num_latent_frames for record in self.segments)

    @property
    def num_reused(self) -> int:
        """Segments that were rendered for other films."""
        return sum(record.film not in ("", self.film) for record in self.segments)

    def truncated(self, num_segments: int, problem: str) -> StoredFilm:
        """This state as if only the first `num_segments` existed. Nothing is written."""
        return replace(self, segments=self.segments[:num_segments], problems=(*self.problems, problem))


@dataclass(frozen=True, kw_only=True)
class LoadedFilm:
    """A film's state and the latents of all its segments, verified, in order (each float32, 1 C T H W)."""

    state: StoredFilm
    latents: tuple[np.ndarray, ...]


def begin_film(store: Store, film: str, keys: Sequence[str], *, others: Iterable[str] = ()) -> None:
    """Write which segments a film consists of, and which `others` it may come back to. `gc` keeps both from here on;
    repeating it changes nothing."""
    content = {"film": film, "segments": list(keys)}
    if kept := list(others):
        content["others"] = kept
    store.write_bytes(FilmKeys(film=film).manifest, checked_json.dump(content, schema=FILM_SCHEMA))


def read_film_keys(store: Store, film: str, *, with_others: bool = False) -> tuple[str, ...]:
    """What `begin_film` wrote; empty when it did not. `DamagedDocument` when that cannot be told."""
    try:
        content = checked_json.load(store.read_bytes(FilmKeys(film=film).manifest), schema=FILM_SCHEMA)
    except NotFoundError:
        return ()
    keys, others = content.get("segments"), content.get("others", [])
    if content.get("film") != film or not isinstance(keys, list) or not isinstance(others, list):
        raise checked_json.DamagedDocument(f"it belongs to {content.get('film')!r:.80}")
    try:
        return tuple(SegmentKeys(key=key).key for key in (*keys, *(others if with_others else ())))
    except (TypeError, ValueError) as error:
        raise checked_json.DamagedDocument(str(error)) from error


def load_film_state(store: Store, film: str, keys: Sequence[str] | None = None) -> StoredFilm:
    """How far a film is stored. Latents are not read (`load_film` does).

    `keys` are those of its segments; None reads what `begin_film` wrote. What is torn, garbled, of another schema or of
    another film is skipped and named in `problems`. StorageError passes.
    """
    return _followed(store, _opened(store, film, keys))


def load_film(store: Store, film: str, keys: Sequence[str] | None = None, *, with_earlier: bool = True) -> LoadedFilm:
    """The longest usable beginning of a film: its state and latents, up to the first segment that is missing or
    corrupt (named in `state.problems`), where rendering continues. Otherwise as `load_film_state`. Without
    `with_earlier`, segments that an earlier version stored do not count."""
    return continue_film(store, _opened(store, film, keys, with_earlier=with_earlier))


def continue_film(store: Store, state: StoredFilm, latents: Sequence[np.ndarray] = ()) -> LoadedFilm:
    """The film of `state` with what is stored of it beyond its `latents`."""
    state, found = _followed(store, state), list(latents)
    for record in state.segments[len(found) :]:
        try:
            found.append(load_segment(store, record))
        except CorruptCheckpointError as error:
            state = state.truncated(record.index, str(error))
            break
    return LoadedFilm(state=state, latents=tuple(found))


def save_segment(
    store: Store, state: StoredFilm, latents: np.ndarray, meta: SegmentMeta, *, starts_take: bool = False
) -> SegmentRecord:
    """Store the latents of the segment that follows `state`; see `segments.save_latents`. It is part of the film when
    `record_segment` has recorded it. One that `starts_take` continues nothing, so that other films can start with it.
    """
    index = len(state.segments)
    key, previous = SegmentKeys(key=state.keys[index]), "" if starts_take else _last_sha256(state)
    return save_latents(store, key, index, latents, meta, film=state.film, previous=previous)


def record_segment(store: Store, state: StoredFilm, record: SegmentRecord) -> StoredFilm:
    """Make a saved segment part of the film and of every film that has the same beginning; returns the new state.

    `record` follows `state`, or continues nothing, else ValueError. A record that is there already counts, unless it is
    damaged, or its latents are, or it continues other latents than this film's: then it is replaced. LeaseHeldError
    when it counts: the latents of `record` are removed, nothing else is changed, and the film goes on from the other's.
    """
    if record.index != len(state.segments) or record.previous not in ("", _last_sha256(state)):
        raise ValueError(f"segment {record.index} cannot follow {len(state.segments)} segments")
    key = SegmentKeys(key=state.keys[record.index])
    data = checked_json.dump({"segment": key.key, "record": record.to_dict()}, schema=SEGMENT_SCHEMA)
    for _ in range(_RECORD_TRIES):
        if store.create(key.record, data):
            return replace(state, segments=(*state.segments, record), problems=())
        try:
            other = _next_record(store, state)
            if other is None:
                continue  # it was replaced at this moment
            load_segment(store, other)
        except (ValueError, CorruptCheckpointError):
            store.delete(key.record)
            continue
        store.delete(record.key)
        raise LeaseHeldError(
            f"film {state.film}: segment {record.index} was stored by {other.worker or 'another worker'} while this "
            "worker rendered it",
            advice="load the film again and continue from there",
        )
    raise StorageError(f"{store.uri(key.record)}: others replace it again and again")


def stored_segments(store: Store) -> frozenset[str]:
    """The keys of all segments of the output that have been recorded, by one listing. They are not read."""
    names = (key for key in store.list(SEGMENTS) if key.endswith(".json"))
    return frozenset(key for name in names if (key := segment_of(name)) is not None)


def latents_of(store: Store, segment: str) -> str:
    """The key of the latents that a segment's record names; empty where no record can be read."""
    try:
        return _read_record(store.read_bytes(SegmentKeys(key=segment).record), segment, 0).key
    except (NotFoundError, ValueError):
        return ""


def _opened(store: Store, film: str, keys: Sequence[str] | None, *, with_earlier: bool = True) -> StoredFilm:
    """A film with the beginning that an earlier version stored of it, if one did."""
    problems: list[str] = []
    if keys is None:
        try:
            keys = read_film_keys(store, film)
        except checked_json.DamagedDocument as error:
            keys, problems = (), [f"{store.uri(FilmKeys(film=film).manifest)} is skipped: {error}"]
    segments, skipped = read_earlier_film(store, film) if with_earlier else ((), ())
    return StoredFilm(film=film, keys=tuple(keys), segments=segments, problems=(*problems, *skipped))


def _followed(store: Store, state: StoredFilm) -> StoredFilm:
    """The film with the records that continue it."""
    while len(state.segments) < len(state.keys):
        try:
            record = _next_record(store, state)
        except ValueError as error:
            uri = store.uri(SegmentKeys(key=state.keys[len(state.segments)]).record)
            return state.truncated(len(state.segments), f"{uri} is skipped: {error}")
        if record is None:
            break
        state = replace(state, segments=(*state.segments, record))
    return state


def _next_record(store: Store, state: StoredFilm) -> SegmentRecord | None:
    """The record of the segment that follows `state`; None when there is none. ValueError when it cannot follow."""
    index = len(state.segments)
    key = state.keys[index]
    try:
        record = _read_record(store.read_bytes(SegmentKeys(key=key).record), key, index)
    except NotFoundError:
        return None
    if record.previous not in ("", _last_sha256(state)):  # its key says whether it continues anything
        raise ValueError("it continues other latents than those that are stored before it")
    return record


def _last_sha256(state: StoredFilm) -> str:
    return state.segments[-1].sha256 if state.segments else ""


def _read_record(data: bytes, key: str, index: int) -> SegmentRecord:
    """ValueError for anything that `record_segment` did not write for this segment."""
    content = checked_json.load(data, schema=SEGMENT_SCHEMA)
    if content.get("segment") != key or not isinstance(content.get("record"), dict):
        raise ValueError(f"it belongs to {content.get('segment')!r:.80}")
    record = SegmentRecord.from_dict(content["record"])
    if segment_of(record.key) != key or not record.key.endswith(".safetensors"):
        raise ValueError(f"its latents are said to be in {record.key!r:.120}")
    check_key(record.key)
    return replace(record, index=index)
