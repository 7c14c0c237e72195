"""Films that began before segments had keys of their own: read, and never written.

Their segments lie in the film's own folder. Numbered objects `state/<number>.json` list all of them, or, in a film of
many, the new one alone. The newest one that can be read counts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from render_farm.errors import NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.layout import FilmKeys, number_of, split_film_key
from render_farm.storage.segments import SegmentRecord
from render_farm.storage.store import Store, check_key

SNAPSHOT_SCHEMA = "render_farm.film/1"
STEP_SCHEMA = "render_farm.film_step/1"
_ALL_LISTED = 16
"""So many objects list all segments. Of the later ones four do in each doubling."""
_READS_AT_ONCE = 16


def read_earlier_film(store: Store, film: str) -> tuple[tuple[SegmentRecord, ...], tuple[str, ...]]:
    """The segments 0..k of such a film, and what was skipped while reading, one line each. Both are empty for any other
    film, after one listing. StorageError passes."""
    keys, problems = FilmKeys(film=film), list[str]()
    _, render_key = split_film_key(film)
    numbers = {number for number in map(number_of, store.list(keys.states)) if number is not None}
    for number in sorted(numbers, reverse=True):
        try:
            return _segments_at(store, film, render_key, number), tuple(problems)
        except NotFoundError:
            continue  # cleaned up since it was listed
        except ValueError as error:
            problems.append(f"{store.uri(keys.state(number))} is skipped: {error}")
    return (), tuple(problems)


def _lists_all(number: int) -> bool:
    """Whether the object of a number lists all segments, whatever happened before."""
    return number <= _ALL_LISTED or number % (1 << (number.bit_length() - 3)) == 0


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
    schema = STEP_SCHEMA if f'"{STEP_SCHEMA}"'.encode() in data else SNAPSHOT_SCHEMA
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
