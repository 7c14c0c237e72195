"""The durable state of a run: numbered, create-only objects in its folder, from which it continues without deep
listings.

    state/00000041.json   snapshot: a row for every job that something is known of
    state/00000042.json   changes: the rows that changed since
    state/00000043.json   changes ...

An object store cannot append, so what changed goes into one more small object, and now and then a snapshot sums up. Who
reads takes the newest whole snapshot and what follows; torn objects and gaps are recognised and named. The state is an
index that saves looking: what a film really has is decided by its own checkpoints and its `job.json`. Numbers are
taken create-only, so a coordinator that lost its lease cannot add to it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from render_farm.errors import LeaseHeldError, NotFoundError
from render_farm.storage import checked_json
from render_farm.storage.hashing import sha256_bytes
from render_farm.storage.layout import RunKeys, check_id, number_of
from render_farm.storage.store import Store

log = logging.getLogger(__name__)
SCHEMA = "render_farm.run_state/1"
SNAPSHOT_EVERY = 50
_READS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRow:
    """What is known of one job of a run. Times are UTC in ISO 8601."""

    state: str = "waiting"
    render_key: str = ""
    """Of the film the row speaks of; a changed job has another one, and the row is of no use for it."""
    segments_done: int = 0
    segments: int | None = None
    attempts: int = 0
    error_class: str | None = None
    message: str | None = None
    frames: int | None = None
    gpu_s: float | None = None
    wall_s: float | None = None
    sha256: str | None = None
    video_bytes: int | None = None
    """Size of the published video, which is compared when the run starts again. None: written by an earlier version."""
    seam_score: float | None = None
    reused_segments: int | None = None
    findings: tuple[str, ...] | None = None
    drift: float | None = None
    seeds_tried: tuple[int, ...] | None = None
    rejected: tuple[dict[str, Any], ...] | None = None
    """Films of a job with `checks: retry:N` that were not published, in order: `seed`, `findings`, `seconds`, and the
    `limits` by which they were judged."""
    started_at: str | None = None
    finished_at: str | None = None
    priority: int | None = None
    """Asked for from outside, instead of the manifest's."""
    taken_out: bool = False
    """Cancelled from outside by name: it is left alone until somebody asks to retry it."""

    def to_dict(self) -> dict[str, Any]:
        """Only what differs from the default."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    @classmethod
    def from_dict(cls, content: Any) -> JobRow:
        """The inverse of `to_dict`. ValueError for a field that is unknown or of the wrong kind."""
        if not isinstance(content, dict):
            raise ValueError("a job's row is not an object")
        for name, value in content.items():
            if name not in _ROW_KINDS or not isinstance(value, _ROW_KINDS[name]):
                raise ValueError(f"a job's row with {name} {value!r:.80}")
            if isinstance(value, bool) and name != "taken_out":
                raise ValueError(f"a job's row with {name} {value!r}")
            if isinstance(value, int) and not 0 <= value < (2**63 if name == "video_bytes" else 2**31):
                raise ValueError(f"a job's row with {name} {value!r:.40}")
        lists = {name: tuple(content[name]) for name in _ENTRY_KINDS if name in content}
        for name, entries in lists.items():
            if not all(isinstance(entry, _ENTRY_KINDS[name]) for entry in entries) or not (
                name != "rejected" or all(map(_is_rejected_film, entries))
            ):
                raise ValueError(f"a job's row with {name} {entries!r:.80}")
        return cls(**{**content, **lists})


_ROW_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("state", "render_key", "error_class", "message", "sha256", "started_at", "finished_at"), (str,)),
    **dict.fromkeys(("segments_done", "segments", "attempts", "frames", "priority"), (int,)),
    **dict.fromkeys(("video_bytes", "reused_segments"), (int,)),
    **dict.fromkeys(("gpu_s", "wall_s", "seam_score", "drift"), (int, float)),
    **dict.fromkeys(("findings", "seeds_tried", "rejected"), (list, tuple)),
    "taken_out": (bool,),
}


_ENTRY_KINDS: dict[str, type] = {"findings": str, "seeds_tried": int, "rejected": dict}
"""Of columns that are lists."""


def _is_rejected_film(entry: Mapping[str, Any]) -> bool:
    match entry:
        case {"seed": int(), "findings": list(findings), "seconds": int() | float(), "limits": str()}:
            return len(entry) == 4 and all(isinstance(finding, str) for finding in findings)
    return False


@dataclass(frozen=True, kw_only=True)
class RunControl:
    """What people asked of a run as a whole, and what its budget has to know."""

    paused: bool = False
    quarantined: tuple[tuple[str, str], ...] = ()
    """(host, reason)."""
    machines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Ray's ids of the nodes of those hosts that were quarantined for their faults: other nodes end the quarantine."""
    spent: float = 0.0
    """What its cluster has cost while it was rendered, in all of its starts; 0 where that is not counted."""

    @classmethod
    def from_dict(cls, content: Any) -> RunControl:
        """From JSON. ValueError for anything else than `asdict` gives."""
        if not isinstance(content, dict) or not isinstance(content.get("paused"), bool):
            raise ValueError("no control block")
        listed = content.get("quarantined")
        if not isinstance(listed, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in listed
        ):
            raise ValueError("a control block with malformed hosts")
        machines = content.get("machines", {})
        if not isinstance(machines, dict) or not all(
            isinstance(ids, list) and all(isinstance(text, str) for text in ids) for ids in machines.values()
        ):
            raise ValueError("a control block with malformed machines")
        spent = content.get("spent", 0.0)
        if isinstance(spent, bool) or not isinstance(spent, (int, float)) or not 0 <= spent < math.inf:
            raise ValueError("a control block with a malformed cost")
        return cls(
            paused=content["paused"],
            quarantined=tuple((host, reason) for host, reason in listed),
            machines={host: tuple(ids) for host, ids in machines.items()},
            spent=spent,
        )


@dataclass(kw_only=True)
class StoredRun:
    """A run as storage knows it."""

    number: int = 0
    """The highest number taken by anyone, whole or not; 0 for a run that has not started."""
    control: RunControl = RunControl()
    jobs: dict[str, JobRow] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """What was skipped while loading, one line each, for the log."""
    snapshots: tuple[int, ...] = ()
    """Numbers of the whole snapshots that are there."""

    @property
    def begun(self) -> bool:
        return self.number > 0


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One object of the series."""

    is_snapshot: bool
    control: RunControl
    jobs: dict[str, JobRow]
    problems: tuple[str, ...] = ()
    """Rows that cannot be read."""


def load_run_state(store: Store, run_id: str) -> StoredRun:
    """The run as far as it is known; an empty state when nothing is. One listing of one folder, then a bounded number
    of small objects. StorageError passes."""
    keys = RunKeys(run_id=run_id)
    numbers = sorted(number for number in map(number_of, store.list(keys.states)) if number is not None)
    problems: list[str] = []

    def read(number: int) -> _Part | str:
        try:
            return _parse(store.read_bytes(keys.state(number)), run_id, number)
        except NotFoundError:
            return "gone"
        except ValueError as error:
            return f"{store.uri(keys.state(number))} is skipped: {error}"

    with ThreadPoolExecutor(max_workers=_READS_AT_ONCE) as pool:
        parts = dict(zip(numbers, pool.map(read, numbers), strict=True))
    snapshots = [number for number, part in parts.items() if isinstance(part, _Part) and part.is_snapshot]
    first = snapshots[-1] if snapshots else (numbers[0] if numbers else 1)
    state = StoredRun(number=numbers[-1] if numbers else 0)
    for number in range(first, state.number + 1):
        part = parts.get(number, f"{store.uri(keys.state(number))} is missing")
        if isinstance(part, str):
            problems.append(part)
            continue
        problems += [f"{store.uri(keys.state(number))}: {problem}" for problem in part.problems]
        state.jobs.update(part.jobs)
        state.control = part.control
    problems += [part for number, part in parts.items() if number < first and isinstance(part, str) and part != "gone"]
    state.problems, state.snapshots = tuple(problems), tuple(snapshots)
    return state


class RunStateWriter:
    """Adds to a run's state. One writer at a time: the holder of the run's lease."""

    def __init__(self, store: Store, run_id: str, state: StoredRun) -> None:
        """`state` as `load_run_state` gave it; from here on it is this writer's, and kept up to date."""
        self.state = state
        self._store = store
        self._run_id = run_id
        self._keys = RunKeys(run_id=run_id)
        self._snapshots = list(state.snapshots)
        # Writers before this one count: a run that was taken up a thousand times is read as quickly as any other.
        since = state.number - max(state.snapshots, default=0)
        self._since_snapshot = SNAPSHOT_EVERY if state.problems else since
        self._tried: set[str] = set()
        """Checksums of what failed to be written as the next number: one of them may be there all the same."""

    def write(self, rows: Mapping[str, JobRow], control: RunControl | None = None) -> None:
        """Make `rows` (those that changed) and `control` durable. LeaseHeldError when somebody else has written: then
        this run is theirs. StorageError passes, and nothing is counted as written: give the same rows again."""
        is_snapshot = self._since_snapshot >= SNAPSHOT_EVERY
        wanted = control or self.state.control
        number = self.state.number + 1
        data = self._dump(number, is_snapshot, wanted, {**self.state.jobs, **rows} if is_snapshot else dict(rows))
        earlier, self._tried = self._tried, self._tried | {sha256_bytes(data)}
        key = self._keys.state(number)
        if not self._store.create(key, data):
            there = self._store.read_bytes(key)
            if sha256_bytes(there) not in earlier:
                raise LeaseHeldError(
                    f"run {self._run_id}: {self._store.uri(key)} was written by somebody else; this process has given "
                    "it up"
                )
            self._count(_parse(there, self._run_id, number), number)
            self.write(rows, control)
            return
        self._count(_Part(is_snapshot=is_snapshot, control=wanted, jobs=dict(rows)), number)

    def _count(self, part: _Part, number: int) -> None:
        """`part` is durable as `number`."""
        self._tried = set()
        self.state.number = number
        self.state.jobs.update(part.jobs)
        self.state.control = part.control
        self._since_snapshot += 1
        if part.is_snapshot:
            self._since_snapshot = 0
            self._snapshots.append(number)
            self._clean()

    def _dump(self, number: int, is_snapshot: bool, control: RunControl, jobs: Mapping[str, JobRow]) -> bytes:
        content = {
            "run_id": self._run_id,
            "number": number,
            "snapshot": is_snapshot,
            "control": asdict(control),
            "jobs": _readable(jobs),
        }
        return checked_json.dump(content, schema=SCHEMA)

    def _clean(self) -> None:
        """Remove what lies before the last snapshot but one: should the last be torn, that one counts."""
        if len(self._snapshots) < 2:
            return
        keep_from = self._snapshots[-2]
        for key in self._store.list(self._keys.states):
            number = number_of(key)
            if number is not None and number < keep_from:
                self._store.delete(key)
        self._snapshots = self._snapshots[-2:]


def _parse(data: bytes, run_id: str, number: int) -> _Part:
    """ValueError for anything that is not a whole object of this run and number."""
    content = checked_json.load(data, schema=SCHEMA)
    if content.get("run_id") != run_id or content.get("number") != number:
        raise ValueError(f"it belongs to {content.get('run_id')!r:.80}, number {content.get('number')!r:.20}")
    jobs = content.get("jobs")
    if not isinstance(jobs, dict):
        raise ValueError("it lists no jobs")
    rows: dict[str, JobRow] = {}
    problems: list[str] = []
    for job_id, row in jobs.items():
        try:
            rows[check_id(job_id)] = JobRow.from_dict(row)
        except ValueError as error:
            problems.append(f"a row is skipped: {error}")
    return _Part(
        is_snapshot=content.get("snapshot") is True,
        control=RunControl.from_dict(content.get("control")),
        jobs=rows,
        problems=tuple(problems),
    )


def _readable(jobs: Mapping[str, JobRow]) -> dict[str, Any]:
    """The rows as they are written, without those that could not be read back."""
    rows: dict[str, Any] = {}
    for job_id, row in jobs.items():
        content = row.to_dict()
        try:
            JobRow.from_dict(content)
            rows[check_id(job_id)] = content
        except ValueError as error:
            log.error("the state of a job is not stored: %s", error)
    return rows
