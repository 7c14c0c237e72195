"""`render-farm check`: whether films are what their `job.json` says, and what they say of themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.runs import Output, find_run, open_output
from render_farm.cli.terminal import Json, hint, plural, print_json, say
from render_farm.errors import NotFoundError, RenderFarmError
from render_farm.extras import install_advice

if TYPE_CHECKING:
    from render_farm.storage import Store

ALL_FAILED, SOME_FAILED = 10, 11
_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class MarkedFile:
    """What a file says of its origin."""

    name: str
    marker: dict[str, str] | None
    signed_by: str | None = None
    """None: it has no signature, or nobody could look."""
    problems: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        marker = self.marker
        said = [f"{self.name}: no marker says who made it"]
        if marker is not None:
            kind = marker["source_type"].rpartition("/")[2]
            model = f"{marker['model']} {marker['model_version'][:12]}".strip()
            said = [f"{self.name}: {kind}, job {marker['job_id']}, model {model}, {marker['software']}"]
        return [*said, f"{self.name}: signed by {self.signed_by}"] if self.signed_by is not None else said


@dataclass(frozen=True, kw_only=True)
class CheckedFilm:
    """One film."""

    job_id: str
    uri: str
    problems: tuple[str, ...] = ()
    files: tuple[MarkedFile, ...] = ()
    """What its video and poster say of themselves, where their bytes are right."""


def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|RUN|OUTPUT", help="A film's file or folder, a run, or an output. Default: --output."
        ),
    ] = None,
    output: Output = None,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every video too, and count its frames.")] = False,
    as_json: Json = False,
) -> None:
    """Compare films with their job.json: sizes, sha256, the marker that names the model, and the signature.

    Every file is read. For a run, every film that it reports as done is checked. Of a file without a job.json, marker
    and signature are read. Exit codes: 0 all are right, 10 none is, 11 some are not, 14 there is nothing to check.
    """
    alone = _alone(target)
    if alone is not None:
        films, place = [alone], ""
    else:
        store, job_ids, expected = _films_of(target, output)
        place = store.root_uri
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            films = list(pool.map(lambda job_id: _checked(store, job_id, expected.get(job_id), decode), job_ids))
    wrong = [film for film in films if film.problems]
    if as_json:
        document = {"output": place, "num_films": len(films), "num_wrong": len(wrong), "decoded": decode}
        print_json({**document, "ok": not wrong, "films": [asdict(film) for film in films]})
    else:
        for film in wrong:
            say("\n".join(f"{film.job_id}: {problem}" for problem in film.problems))
        if len(films) == 1:
            say("\n".join(line for file in films[0].files for line in file.lines))
        good = len(films) - len(wrong)
        if alone is None:
            say(f"{good:,} of {plural(len(films), 'film')} {'is' if good == 1 else 'are'} as job.json says")
    if wrong:
        raise typer.Exit(SOME_FAILED if len(wrong) < len(films) else ALL_FAILED)


def _alone(target: str | None) -> CheckedFilm | None:
    """A file of this machine without a `job.json` beside it, where it says something of itself."""
    from render_farm.storage.layout import JOB

    path = Path(target or "")
    if not path.is_file() or path.with_name(JOB).exists():
        return None
    file = _marked(path.name, path, {})
    if file.marker is None and file.signed_by is None and not file.problems:
        raise NotFoundError(f"{path} has no marker, no signature and no {JOB}, so nothing says what it should be")
    return CheckedFilm(
        job_id=(file.marker or {}).get("job_id", ""), uri=str(path), problems=file.problems, files=(file,)
    )


def _films_of(target: str | None, output: str | None) -> tuple[Store, list[str], dict[str, str]]:
    """The store, the jobs to check, and the sha256 of their videos where a run names it."""
    from render_farm.report.run_folder import RunFolderReader
    from render_farm.storage import open_store
    from render_farm.storage.layout import RUNS, JobKeys

    if target is None:
        store = open_output(output)
        return store, _done_in(store), {}
    film = _film_of(target)
    if film is not None:
        return film[0], [film[1]], {}
    is_name = "/" not in target and not Path(target).exists()
    if f"/{RUNS}/" in target or is_name:
        place = find_run(target, output)
        folder = RunFolderReader(place.store, place.run_id).read(with_events=False)
        done = {row["job_id"]: row.get("sha256") or "" for row in folder.results if row["state"] == "done"}
        if not done:
            raise NotFoundError(f"run {place.run_id} has no film that is done")
        return place.store, list(done), done
    store = open_store(target)
    found = _done_in(store)
    if not found:
        raise NotFoundError(f"there is no film in {store.root_uri}", advice=f"a film has {JobKeys(job_id='JOB').job}")
    return store, found, {}


def _film_of(target: str) -> tuple[Store, str] | None:
    """The output and the job of a film's file or folder; None when `target` is neither."""
    from render_farm.storage import open_store
    from render_farm.storage.layout import FINAL_NAMES, JobKeys, check_id

    place = target.rstrip("/") if "://" in target else str(Path(target).absolute())
    folder, _, name = place.rpartition("/")
    is_file = name in FINAL_NAMES
    folder = folder if is_file else place
    root, _, job_id = folder.rpartition("/")
    try:
        check_id(job_id)
    except ValueError:
        return None
    if not is_file and "://" not in place and not Path(folder).is_dir():
        return None
    if not root or root.endswith(":/"):
        return None
    store = open_store(root)
    if not store.exists(JobKeys(job_id=job_id).job):
        if is_file:
            raise NotFoundError(f"{folder} has no job.json, so nothing says what {name} should be")
        return None
    return store, job_id


def _done_in(store: Store) -> list[str]:
    """Every job of an output that has a `job.json`."""
    from render_farm.storage.layout import JobKeys, check_id

    ids = []
    for name in store.list_folders(""):
        try:
            ids.append(check_id(name))
        except ValueError:
            continue
    found = store.sizes(JobKeys(job_id=job_id).job for job_id in ids)
    return [job_id for job_id in ids if JobKeys(job_id=job_id).job in found]


def _checked(store: Store, job_id: str, sha256: str | None, decode: bool) -> CheckedFilm:
    from render_farm.storage.done import read_done, verify_done
    from render_farm.storage.layout import POSTER, VIDEO, JobKeys

    done = read_done(store, job_id) or {}
    files = []

    def look_at(name: str, path: Path) -> str:
        if name not in (VIDEO, POSTER):
            return ""
        files.append(_marked(name, path, done))
        decoded = _decoded(path, done.get("num_frames")) if decode and name == VIDEO else ""
        return "; ".join(filter(None, [*files[-1].problems, decoded]))

    problems = list(verify_done(store, job_id, look_at=look_at))
    if sha256 and done and done["sha256"] != sha256:
        problems.append(f"it is another film than this run made: run {done.get('run_id') or '?'} replaced it")
    return CheckedFilm(
        job_id=job_id, uri=store.uri(JobKeys(job_id=job_id).video), problems=tuple(problems), files=tuple(files)
    )


def _marked(name: str, path: Path, done: dict[str, Any]) -> MarkedFile:
    """What the file says, compared with `done`, its `job.json`. Films of earlier versions say nothing."""
    from render_farm.media.provenance import read_marker
    from render_farm.media.signing import read_signature

    expected = done.get("provenance") or {}
    marker, problems = read_marker(path), []
    if expected.get("marked") and (marker is None or marker.job_id != done["job_id"]):
        problems.append("its marker is missing, or another job's")
    signed_by = None
    try:
        signature = read_signature(path)
        if signature is not None:
            signed_by = signature.signer
            problems += [f"its signature does not hold: {problem}" for problem in signature.problems]
        elif expected.get("signed_by"):
            problems.append(f"the signature of {expected['signed_by']} is missing")
    except ModuleNotFoundError as error:
        if expected.get("signed_by"):
            hint(f"{name}: its signature is not checked ({install_advice(error.name)})")
    return MarkedFile(
        name=name, marker=asdict(marker) if marker else None, signed_by=signed_by, problems=tuple(problems)
    )


def _decoded(path: Path, num_frames: int | None) -> str:
    from render_farm.media.mp4 import probe_mp4

    try:
        found = probe_mp4(path).num_frames
    except RenderFarmError as error:
        return f"cannot be decoded: {error.message}"
    return "" if num_frames in (None, found) else f"has {found} frames where job.json says {num_frames}"
