"""What can be watched of a film: its video when it is done, before that the finished segments' preview."""

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
    """What can be watched of a run's jobs, in their order; of all of them, or of `job_ids`. `state` is what the run
    knows of them."""
    names = [name for name in job_ids or state.jobs if name in state.jobs]
    keys = {
        name: FilmKeys(film=film_key(name, row.render_key)).preview(PREVIEW_LIST)
        for name in names
        if (row := state.jobs[name]).state != "done" and row.render_key
    }
    there = store.sizes(keys.values())
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
        elif keys.get(name) in there:
            film = FilmKeys(film=film_key(name, row.render_key))
            parts = _parts(store, film)
            if parts:
                found.append(
                    Watchable(
                        job_id=name,
                        state=row.state,
                        segments=row.segments,
                        segments_shown=len(parts),
                        seconds=round(sum(seconds for _, seconds in parts), 2),
                        playlist=store.uri(film.preview(PREVIEW_LIST)),
                        sheet=store.uri(film.preview(PREVIEW_SHEET)),
                    )
                )
    return found


def joined_preview(store: Store, film: FilmKeys) -> bytes:
    """All parts of a film's preview as one MP4. NotFoundError when there is none."""
    parts = _parts(store, film)
    if not parts:
        raise NotFoundError(f"{film.film}: nothing can be watched yet")
    names = [PREVIEW_INIT, *(name for name, _ in parts)]
    return b"".join(store.read_bytes(film.preview(name)) for name in names)


def _parts(store: Store, film: FilmKeys) -> list[tuple[str, float]]:
    try:
        return read_playlist(store.read_bytes(film.preview(PREVIEW_LIST)).decode(errors="replace"))
    except NotFoundError:
        return []
