"""The durable state of a film: a series of numbered, create-only objects.

An object store cannot append, so every finished segment adds one small object `state/<number>.json`. It lists all
segments so far, or, in a film of many, the new one alone: all objects of a film together grow with its segments and not
with their square. The newest one that can be read counts; a torn or garbled one is skipped and reported. Because
numbers are taken create-only, two workers on one film cannot both extend it: the second is told so and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from render_farm.errors import CorruptCheckpointError, LeaseHeldError, NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.layout import FilmKeys, number_of, split_film_key
from render_farm.storage.segments import SegmentMeta, SegmentRecord, load_segment, save_segment
from render_farm.storage.store import Store, check_key

__all__ = [
    "LoadedFilm",
    "SegmentMeta",
    "SegmentRecord",
    "StoredFilm",
    "load_film",
    "load_film_state",
    "load_segment",
    "record_segment",
    "save_segment",
]

SCHEMA = "render_farm.film/1"
STEP_SCHEMA = "render_farm.film_step/1"
_ALL_LISTED = 16
"""So many objects list all segments. Of the later ones four do in each doubling."""
_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class StoredFilm:
    """What a film has so far. `segments` are 0..k without a gap."""

    film: str
    render_key: str
    number: int = 0
    """The highest snapshot number taken by anyone, whole or not; 0 for a film that has not started."""
    segments: tuple[SegmentRecord, ...] = ()
    problems: tuple[str, ...] = ()
    """What was skipped while loading, one line each, for the log."""
    set_aside: tuple[SegmentRecord, ...] = ()
    """A damaged segment, and those after it: they hold still if it comes out the same when it is rendered again."""

    @property
    def num_latent_frames(self) -> int:
        return sum(record.num_latent_frames for record in self.segments)

    def truncated(self, num_segments: int, problem: str = "") -> StoredFilm:
        """This state as if only the first `num_segments` existed. Nothing is written: the next recorded segment
        makes it durable."""
        problems = self.problems + ((problem,) if problem else ())
        kept, set_aside = self.segments[:num_segments], self.segments[num_segments:]
        return replace(self, segments=kept, problems=problems, set_aside=set_aside)


@dataclass(frozen=True, kw_only=True)
class LoadedFilm:
    """A film's state and the latents of all its segments, verified, in order (each float32, 1 C T H W)."""

    state: StoredFilm
    latents: tuple[np.ndarray, ...]


def load_film_state(store: Store, film: str) -> StoredFilm:
    """The newest whole snapshot of a film, or an empty state when there is none.

    Reads one listing and usually one object, of a film of many segments a quarter of its objects; segments are not read
    (`load_film` does). Objects that are torn, garbled, of another schema or of another film are skipped and named in
    `problems`. StorageError passes.
    """
    keys = FilmKeys(film=film)
    _, render_key = split_film_key(film)
    numbers = sorted({n for n in map(number_of, store.list(keys.states)) if n is not None}, reverse=True)
    problems: list[str] = []
    for number in numbers:
        key = keys.state(number)
        try:
            segments = _segments_at(store, film, render_key, number)
        except NotFoundError:
            continue  # cleaned up since it was listed
        except ValueError as error:
            problems.append(f"{store.uri(key)} is skipped: {error}")
            continue
        return StoredFilm(
            film=film, render_key=render_key, number=numbers[0], segments=segments, problems=tuple(problems)
        )
    number = numbers[0] if numbers else 0
    return StoredFilm(film=film, render_key=render_key, number=number, problems=tuple(problems))


def load_film(store: Store, film: str) -> LoadedFilm:
    """The longest usable beginning of a film: its state and latents, up to the first segment that is missing or corrupt
    (named in `state.problems`), where rendering continues."""
    state = load_film_state(store, film)
    latents: list[np.ndarray] = []
    for record in state.segments:
        try:
            latents.append(load_segment(store, record))
        except CorruptCheckpointError as error:
            state = state.truncated(record.index, str(error))
            break
    return LoadedFilm(state=state, latents=tuple(latents))


def record_segment(store: Store, previous: StoredFilm, record: SegmentRecord) -> StoredFilm:
    """Make a saved segment part of the film: writes the next snapshot and returns the new state.

    `record.index` is at most `len(previous.segments)`; later segments are dropped, but for those set aside because of
    a damaged one that holds the very bytes again: they continue the same latents. LeaseHeldError when another worker
    has written a snapshot since `previous` was loaded: the film is theirs, and nothing of it was changed.
    """
    if not 0 <= record.index <= len(previous.segments):
        raise ValueError(f"segment {record.index} cannot follow {len(previous.segments)} segments")
    segments = (*previous.segments[: record.index], record)
    if previous.set_aside and (previous.set_aside[0].index, previous.set_aside[0].sha256) == (
        record.index,
        record.sha256,
    ):
        segments += previous.set_aside[1:]
    number = previous.number + 1
    key = FilmKeys(film=previous.film).state(number)
    lists_all = _lists_all(number) or previous.problems or previous.set_aside
    if not store.create(key, _snapshot(previous, segments, number, since=0 if lists_all else record.index)):
        newest = load_film_state(store, previous.film)
        writer = newest.segments[-1].worker if newest.segments else ""
        raise LeaseHeldError(
            f"film {previous.film}: segment {record.index} is not recorded, because {writer or 'another worker'} has "
            f"written {store.uri(key)} since this worker loaded the film",
            advice="load the film again and continue from there",
        )
    return replace(previous, number=number, segments=segments, problems=(), set_aside=())


def _lists_all(number: int) -> bool:
    """Whether the object of a number lists all segments, whatever happened before."""
    return number <= _ALL_LISTED or number % (1 << (number.bit_length() - 3)) == 0


def _snapshot(state: StoredFilm, segments: Sequence[SegmentRecord], number: int, *, since: int) -> bytes:
    content = {
        "film": state.film,
        "render_key": state.render_key,
        "number": number,
        "segments": [record.to_dict() for record in segments[since:]],
    }
    if since:
        return checked_json.dump({**content, "since": since}, schema=STEP_SCHEMA)
    return checked_json.dump(content, schema=SCHEMA)


def _segments_at(store: Store, film: str, render_key: str, number: int) -> tuple[SegmentRecord, ...]:
    """The segments that the state object `number` stands for. NotFoundError when it is gone, ValueError when it, or one
    that it builds on, cannot be read."""
    keys = FilmKeys(film=film)
    found = _read_object(store.read_bytes(keys.state(number)), film, render_key)
    if found.since == 0:
        return found.segments
    first = next(earlier for earlier in range(number - 1, 0, -1) if _lists_all(earlier))

    def read(earlier: int) -> _StateObject:
        try:
            return _read_object(store.read_bytes(keys.state(earlier)), film, render_key)
        except (NotFoundError, ValueError) as error:
            raise ValueError(f"it builds on number {earlier}, which cannot be read: {error}") from error

    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        parts = [*pool.map(read, range(first, number)), found]
    segments: tuple[SegmentRecord, ...] = ()
    for part in parts:
        if part.since > len(segments):
            raise ValueError(f"it builds on {part.since} segments, and there are {len(segments)}")
        segments = segments[: part.since] + part.segments
    return segments


@dataclass(frozen=True, kw_only=True)
class _StateObject:
    since: int
    """The index of its first segment; those before it are the previous object's."""
    segments: tuple[SegmentRecord, ...]


def _read_object(data: bytes, film: str, render_key: str) -> _StateObject:
    schema = STEP_SCHEMA if f'"{STEP_SCHEMA}"'.encode() in data else SCHEMA
    content = checked_json.load(data, schema=schema)
    since = content.get("since", 0)
    if not isinstance(since, int) or isinstance(since, bool) or (schema == STEP_SCHEMA) != (since > 0):
        raise ValueError(f"it begins at segment {since!r}")
    if content.get("film") != film or content.get("render_key") != render_key:
        raise ValueError(f"it belongs to {content.get('film')!r}")
    listed = content.get("segments")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise ValueError("it lists no segments")
    segments = tuple(SegmentRecord.from_dict(item) for item in listed)
    folder = FilmKeys(film=film).segments
    for index, record in enumerate(segments, start=since):
        if not record.key.startswith(f"{folder}/"):
            raise ValueError(f"segment {index} is said to be in {record.key!r:.120}")
        check_key(record.key)
        if record.index != index:
            return _StateObject(since=since, segments=segments[: index - since])
    return _StateObject(since=since, segments=segments)
