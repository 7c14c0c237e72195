"""Reads a run's folder, `_runs/<run_id>/`. Any part may be missing while the run is rendered."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from render_farm.errors import NotFoundError
from render_farm.manifest.parquet_rows import read_rows
from render_farm.observability.events import LogLine, is_kind, parse_lines
from render_farm.observability.snapshot import RunSnapshot, parse_live
from render_farm.scheduling.states import State
from render_farm.storage.layout import RUNS, RunKeys
from render_farm.storage.lease import read_lease
from render_farm.storage.process import is_dead
from render_farm.storage.run_state import JobRow, RunControl, load_run_state
from render_farm.storage.store import Store

_READS_AT_ONCE = 16
_RUNS_LOOKED_AT = 2000
_LIVE_FOR_S = 60.0
_UNREADABLE = (pa.ArrowException, ValueError, OSError, OverflowError, KeyError, MemoryError)
"""Exceptions that a damaged Parquet file causes."""
_TEXT, _COUNT, _NUMBER, _TIME = (str, type(None)), (int, type(None)), (int, float, type(None)), (datetime, type(None))
_RESULT_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("job_id", "state"), str),
    **dict.fromkeys(("error_class", "message", "uri", "sha256"), _TEXT),
    **dict.fromkeys(("attempts", "segments", "frames", "reused_segments"), _COUNT),
    **dict.fromkeys(("wall_s", "gpu_s", "seam_score", "drift"), _NUMBER),
    **dict.fromkeys(("findings", "seeds_tried"), (list, type(None))),
    **dict.fromkeys(("started_at", "finished_at"), _TIME),
}
_DOCUMENT_TEXTS = ("run_id", "manifest", "output", "device", "ray_dashboard", "started_at", "render_farm")
_SHOWN_COLUMNS = (
    "job_id",
    "prompt",
    "shots",
    "model",
    "seed",
    "fps",
    "height",
    "width",
    "owner",
    "priority",
    "deadline",
    "tags",
)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The content of a run's folder."""

    run_id: str
    document: dict[str, Any]
    """`run.json`."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the manifest, in its order, with the columns that people look for."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `results.parquet`."""
    events: list[LogLine] = field(default_factory=list)
    """In the order of time."""
    live: RunSnapshot | None = None
    """`live.json`, as its coordinator wrote it last."""
    control: RunControl = RunControl()
    """Requests of people, as they are stored."""
    is_held: bool = True
    """Whether somebody may be rendering it, as far as its lease tells: a holder on another host may be gone, too."""
    excluded: frozenset[str] = frozenset()
    """Jobs that were cancelled by name. Unknown (empty) while a recent snapshot says how the run is."""

    def counts(self) -> Counter[str]:
        """Jobs by state, as the results have them. One that has no result yet waits."""
        states = {row["job_id"]: str(row["state"]) for row in self.results}
        names = {str(row["job_id"]) for row in self.jobs if "job_id" in row} | states.keys()
        return Counter(states.get(name, "waiting") for name in names)

    def live_at(self, now_s: float) -> RunSnapshot | None:
        """The last snapshot, if it is recent. None for a run that nobody renders."""
        is_recent = self.live is not None and abs(now_s - self.live.time_s) < _LIVE_FOR_S
        return self.live if self.is_held and is_recent else None

    def is_left(self, now_s: float) -> bool:
        """Whether its holder died: nobody renders the run any more, but it was not released."""
        return not self.is_held or (self.live is not None and self.live_at(now_s) is None)


class RunFolderReader:
    """Reads one run repeatedly. Log objects never change, so each is read once."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._keys = RunKeys(run_id=run_id)
        self._logs: dict[str, list[LogLine]] = {}
        self._jobs: list[dict[str, Any]] | None = None

    def read(self, *, with_events: bool = True) -> RunFolder:
        """The run now. NotFoundError if there is no such run."""
        document = self.document()
        if self._jobs is None:
            manifest = self._bytes(self._keys.manifest)
            if manifest is None and not document:
                raise NotFoundError(
                    f"there is no run {self._keys.run_id} in {self._store.root_uri}",
                    advice=_known_runs(self._store),
                )
            self._jobs = _manifest_rows(manifest)
        live = parse_live(self._bytes(self._keys.live) or b"")
        results = _results(self._bytes(self._keys.results))
        is_over = bool(results) and all(row["state"] not in (State.WAITING, State.RUNNING) for row in results)
        is_recent = live is not None and abs(time.time() - live.time_s) < _LIVE_FOR_S
        if live is not None and is_recent and not is_over:
            control = RunControl(paused=live.paused, quarantined=tuple(sorted(live.quarantined.items())))
            rows: dict[str, JobRow] = {}
        else:
            state = load_run_state(self._store, self._keys.run_id)
            control, rows = state.control, state.jobs
        return RunFolder(
            live=live,
            control=control,
            excluded=frozenset(job_id for job_id, row in rows.items() if row.taken_out),
            run_id=self._keys.run_id,
            document=document,
            jobs=self._jobs,
            results=results,
            events=self.events() if with_events else [],
            is_held=self._is_held(),
        )

    def states(self) -> list[str]:
        """The states of its jobs in its results. Empty before there are results."""
        data = self._bytes(self._keys.results)
        return [] if data is None else [str(row["state"]) for row in read_rows(data, ["state"])]

    def events(self) -> list[LogLine]:
        """Every event that is stored, in the order of time."""
        new = [key for key in self._store.list(self._keys.logs) if key.endswith(".jsonl") and key not in self._logs]
        with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
            for key, data in zip(new, pool.map(self._bytes, new), strict=True):
                self._logs[key] = list(parse_lines(data or b""))
        lines = [line for key in sorted(self._logs) for line in self._logs[key]]
        return sorted(lines, key=lambda line: line.time_s)

    def _is_held(self) -> bool:
        lease = read_lease(self._store, self._keys.run_id)
        return lease is None or not (lease.released or is_dead(lease.holder.process))

    def document(self) -> dict[str, Any]:
        """`run.json`; empty where there is none that can be read."""
        data = self._bytes(self._keys.run)
        try:
            content = json.loads(data) if data else {}
        except (ValueError, RecursionError):
            return {}
        texts = content.items() if isinstance(content, dict) else ()
        return {name: value for name, value in texts if name not in _DOCUMENT_TEXTS or isinstance(value, str)}

    def _bytes(self, key: str) -> bytes | None:
        try:
            return self._store.read_bytes(key)
        except NotFoundError:
            return None


def run_ids(store: Store) -> list[str]:
    """The runs of an output tree, by name."""
    return store.list_folders(RUNS)


def run_documents(store: Store) -> list[dict[str, Any]]:
    """`run.json` of the runs of an output tree, the newest first. One that cannot be read is left out."""
    ids = run_ids(store)[-_RUNS_LOOKED_AT:]
    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        documents = pool.map(lambda run_id: RunFolderReader(store, run_id).document(), ids)
        found = [{**document, "run_id": run_id} for run_id, document in zip(ids, documents, strict=True) if document]
    return sorted(found, key=lambda document: str(document.get("started_at", "")), reverse=True)


def previous_run(store: Store, folder: RunFolder) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """`run.json` and the results of the run that this one is compared with: the last that started before it, of the
    same manifest where there is one. None when there is none."""
    started = str(folder.document.get("started_at", ""))
    candidates = [
        document
        for document in run_documents(store)
        if document["run_id"] != folder.run_id and str(document.get("started_at", "")) < started
    ]
    if not candidates:
        return None
    kin = [document for document in candidates if _stem(document) == _stem(folder.document)]
    chosen = max(kin or candidates, key=lambda document: str(document.get("started_at", "")))
    reader = RunFolderReader(store, str(chosen["run_id"]))
    return chosen, _results(reader._bytes(reader._keys.results))


def _stem(document: dict[str, Any]) -> str:
    return str(document.get("manifest") or "").rpartition("/")[2]


def _known_runs(store: Store) -> str:
    known = run_ids(store)[-10:]
    return f"runs there: {', '.join(known)}" if known else "no run is there; check --output"


def _results(data: bytes | None) -> list[dict[str, Any]]:
    """A damaged file has no rows. It is replaced while the run is rendered."""
    if data is None:
        return []
    try:
        rows = read_rows(data)
    except _UNREADABLE:
        return []
    if not all(is_kind(row.get(name), kind) for row in rows for name, kind in _RESULT_KINDS.items()):
        return []
    for row in rows:
        for name in ("started_at", "finished_at"):
            if isinstance(row.get(name), datetime):
                row[name] = row[name].timestamp()
    return rows


def _manifest_rows(data: bytes | None) -> list[dict[str, Any]]:
    """Rows as they were submitted, including bad ones. Their types may be anything."""
    if data is None:
        return []
    try:
        file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
        columns = [name for name in _SHOWN_COLUMNS if name in file.schema_arrow.names]
        rows = file.read(columns=columns, use_threads=False).to_pylist()
    except _UNREADABLE:
        return []
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
