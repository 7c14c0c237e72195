"""How a film gets its final names, exactly once, whoever dies when.

    stage     upload everything to `_work/<film>/attempts/<attempt>/`, job.json included
    commit    create `_work/<film>/commit.json` create-only: it names the attempt and its checksums; one attempt wins
    finish    copy the winner's files to `<job_id>/...`, job.json last

A crash before the commit leaves nothing under a final name; after it, whoever comes next repeats `finish_publish`,
which copies the same bytes again. A store that does not honour create-only writes gets the fallback: the last commit
wins, and everyone who copies looks again afterwards and repeats with the winner's files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from render_farm.errors import CorruptCheckpointError, NotFoundError, StorageError
from render_farm.storage import checked_json
from render_farm.storage.claims import Claim, ClaimLostError, is_current, read_claim
from render_farm.storage.done import dump_job, read_done
from render_farm.storage.hashing import sha256_bytes, sha256_file
from render_farm.storage.layout import (
    FINAL_NAMES,
    JOB,
    VIDEO,
    FilmKeys,
    JobKeys,
    check_id,
    replaced_key,
    split_film_key,
)
from render_farm.storage.store import Store, content_type_for

log = logging.getLogger(__name__)
SCHEMA = "render_farm.commit/1"


@dataclass(frozen=True, kw_only=True)
class StagedFile:
    """One uploaded file of an attempt."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt's files, all uploaded; `job.json` is the last."""

    film: str
    attempt: str
    files: tuple[StagedFile, ...]

    @property
    def job_id(self) -> str:
        return split_film_key(self.film)[0]


@dataclass(frozen=True, kw_only=True)
class Published:
    """How publishing ended."""

    job: dict[str, Any]
    """The `job.json` that is there now."""
    won: bool
    """False when another attempt had been committed before; its files are the published ones."""


def publish(
    store: Store,
    film: str,
    attempt: str,
    files: Mapping[str, str | os.PathLike[str]],
    job: Mapping[str, Any],
    *,
    create_only: bool = True,
    claim: Claim | None = None,
) -> Published:
    """Publish a finished film: stage, commit, finish. On return the job is done, by this attempt or an earlier one.
    `claim` is what `claim_job` gave; see `finish_publish`.

    `files` maps final names (`video.mp4`, `poster.jpg`, `latents.safetensors`) to local paths; `job` is what
    `job.json` shall say, to which `job_id`, `render_key`, `attempt`, `sha256` (of the video) and `files` are added.
    `create_only` is what `probe.create_only_honoured` found. StorageError passes; calling again is always right.
    """
    job_id, render_key = split_film_key(film)
    done = read_done(store, job_id)
    if done is not None and done["render_key"] == render_key:
        return Published(job=done, won=done.get("attempt") == attempt)
    if pending_commit(store, film) is not None:
        try:
            finished = finish_publish(store, film, claim)
            return Published(job=finished, won=finished.get("attempt") == attempt)
        except CorruptCheckpointError as error:  # withdrawn; this attempt has the files
            log.warning("%s", error)
    commit(store, stage(store, film, attempt, files, job), create_only=create_only)
    finished = finish_publish(store, film, claim)
    return Published(job=finished, won=finished.get("attempt") == attempt)


def stage(
    store: Store,
    film: str,
    attempt: str,
    files: Mapping[str, str | os.PathLike[str]],
    job: Mapping[str, Any],
) -> Attempt:
    """Upload an attempt's files to its own folder. Nothing of it is visible under a final name."""
    job_id, render_key = split_film_key(film)
    keys = FilmKeys(film=film)
    unknown = sorted(set(files) - set(FINAL_NAMES) | ({JOB} & set(files)))
    if unknown or VIDEO not in files:
        raise ValueError(f"files must hold {VIDEO} and only final names besides job.json; wrong: {unknown}")
    staged: list[StagedFile] = []
    for name in sorted(files):
        store.put_file(files[name], keys.attempt_file(attempt, name), content_type_for(name))
        num_bytes = Path(files[name]).stat().st_size
        staged.append(StagedFile(name=name, sha256=sha256_file(files[name]), num_bytes=num_bytes))
    content = {
        **job,
        "job_id": job_id,
        "render_key": render_key,
        "attempt": attempt,
        "sha256": next(file.sha256 for file in staged if file.name == VIDEO),
        "files": {file.name: {"sha256": file.sha256, "num_bytes": file.num_bytes} for file in staged},
    }
    data = dump_job(content)
    store.write_bytes(keys.attempt_file(attempt, JOB), data, content_type_for(JOB))
    staged.append(StagedFile(name=JOB, sha256=sha256_bytes(data), num_bytes=len(data)))
    return Attempt(film=film, attempt=attempt, files=tuple(staged))


def commit(store: Store, staged: Attempt, *, create_only: bool = True) -> Attempt:
    """Try to make `staged` the film's one attempt. Returns the committed one: `staged`, or another that was first
    (then the files of `staged` are removed)."""
    key = FilmKeys(film=staged.film).commit
    data = checked_json.dump(
        {"film": staged.film, "attempt": staged.attempt, "files": [asdict(file) for file in staged.files]},
        schema=SCHEMA,
    )
    if create_only:
        store.create(key, data)
    else:
        log.warning("%s does not honour create-only writes: the last commit of %s wins", store.root_uri, staged.film)
        store.write_bytes(key, data)
    winner = pending_commit(store, staged.film)
    if winner is None:
        raise StorageError(f"{store.uri(key)}: written, but cannot be read back")
    if winner.attempt != staged.attempt:
        store.delete_tree(FilmKeys(film=staged.film).attempt(staged.attempt))
    return winner


def pending_commit(store: Store, film: str) -> Attempt | None:
    """The committed attempt of a film, or None when nothing has been committed. With one, only `finish_publish` is
    left to do; nothing needs rendering. A damaged commit.json is removed, with a warning."""
    key = FilmKeys(film=film).commit
    try:
        content = checked_json.load(store.read_bytes(key), schema=SCHEMA)
        files = tuple(_staged_file(file) for file in content["files"])
        attempt = Attempt(film=film, attempt=check_id(content["attempt"], "attempt"), files=files)
        if content["film"] != film or not files or files[-1].name != JOB:
            raise checked_json.DamagedDocument(f"it belongs to {content['film']!r:.80}")
    except NotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is removed: %s", store.uri(key), error)
        store.delete(key)
        return None
    return attempt


def _staged_file(content: dict[str, Any]) -> StagedFile:
    """ValueError, KeyError or TypeError for anything that `commit` did not write."""
    file = StagedFile(**content)
    if file.name not in FINAL_NAMES or not isinstance(file.sha256, str) or not isinstance(file.num_bytes, int):
        raise ValueError(f"it lists {content!r:.120}")
    return file


def finish_publish(store: Store, film: str, claim: Claim | None = None) -> dict[str, Any]:
    """Copy the committed attempt to the final names, `job.json` last, and return what `job.json` says. Idempotent:
    repeating it, from several processes at once too, ends in the same files.

    A `job.json` of other pixels (a changed job) is deleted before anything is replaced. NotFoundError when nothing is
    committed. CorruptCheckpointError when the attempt's files are gone or cut short: the commit is withdrawn, and the
    film has to be decoded and staged again. ClaimLostError when another film's claim on the job is newer than `claim`:
    then that one's files are put back if this process may have mixed with them.
    """
    while True:
        winner = pending_commit(store, film)
        if winner is None:
            raise NotFoundError(f"film {film}: nothing is committed")
        if claim is not None and not is_current(store, claim):
            raise ClaimLostError(f"film {film}: another run has claimed job {winner.job_id}")
        _copy_to_final(store, winner)
        if claim is not None and not is_current(store, claim):
            _repair(store, winner)
            raise ClaimLostError(f"film {film}: another run has claimed job {winner.job_id} meanwhile")
        again = pending_commit(store, film)
        if again is None or again.attempt == winner.attempt:  # a fallback's later commit replaced it: once more
            break
    done = read_done(store, winner.job_id)
    if done is None:
        raise StorageError(f"{store.uri(JobKeys(job_id=winner.job_id).job)}: written, but cannot be read back")
    return done


def _repair(store: Store, intruder: Attempt) -> None:
    """Complete the film that claims the job now, over whose files `intruder` may have copied its own."""
    newest = read_claim(store, intruder.job_id)
    if newest is None or newest.film in ("", intruder.film):
        return
    winner = pending_commit(store, newest.film)
    if winner is not None:
        _copy_to_final(store, winner, anew=True)
    else:  # it is not finished yet, and will replace everything when it is
        store.delete(JobKeys(job_id=intruder.job_id).job)


def clean_work(store: Store, film: str) -> None:
    """Remove a published film's work folder. `commit.json` goes last, so that a late attempt still meets it; repeat
    after a crash."""
    keys = FilmKeys(film=film)
    for folder in (keys.attempts, keys.steps, keys.segments, keys.states):
        store.delete_tree(folder)
    store.delete_tree(keys.folder)


def _copy_to_final(store: Store, winner: Attempt, *, anew: bool = False) -> None:
    job_id, render_key = split_film_key(winner.film)
    final, work = JobKeys(job_id=job_id), FilmKeys(film=winner.film)
    done = read_done(store, job_id)
    if not anew and done is not None and done["render_key"] == render_key and done.get("attempt") == winner.attempt:
        return
    _check_staged(store, winner)
    if done is not None and done["render_key"] != render_key:
        store.write_bytes(replaced_key(job_id), b"")
    store.delete(final.job)  # from here until the copy of the new one, the job is not done
    names = [file.name for file in winner.files]
    for stale in set(FINAL_NAMES) - set(names):
        store.delete(final.final(stale))
    for name in names:
        store.copy(work.attempt_file(winner.attempt, name), final.final(name), content_type_for(name))


def _check_staged(store: Store, winner: Attempt) -> None:
    keys = FilmKeys(film=winner.film)
    for file in winner.files:
        key = keys.attempt_file(winner.attempt, file.name)
        try:
            num_bytes = store.size(key)
        except NotFoundError:
            num_bytes = -1
        if num_bytes != file.num_bytes:
            store.delete(keys.commit)
            state = "is missing" if num_bytes < 0 else f"has {num_bytes} bytes"
            raise CorruptCheckpointError(
                f"film {winner.film}: {store.uri(key)} {state}, where {file.num_bytes} bytes were committed",
                advice="the commit is withdrawn; decode and publish the film again",
            )
