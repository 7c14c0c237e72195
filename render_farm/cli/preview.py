"""`render-farm preview`: a film before it is finished, as far as its segments are."""

from __future__ import annotations

import tempfile
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli.runs import Output, Run, find_run
from render_farm.cli.terminal import Json, hint, plural, print_json, say
from render_farm.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from render_farm.report.previews import Watchable
    from render_farm.storage import Store
    from render_farm.storage.run_state import StoredRun


def preview(
    run: Run,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Default: all that can be watched.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Write what is there as one MP4.")] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Watch a film while it renders: its finished segments, as an HLS playlist or one MP4. A finished film has its
    video.mp4. `cancel RUN JOB` stops a film that goes wrong.
    """
    from render_farm.report.previews import watchable
    from render_farm.storage.run_state import load_run_state

    if job is None and (open_it or save):
        raise UsageError("--open and --save are for one film", advice="name a JOB; without one all are listed")
    place = find_run(run, output)
    state = load_run_state(place.store, place.run_id)
    films = watchable(place.store, state, [job] if job else None)
    if job is not None and not films:
        raise _nothing_yet(job, state, place.run_id)
    written = _write(place.store, state, films[0], save) if open_it or save else None
    if as_json:
        print_json({"run_id": place.run_id, "films": [asdict(film) for film in films], "saved": written})
    elif written:
        say(written)
    else:
        say("\n".join(_line(film) for film in films) or "nothing can be watched yet")
    if open_it and not webbrowser.open(Path(str(written)).absolute().as_uri()):
        hint("no browser could be opened here")


def _line(film: Watchable) -> str:
    if film.video:
        return f"{film.job_id}: done: {film.video}"
    of = f" of {film.segments}" if film.segments else ""
    return f"{film.job_id}: {film.segments_shown}{of} segments, {film.seconds:g} s: {film.playlist}"


def _nothing_yet(job: str, state: StoredRun, run_id: str) -> NotFoundError:
    row = state.jobs.get(job)
    if row is None:
        return NotFoundError(
            f"run {run_id}: nothing is known of a job {job!r} yet", advice=f"render-farm status {run_id}"
        )
    if row.segments == 1:
        return NotFoundError(f"job {job} is rendered in one segment: it can be watched when it is done")
    done = plural(row.segments_done, "segment")
    return NotFoundError(
        f"nothing can be watched of job {job} yet: it is {row.state}, {done} of {row.segments or '?'} stored",
        advice="a preview comes soon after the first segment, if the setting `previews` is on",
    )


def _write(store: Store, state: StoredRun, film: Watchable, save: str | None) -> str:
    """Have the film as a local file, and return where."""
    from render_farm.report.previews import joined_preview
    from render_farm.storage.layout import FilmKeys, JobKeys, film_key
    from render_farm.uris import protocol_of

    if not save and film.video and protocol_of(film.video) == "file":
        return film.video
    path = Path(save or Path(tempfile.mkdtemp(prefix="render-farm-preview-")) / f"{film.job_id}.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if film.video:
            store.get_file(JobKeys(job_id=film.job_id).video, path)
        else:
            keys = FilmKeys(film=film_key(film.job_id, state.jobs[film.job_id].render_key))
            path.write_bytes(joined_preview(store, keys))
    except OSError as error:
        raise UsageError(f"--save {path}: {error.strerror or error}") from error
    return str(path)
