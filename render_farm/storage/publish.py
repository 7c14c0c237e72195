"""How a film gets its final names, exactly once, whoever dies when. `README.md` has the protocol as a table.

    stage     upload everything to `_work/<film>/attempts/<attempt>/`, job.json included
    commit    create `_work/<film>/commit.json` create-only: it names the attempt and its checksums; one attempt wins
    finish    say so in `_work/_publishing/<job_id>/<publisher>`, copy the winner's files to `<job_id>/...`, job.json
              last, copy again what another one may have overwritten meanwhile, and take the word back

A crash before the commit leaves nothing under a final name; after it, whoever comes next repeats `finish_publish`,
which copies the same bytes again. A store that does not honour create-only writes gets the fallback: the last commit
wins, and everyone who copies looks again afterwards and repeats with the winner's files.

No store checks a token at a final name, so a publisher that was frozen can overwrite files of the film that has taken
its place. It looks again before it leaves, whether it succeeds or fails, and copies the newest claim's film back. One
that dies first leaves its word in `_publishing`: where that lies, `read_whole` trusts checksums only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from render_farm.errors import CorruptCheckpointError, NotFoundError, RenderFarmError, StorageError
from render_farm.storage import checked_json
from render_farm.storage.claims import Claim, ClaimLostError, is_current, read_claim
from render_farm.storage.done import dump_job, is_whole, parse_job, read_done, read_job, verify_done
from render_farm.storage.hashing import sha256_bytes, sha256_file
from render_farm.storage.layout import (
    FINAL_NAMES,
    JOB,
    VIDEO,
    FilmKeys,
    JobKeys,
    check_id,
    is_final_name,
    publishing_folder,
    publishing_key,
    replaced_key,
    split_film_key,
)
from render_farm.storage.store import Store, content_type_for

log = logging.getLogger(__name__)
SCHEMA = "render_farm.commit/1"
_COMMIT_TRIES = 3


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
    """The outcome of publishing."""

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
    try:
        finished = finish_publish(store, film, attempt, claim)
    except (
        NotFoundError,
        CorruptCheckpointError,
    ):  # nothing is committed, or nothing whole: this attempt has the files
        commit(store, stage(store, film, attempt, files, job), create_only=create_only)
        finished = finish_publish(store, film, attempt, claim)
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
    unknown = sorted(name for name in files if name == JOB or not is_final_name(name))
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
    winner: Attempt | None = None
    data = checked_json.dump(
        {"film": staged.film, "attempt": staged.attempt, "files": [asdict(file) for file in staged.files]},
        schema=SCHEMA,
    )
    if not create_only:
        log.warning("%s does not honour create-only writes: the last commit of %s wins", store.root_uri, staged.film)
    for _ in range(_COMMIT_TRIES):
        if create_only:
            store.create(key, data)
        else:
            store.write_bytes(key, data)
        winner = pending_commit(store, staged.film)
        if winner is not None:
            break  # else it was another's, and has been withdrawn since
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
    if not is_final_name(file.name) or not isinstance(file.sha256, str) or not isinstance(file.num_bytes, int):
        raise ValueError(f"it lists {content!r:.120}")
    return file


def finish_publish(store: Store, film: str, publisher: str, claim: Claim | None = None) -> dict[str, Any]:
    """Copy the committed attempt to the final names, `job.json` last, and return what `job.json` says. Idempotent:
    repeating it, from several processes at once too, ends in the same files.

    `publisher` names the caller: no other one uses it, and repeated calls keep it. Returns at once when the film is
    there and whole. A `job.json` of other pixels (a changed job) is deleted before anything is replaced. However it
    ends, the final names do not mix two films, unless the store fails to the end or this process dies: then the word
    left in `_publishing` tells the next one.

    NotFoundError when nothing is committed. CorruptCheckpointError when the attempt's files are gone or cut short: the
    commit is withdrawn, and the film has to be decoded and staged again. ClaimLostError when another film's claim on
    the job is newer than `claim`.
    """
    job_id, render_key = split_film_key(film)
    before = read_done(store, job_id)
    word = publishing_key(job_id, publisher)
    is_finished = before is not None and before["render_key"] == render_key and is_whole(store, before)
    # An earlier call may have copied it over the film that has the claim now, and failed before it saw that.
    if before is not None and is_finished and (claim is None or is_current(store, claim)):
        store.delete(word)
        return before
    winner = pending_commit(store, film)
    if winner is None:
        raise NotFoundError(f"film {film}: nothing is committed")
    store.write_bytes(word, film.encode())
    if claim is not None and not is_current(store, claim):
        _settle(store, film, None)  # an earlier call may have written, and failed
        store.delete(word)
        raise ClaimLostError(f"film {film}: another run has claimed job {job_id}")
    try:
        is_there, done = read_job(store, job_id)
        # Another publisher of the film may have finished it since, and removed the attempt's files.
        if done is None or done == before or not _is_of(done, winner):
            job = _staged_job(store, winner)
            _copy_to_final(store, winner, is_there, done)
        else:
            job = done
    except RenderFarmError as error:
        if isinstance(error, CorruptCheckpointError):
            _withdraw(store, winner)
        _leave(store, winner, word)
        raise
    last = _settle(store, film, winner)
    store.delete(word)
    if last == winner:
        return job
    if last is None or last.film != film:
        raise ClaimLostError(f"film {film}: another run has claimed job {job_id} in the meantime")
    return finish_publish(store, film, publisher, claim)  # a later commit counts, where the store does not refuse it


def resume_publish(
    store: Store, film: str, wanted: Collection[str], publisher: str, claim: Claim | None = None
) -> dict[str, Any] | None:
    """What `finish_publish` returns, where all that is `wanted` (final names) is there or committed. None: the film
    has to be decoded and published. A publication without all of it is withdrawn."""
    job_id, render_key = split_film_key(film)
    pending, done = pending_commit(store, film), read_done(store, job_id)
    if done is not None and done["render_key"] == render_key and not set(wanted) <= set(done["files"]):
        store.delete(JobKeys(job_id=job_id).job)
    if pending is not None and not set(wanted) <= {file.name for file in pending.files}:
        _withdraw(store, pending)
    try:
        return finish_publish(store, film, publisher, claim)
    except (NotFoundError, CorruptCheckpointError) as error:
        log.info("%s", error)
        return None


def clean_attempts(store: Store, film: str, publisher: str) -> None:
    """Remove the files of a published film's attempt, and those of the attempt that `publisher` staged. They stay while
    anybody else publishes the job, who may have to copy them again. `gc` removes them then."""
    if store.list(publishing_folder(split_film_key(film)[0])):
        return
    committed = pending_commit(store, film)
    for attempt in {publisher, committed.attempt if committed is not None else publisher}:
        store.delete_tree(FilmKeys(film=film).attempt(attempt))


def _leave(store: Store, winner: Attempt, word: str) -> None:
    """After a copy of `winner` that failed: no file of it stays under the `job.json` of another film. The word stays
    where the store fails again."""
    try:
        _settle(store, winner.film, winner)
        store.delete(word)
    except StorageError as error:
        log.warning("%s stays: %s", store.uri(word), error)


def _settle(store: Store, film: str, written: Attempt | None) -> Attempt | None:
    """Copy until the film that holds the newest claim is the one copied last, or is whole; returns its attempt.
    `written` is what this process has copied of `film`, whole or in part."""
    job_id = split_film_key(film)[0]
    while True:
        claim = read_claim(store, job_id)
        newest = pending_commit(store, claim.film if claim is not None and claim.film else film)
        if newest is None or newest == written:
            return written  # a film that has committed nothing yet copies everything when it has
        is_there, done = read_job(store, job_id)
        if done is not None and _is_of(done, newest) and not verify_done(store, job_id):
            return newest
        try:
            _copy_to_final(store, newest, is_there, done)
        except CorruptCheckpointError:
            if pending_commit(store, newest.film) != newest:
                continue
            if is_there:  # its files are gone: it is rendered again
                store.delete(JobKeys(job_id=job_id).job)
        written = newest


def _is_of(done: dict[str, Any], attempt: Attempt) -> bool:
    return (done["render_key"], done.get("attempt")) == (split_film_key(attempt.film)[1], attempt.attempt)


def _copy_to_final(store: Store, winner: Attempt, is_there: bool, done: dict[str, Any] | None) -> None:
    """`is_there` and `done` are what `read_job` gave. CorruptCheckpointError when the attempt's files are not there."""
    job_id, render_key = split_film_key(winner.film)
    final, work = JobKeys(job_id=job_id), FilmKeys(film=winner.film)
    _check_staged(store, winner)
    if done is not None and done["render_key"] != render_key:
        store.write_bytes(replaced_key(job_id), b"")
    if is_there:
        store.delete(final.job)  # from here until the copy of the new one, the job is not done
    names = [file.name for file in winner.files]
    before = filter(is_final_name, done["files"] if done is not None else ())
    for stale in {*FINAL_NAMES, *before} - set(names):
        store.delete(final.final(stale))
    for name in names:
        source = work.attempt_file(winner.attempt, name)
        try:
            store.copy(source, final.final(name), content_type_for(name))
        except NotFoundError as error:
            raise _incomplete(winner, f"{store.uri(source)} is missing") from error


def _staged_job(store: Store, attempt: Attempt) -> dict[str, Any]:
    key = FilmKeys(film=attempt.film).attempt_file(attempt.attempt, JOB)
    try:
        job = parse_job(store.read_bytes(key), attempt.job_id)
    except NotFoundError as error:
        raise _incomplete(attempt, f"{store.uri(key)} is missing") from error
    if job is None or not _is_of(job, attempt):
        raise _incomplete(attempt, f"{store.uri(key)} is damaged")
    return job


def _check_staged(store: Store, winner: Attempt) -> None:
    keys = FilmKeys(film=winner.film)
    sizes = store.sizes(keys.attempt_file(winner.attempt, file.name) for file in winner.files)
    for file in winner.files:
        key = keys.attempt_file(winner.attempt, file.name)
        if sizes.get(key) != file.num_bytes:
            state = f"has {sizes[key]} bytes" if key in sizes else "is missing"
            raise _incomplete(winner, f"{store.uri(key)} {state}, where {file.num_bytes} bytes were committed")


def _incomplete(attempt: Attempt, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"film {attempt.film}: {what}", advice="the commit is withdrawn; decode and publish the film again"
    )


def _withdraw(store: Store, attempt: Attempt) -> None:
    """Withdraw the commit if `attempt` is still the committed one, so that the film is committed again."""
    if pending_commit(store, attempt.film) == attempt:
        store.delete(FilmKeys(film=attempt.film).commit)
