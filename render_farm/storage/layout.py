"""Every object key of the output tree, in one place. Pure: no I/O, keys are relative to OUTPUT.

    <job_id>/{video.mp4, poster.jpg, job.json, latents.safetensors}     what a finished job leaves, and files of a hook
    <job_id>/rejected-<seed>.jpg      posters of films in which the checks found something
    _runs/<run_id>/{manifest.parquet, results.parquet, report.html, run.json, live.json}
                   {logs/, embeddings/, attention/, lease/, state/, control/}      while it runs, and for the next time
    _work/<job_id>-<render_key>/{film.json, steps/, attempts/<attempt>/, commit.json}      while it renders
    _work/_segments/<2 hex>/{<key>.json, <key>-<attempt>.safetensors}      segments, shared by films and runs
    _work/<job_id>-<render_key>/preview/{preview.m3u8, init.mp4, 0000.m4s ..., preview.mp4, sheet.jpg}      to look at
    _work/_claims/<job_id>/      which run publishes the job
    _work/_publishing/<job_id>/<publisher>      somebody may be writing under the job's final names
    _costs/<device>.json         how long segments take here, learned from all runs

A job id starts with a letter or a digit, so `_runs` and `_work` never meet a job's folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

VIDEO = "video.mp4"
POSTER = "poster.jpg"
JOB = "job.json"
LATENTS = "latents.safetensors"
COMMIT = "commit.json"
FINAL_NAMES = (VIDEO, POSTER, LATENTS, JOB)
"""Everything of the farm's own that publishing may put into a job's folder; `job.json` last, as it is written."""

PREVIEW_LIST = "preview.m3u8"
PREVIEW_INIT = "init.mp4"
PREVIEW_VIDEO = "preview.mp4"
PREVIEW_SHEET = "sheet.jpg"

RUNS = "_runs"
WORK = "_work"
CLAIMS = f"{WORK}/_claims"
REPLACED = f"{WORK}/_replaced"
PUBLISHING = f"{WORK}/_publishing"
SEGMENTS = f"{WORK}/_segments"
COSTS = "_costs"

_EXTRA = re.compile(r"(?!rejected-)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ACTIVE = re.compile(r".*\.(?:[sx]?html?|svg|js|xml)", re.IGNORECASE)
"""Browsers would run what such files say, with the rights of whoever serves the output."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RENDER_KEY = re.compile(r"[0-9a-f]{12}")
_PREVIEW = re.compile(r"preview\.m3u8|init\.mp4|preview\.mp4|sheet\.jpg|[0-9]{4,}\.m4s")
_SEGMENT_KEY = re.compile(r"[0-9a-f]{32}")
_SEGMENT_OBJECT = re.compile(rf"{SEGMENTS}/([0-9a-f]{{2}})/(\1[0-9a-f]{{30}})(?:\.json|-[^/]+\.safetensors)")
_REJECTED = re.compile(r"rejected-[0-9]{1,19}\.jpg")
_NUMBER = re.compile(r"([0-9]{8})\.json")


def check_id(value: str, what: str = "job_id") -> str:
    """Return `value` if it can name a folder of the tree (a job, a run, an attempt), else raise ValueError."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(
            f"{what} {str(value)[:200]!r}: 1 to 128 letters, digits, '.', '_' or '-' are allowed, "
            "the first a letter or a digit"
        )
    return value


def is_extra_name(name: str) -> bool:
    """Whether a file that is published beside a film, and is none of the farm's own, can have this name."""
    return bool(_EXTRA.fullmatch(name)) and not _ACTIVE.fullmatch(name) and name.lower() not in FINAL_NAMES


def is_final_name(name: str) -> bool:
    """Whether publishing may put a file of this name into a job's folder."""
    return name in FINAL_NAMES or is_extra_name(name)


def film_key(job_id: str, render_key: str) -> str:
    """Name of a film's work folder: one job with one set of pixels. `render_key` is 12 hex digits."""
    if not _RENDER_KEY.fullmatch(render_key):
        raise ValueError(f"render_key {render_key!r}: 12 hex digits are needed")
    return f"{check_id(job_id)}-{render_key}"


def split_film_key(film: str) -> tuple[str, str]:
    """The job id and render key of a work folder's name. ValueError when it is not one."""
    job_id, _, render_key = film.rpartition("-")
    film_key(job_id, render_key)
    return job_id, render_key


def is_film(name: object) -> bool:
    """Whether `name` can be that of a film's work folder."""
    try:
        split_film_key(str(name))
    except ValueError:
        return False
    return True


def film_of_manifest(key: str) -> str | None:
    """The film whose list of segments the object `key` is; None for any other object."""
    film = key.removeprefix(f"{WORK}/").removesuffix("/film.json")
    return film if is_film(film) and key == FilmKeys(film=film).manifest else None


def is_job(name: str) -> bool:
    """Whether `name` can be that of a job's folder."""
    return _ID.fullmatch(name) is not None


def costs_key(device: str) -> str:
    """What is known of how long segments take on `cuda` or `cpu`."""
    return f"{COSTS}/{device}.json"


def numbered(number: int) -> str:
    """Name of the `number`-th object of a series; names sort as numbers do. `number` is 1 to 99,999,999."""
    if not 1 <= number <= 99_999_999:
        raise ValueError(f"object number {number}: 1 to 99999999 are allowed")
    return f"{number:08d}.json"


def number_of(name: str) -> int | None:
    """The number in a key or name made by `numbered`, or None when it is no such name."""
    match = _NUMBER.fullmatch(name.rpartition("/")[2])
    return int(match.group(1)) if match else None


def preview_part(segment: int) -> str:
    """Name of a segment's part of the preview; relative to the playlist, as it stands there."""
    return f"{segment:04d}.m4s"


def replaced_key(job_id: str) -> str:
    """An object that says: this job was published with other pixels before. Runs that rendered those look again."""
    return f"{REPLACED}/{check_id(job_id)}"


def publishing_folder(job_id: str) -> str:
    """Objects of publishers that write under the job's final names, or died doing so."""
    return f"{PUBLISHING}/{check_id(job_id)}"


def publishing_key(job_id: str, publisher: str) -> str:
    """Says that `publisher` may be writing under the job's final names."""
    return f"{publishing_folder(job_id)}/{check_id(publisher, 'publisher')}"


def is_output_folder(key: str) -> bool:
    """Whether the folder `key` can be part of an output tree: a job's own, or anything below the farm's."""
    first, _, below = key.partition("/")
    return first in (RUNS, WORK, COSTS) or (not below and bool(_ID.fullmatch(first)))


@dataclass(frozen=True, kw_only=True)
class JobKeys:
    """Final names of one job."""

    job_id: str

    def __post_init__(self) -> None:
        check_id(self.job_id)

    @property
    def folder(self) -> str:
        return self.job_id

    @property
    def video(self) -> str:
        return self.final(VIDEO)

    @property
    def poster(self) -> str:
        return self.final(POSTER)

    @property
    def latents(self) -> str:
        return self.final(LATENTS)

    @property
    def job(self) -> str:
        """Written last: where it is, the job is done."""
        return self.final(JOB)

    def rejected_poster(self, seed: int) -> str:
        """The poster of a film of that seed, in which the checks found something, and which was not published."""
        return f"{self.job_id}/{rejected_name(seed)}"

    def final(self, name: str) -> str:
        if not is_final_name(name):
            raise ValueError(f"{name!r} is not a final name; known: {', '.join(FINAL_NAMES)}")
        return f"{self.job_id}/{name}"


def rejected_name(seed: int) -> str:
    return f"rejected-{seed}.jpg"


def is_rejected_name(name: str) -> bool:
    return _REJECTED.fullmatch(name) is not None


def segment_of(key: str) -> str | None:
    """The segment that the object `key` belongs to; None for any other object."""
    match = _SEGMENT_OBJECT.fullmatch(key)
    return match.group(2) if match else None


@dataclass(frozen=True, kw_only=True)
class SegmentKeys:
    """Objects of one segment; `key` is 32 hex digits (`planning.segment_keys`)."""

    key: str

    def __post_init__(self) -> None:
        if not _SEGMENT_KEY.fullmatch(self.key):
            raise ValueError(f"segment key {self.key!r:.80}: 32 hex digits are needed")

    @property
    def folder(self) -> str:
        """Shared with other segments: no folder of a disk gets too large."""
        return f"{SEGMENTS}/{self.key[:2]}"

    @property
    def record(self) -> str:
        """Says which latents are the segment's; created once."""
        return f"{self.folder}/{self.key}.json"

    def latents(self, attempt: str) -> str:
        """Attempt-unique, so that nobody can overwrite latents that a record already names."""
        return f"{self.folder}/{self.key}-{check_id(attempt, 'attempt')}.safetensors"


@dataclass(frozen=True, kw_only=True)
class FilmKeys:
    """Work folder of one film; `film` is what `film_key` returned."""

    film: str

    def __post_init__(self) -> None:
        split_film_key(self.film)

    @property
    def folder(self) -> str:
        return f"{WORK}/{self.film}"

    @property
    def manifest(self) -> str:
        """Names the film's segments."""
        return f"{self.folder}/film.json"

    @property
    def segments(self) -> str:
        """Where earlier versions stored them."""
        return f"{self.folder}/segments"

    @property
    def states(self) -> str:
        """Where the same versions listed them."""
        return f"{self.folder}/state"

    @property
    def attempts(self) -> str:
        return f"{self.folder}/attempts"

    @property
    def commit(self) -> str:
        return f"{self.folder}/{COMMIT}"

    @property
    def steps(self) -> str:
        return f"{self.folder}/steps"

    def step(self, index: int, row: int, sha256: str) -> str:
        """The state of a segment in the middle of its steps; its name vouches for its bytes."""
        return f"{self.steps}/{index:04d}-{row:06d}-{check_id(sha256, 'sha256')}.safetensors"

    def preview(self, name: str) -> str:
        """One of the preview's objects; a segment's part is called as `preview_part` says."""
        if not _PREVIEW.fullmatch(name):
            raise ValueError(f"{name!r} is not a part of a preview")
        return f"{self.folder}/preview/{name}"

    def state(self, number: int) -> str:
        return f"{self.states}/{numbered(number)}"

    def attempt(self, attempt: str) -> str:
        return f"{self.attempts}/{check_id(attempt, 'attempt')}"

    def attempt_file(self, attempt: str, name: str) -> str:
        if not is_final_name(name):
            raise ValueError(f"{name!r} is not a final name; known: {', '.join(FINAL_NAMES)}")
        return f"{self.attempt(attempt)}/{name}"


@dataclass(frozen=True, kw_only=True)
class ClaimKeys:
    """Which run publishes a job."""

    job_id: str

    def __post_init__(self) -> None:
        check_id(self.job_id)

    @property
    def folder(self) -> str:
        return f"{CLAIMS}/{self.job_id}"

    def claim(self, number: int) -> str:
        return f"{self.folder}/{numbered(number)}"


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """Folder of one run."""

    run_id: str

    def __post_init__(self) -> None:
        check_id(self.run_id, "run_id")

    @property
    def folder(self) -> str:
        return f"{RUNS}/{self.run_id}"

    @property
    def manifest(self) -> str:
        return f"{self.folder}/manifest.parquet"

    @property
    def results(self) -> str:
        return f"{self.folder}/results.parquet"

    @property
    def report(self) -> str:
        return f"{self.folder}/report.html"

    @property
    def run(self) -> str:
        return f"{self.folder}/run.json"

    @property
    def live(self) -> str:
        """How the run is doing at this moment; replaced every few seconds."""
        return f"{self.folder}/live.json"

    @property
    def logs(self) -> str:
        return f"{self.folder}/logs"

    @property
    def embeddings(self) -> str:
        return f"{self.folder}/embeddings"

    @property
    def leases(self) -> str:
        return f"{self.folder}/lease"

    @property
    def states(self) -> str:
        return f"{self.folder}/state"

    @property
    def control(self) -> str:
        return f"{self.folder}/control"

    def request(self, request_id: str) -> str:
        return f"{self.control}/{check_id(request_id, 'request id')}.request.json"

    def answer(self, request_id: str) -> str:
        return f"{self.control}/{check_id(request_id, 'request id')}.answer.json"

    def log(self, name: str) -> str:
        return f"{self.logs}/{check_id(name, 'log name')}"

    def attention(self, kind: str) -> str:
        """What attention backend the run uses on one kind of device."""
        return f"{self.folder}/attention/{check_id(kind, 'kind of device')}.json"

    def embedding(self, digest: str) -> str:
        return f"{self.embeddings}/{check_id(digest, 'embedding digest')}.safetensors"

    def lease(self, number: int) -> str:
        return f"{self.leases}/{numbered(number)}"

    def state(self, number: int) -> str:
        return f"{self.states}/{numbered(number)}"
