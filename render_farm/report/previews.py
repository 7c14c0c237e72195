"""Videos of films that are done, and previews of the finished segments of others."""

from __future__ import annotations

from dataclasses import dataclass

from render_farm.errors import NotFoundError
from render_farm.media.preview import read_playlist
from render_farm.storage.layout import (
    PREVIEW_INIT,
    PREVIEW_LIST,
    PREVIEW_SHEET,
    FilmKeys,
    JobKeys,
    film_key,
)
from render_farm.storage.run_state import StoredRun
from render_farm.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Watchable:
    """One film. `preview --json` prints these."""

    job_id: str
    state: str
    segments: int | None
    """Of the film; None where the run has not said yet."""
    segments_shown: int | None
    seconds: float | None
    """Of video that can be watched; None for a film that is done, which has them all."""
    video: str = ""
    """Where it is: of a done film the video, else empty (`preview --save` joins the parts)."""
    playlist: str = ""
    """HLS, of a film that is not done."""
    sheet: str = ""


def watchable(store: Store, state: StoredRun, job_ids: list[str] | None = None) -> list[Watchable]:
    """The films of a run that can be watched, in order: of all its jobs, or of `job_ids`. `state` is the run's."""
    names = [name for name in job_ids or state.jobs if name in state.jobs]
    keys = {
        name: FilmKeys(film=film_key(name, row.render_key)).preview(PREVIEW_LIST)
        for name in names
        if (row := state.jobs[name]).state != "done" and row.render_key
    }
    existing = store.existing(keys.values())
    found = []
    for name in names:
        row = state.jobs[name]
        if row.state == "done":
            video = store.uri(JobKeys(job_id=name).video)
            found.append(
                Watchable(
                    job_id=name,
                    state=row.state,
                    segments=row.segments,
                    segments_shown=row.segments,
                    seconds=None,
                    video=video,
                )
            )
        elif keys.get(name) in existing:
            work = FilmKeys(film=film_key(name, row.render_key))
            parts = _parts(store, work)
            if parts:
                found.append(
                    Watchable(
                        job_id=name,
                        state=row.state,
                        segments=row.segments,
                        segments_shown=len(parts),
                        seconds=round(sum(seconds for _, seconds in parts), 2),
                        playlist=store.uri(work.preview(PREVIEW_LIST)),
                        sheet=store.uri(work.preview(PREVIEW_SHEET)),
                    )
                )
    return found


def joined_preview(store: Store, keys: FilmKeys) -> bytes:
    """All parts of a film's preview as one MP4. NotFoundError when there is none."""
    parts = _parts(store, keys)
    if not parts:
        raise NotFoundError(f"{keys.film}: nothing can be watched yet")
    names = [PREVIEW_INIT, *(name for name, _ in parts)]
    return b"".join(store.read_bytes(keys.preview(name)) for name in names)


def _parts(store: Store, keys: FilmKeys) -> list[tuple[str, float]]:
    try:
        return read_playlist(store.read_bytes(keys.preview(PREVIEW_LIST)).decode(errors="replace"))
    except NotFoundError:
        return []
