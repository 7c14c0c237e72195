"""The page's content as one plain value that becomes JSON. Columns instead of rows keep 5,000 jobs small."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from render_farm.job import JOB_ID, default_seed
from render_farm.media.seam_score import VISIBLE
from render_farm.models import defaults_for
from render_farm.observability.events import EventKind
from render_farm.report.failures import group_failures
from render_farm.report.run_folder import RunFolder
from render_farm.report.status import stored_state
from render_farm.report.timeline import Timeline, build_timeline
from render_farm.storage.layout import is_film
from render_farm.uris import shown_uri

_BUCKETS = 96
_SLOWEST = 20
_LISTED = 50
_LONGEST_TEXT = 4_000
"""Characters of a text of a manifest that are shown."""
_STATES = ("done", "running", "waiting", "failed", "cancelled")
_THERE = "was there already"


@dataclass(frozen=True, kw_only=True)
class Price:
    """Price of a worker per hour. None if it is unknown."""

    per_hour: float | None = None
    currency: str = "USD"


def page_data(
    folder: RunFolder,
    *,
    previous: tuple[dict[str, Any], list[dict[str, Any]]] | None = None,
    now_s: float,
    root_uri: str = "",
    price: Price = Price(),
) -> dict[str, Any]:
    """Everything on the page. `now_s` is the time of writing; `root_uri` the address of the output tree."""
    is_over = not any(row["state"] in ("waiting", "running") for row in folder.results) and bool(folder.results)
    timeline = build_timeline(folder.events, now_s=None if is_over else now_s)
    jobs = _jobs(folder)
    output = root_uri or str(folder.document.get("output", ""))
    totals = _totals(jobs, timeline, price, now_s)
    return {
        "schema": "render_farm.report/1",
        "run": {
            "id": folder.run_id,
            "output": output,
            "manifest": folder.document.get("manifest"),
            "device": folder.document.get("device"),
            "version": folder.document.get("render_farm"),
            "started": timeline.start_s or None,
            "written": now_s,
            "over": is_over,
            "draft": bool(_continued(folder).get("first_segments")),
            "state": stored_state(Counter(totals["states"]), folder) if is_over else "running",
            "now": None if is_over else _now(folder, now_s),
        },
        "totals": totals,
        "throughput": _throughput(jobs, timeline),
        "gantt": _gantt(timeline, jobs["id"]),
        "jobs": jobs,
        "previews": _previews(folder, jobs),
        "failures": [asdict(group) for group in group_failures(folder.results, run_id=folder.run_id, output=output)],
        "slowest": _largest(jobs, "wall", _SLOWEST),
        "seams": [index for index in _largest(jobs, "seam", _LISTED) if jobs["seam"][index] >= VISIBLE],
        "visible_seam": VISIBLE,
        "found": [index for index, findings in enumerate(jobs["findings"]) if findings],
        "rejected": _rejected(folder, jobs),
        "changes": _changes(folder, jobs, totals, previous),
    }


def _continued(folder: RunFolder) -> dict[str, Any]:
    kept = folder.document.get("continue_with")
    return kept if isinstance(kept, dict) else {}


def _now(folder: RunFolder, now_s: float) -> dict[str, Any] | None:
    """The last snapshot, if it is recent."""
    live = folder.live_at(now_s)
    if live is None:
        return None
    return {
        "eta": live.eta_s,
        "steps": live.steps_per_s,
        "workers": live.num_workers,
        "busy": live.workers_busy,
        "paused": live.paused,
        "note": live.note,
    }


def _jobs(folder: RunFolder) -> dict[str, list[Any]]:
    """One list a column, the manifest's order; rows of results without a row of the manifest follow."""
    results = {row["job_id"]: row for row in folder.results}
    # A row whose id names no folder is in the results by its number.
    rows = {name: row for row in folder.jobs if JOB_ID.fullmatch(name := str(row.get("job_id")))}
    published = {line.job_id: line.values for line in folder.events if line.kind == EventKind.FILM_PUBLISHED}
    names = list(dict.fromkeys([*rows, *results]))
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for name in names:
        row, result, known = rows.get(name, {}), results.get(name, {}), published.get(name, {})
        fps = known.get("fps") or row.get("fps") or _default(row, "fps")
        frames = result.get("frames") or known.get("num_frames")
        values = {
            "id": name,
            "state": result.get("state", "waiting"),
            "prompt": _cut(_prompt(row.get("prompt") or _prompts_of_shots(row.get("shots")))),
            "seed": _seed(name, row, result),
            "video": round(frames / fps, 2) if isinstance(frames, int) and fps else None,
            "size": f"{known['width']}x{known['height']}" if "width" in known else _size(row),
            "model": _cut(shown_uri(str(row["model"]))) if row.get("model") else None,
            "label": _label(row),
            "seam": result.get("seam_score"),
            "drift": result.get("drift"),
            "findings": [text for text in result.get("findings") or () if isinstance(text, str)],
            "wall": result.get("wall_s"),
            "gpu": result.get("gpu_s"),
            "attempts": result.get("attempts"),
            "segments": result.get("segments"),
            "finished": round(result["finished_at"], 1) if result.get("finished_at") else None,
            "message": result.get("message"),
            "error": result.get("error_class"),
            "due": row["deadline"].timestamp() if isinstance(row.get("deadline"), datetime) else None,
        }
        for column, value in values.items():
            columns[column].append(value)
    return columns


def _previews(folder: RunFolder, jobs: dict[str, list[Any]]) -> dict[int, list[Any]]:
    """For films that are not done, by number: work folder, segments that can be watched, and their seconds."""
    ready = {line.job_id: line for line in folder.events if line.kind == EventKind.PREVIEW_READY}
    found: dict[int, list[Any]] = {}
    for index, (name, state) in enumerate(zip(jobs["id"], jobs["state"], strict=True)):
        line = ready.get(name)
        if line is None or state == "done":
            continue
        work_key, frames, fps = (line.values.get(key) for key in ("folder", "num_frames", "fps"))
        if is_film(work_key) and isinstance(frames, int) and fps:
            found[index] = [work_key, (line.segment or 0) + 1, round(frames / fps, 2)]
    return found


def _rejected(folder: RunFolder, jobs: dict[str, list[Any]]) -> dict[int, list[list[Any]]]:
    """Films that were not published, by the number of their job: seed and findings, each seed once."""
    numbers = {name: index for index, name in enumerate(jobs["id"])}
    found: dict[int, dict[int, list[Any]]] = {}
    for line in folder.events:
        seed = line.values.get("seed")
        if line.kind == EventKind.FILM_REJECTED and line.job_id in numbers and isinstance(seed, int):
            texts = ", ".join(line.values.get("findings", ()))
            found.setdefault(numbers[line.job_id], {})[seed] = [seed, texts]
    return {index: list(seeds.values()) for index, seeds in found.items()}


_COLUMNS = (
    *(
        "id",
        "state",
        "prompt",
        "seed",
        "video",
        "size",
        "model",
        "label",
        "seam",
        "drift",
        "findings",
        "wall",
        "gpu",
        "attempts",
    ),
    *("segments", "finished", "message", "error", "due"),
)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def _prompt(value: Any) -> str:
    return " | ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def _prompts_of_shots(shots: Any) -> list[Any]:
    return [shot.get("prompt") for shot in shots if isinstance(shot, dict)] if isinstance(shots, list) else []


def _seed(name: str, row: dict[str, Any], result: dict[str, Any]) -> Any:
    """That of the published film, where the checks have led to another one than the row's."""
    tried = result.get("seeds_tried")
    if tried:
        return tried[-1]
    return default_seed(name) if row.get("seed") is None else row["seed"]


def _default(row: dict[str, Any], name: str) -> Any:
    return getattr(defaults_for(str(row.get("model") or "tiny"), str(row.get("task") or "t2v")), name)


def _size(row: dict[str, Any]) -> str | None:
    width, height = (row.get(name) or _default(row, name) for name in ("width", "height"))
    return f"{width}x{height}" if width and height else None


def _label(row: dict[str, Any]) -> str:
    """Owner and tags, for the search."""
    tags = row.get("tags")
    pairs = [*tags.items()] if isinstance(tags, dict) else tags if isinstance(tags, list) else []
    pairs = [pair for pair in pairs if isinstance(pair, tuple)]  # a bad row's may be anything
    return " ".join([str(row.get("owner") or ""), *(f"{key}={value}" for key, value in pairs)]).strip()


def _deadlines(jobs: dict[str, list[Any]], now_s: float) -> dict[str, int]:
    """Films with a deadline, those done in time, and those that were late or are."""
    num = kept = late = 0
    for state, due, finished in zip(jobs["state"], jobs["due"], jobs["finished"], strict=True):
        if due is None:
            continue
        num += 1
        in_time = state == "done" and (finished is None or finished <= due)  # no time: it was there before the run
        kept += in_time
        late += not in_time and (state == "done" or due < now_s)
    return {"deadlines": num, "kept": kept, "late": late}


def _totals(jobs: dict[str, list[Any]], timeline: Timeline, price: Price, now_s: float) -> dict[str, Any]:
    states = Counter(jobs["state"])
    made = [index for index, message in enumerate(jobs["message"]) if not (message or "").startswith(_THERE)]
    video_s = sum(jobs["video"][index] or 0.0 for index in made if jobs["state"][index] == "done")
    held_s = sum(timeline.up_s.values())
    work_s = sum(span.end_s - span.start_s for span in timeline.spans if span.kind == "segment")
    lost_s = sum(span.end_s - span.start_s for span in timeline.spans if span.kind == "failed")
    idle_s = sum(timeline.idle_s.values())
    return {
        "jobs": len(jobs["id"]),
        "states": {state: states[state] for state in _STATES if states[state]},
        "already": len(jobs["id"]) - len(made),
        "video_s": round(video_s, 1),
        "wall_s": round(timeline.end_s - timeline.start_s, 1),
        "held_s": round(held_s, 1),
        "work_s": round(work_s, 1),
        "lost_s": round(lost_s, 1),
        "idle_s": round(idle_s, 1),
        "busy_share": round(1 - idle_s / held_s, 4) if held_s else None,
        "workers": len(timeline.up_s),
        "cost": None if price.per_hour is None else round(price.per_hour * held_s / 3600, 2),
        "currency": price.currency,
        "video_s_per_held_h": round(video_s / held_s * 3600, 1) if held_s else None,
        "attempts_again": sum(max(0, (attempts or 0) - 1) for attempts in jobs["attempts"]),
        **_deadlines(jobs, now_s),
    }


def _throughput(jobs: dict[str, list[Any]], timeline: Timeline) -> dict[str, Any]:
    """Finished video, in seconds, and films by time."""
    span = timeline.end_s - timeline.start_s
    if span <= 0:
        return {"start": timeline.start_s, "width": 0, "video": [], "films": []}
    num_buckets = max(4, min(_BUCKETS, int(span)))
    width = span / num_buckets
    video, films = [0.0] * num_buckets, [0] * num_buckets
    for index, finished in enumerate(jobs["finished"]):
        if finished is None or jobs["state"][index] != "done" or not timeline.start_s <= finished <= timeline.end_s + 1:
            continue
        bucket = min(num_buckets - 1, int((finished - timeline.start_s) / width))
        video[bucket] += jobs["video"][index] or 0.0
        films[bucket] += 1
    return {
        "start": timeline.start_s,
        "width": round(width, 3),
        "video": [round(value, 1) for value in video],
        "films": films,
    }


def _gantt(timeline: Timeline, ids: list[str]) -> dict[str, Any]:
    """Spans by worker as `[start, length, kind, job, segment]`, times in tenths of a second from the start."""
    kinds = ["segment", "finish", "failed"]
    number = {name: index for index, name in enumerate(ids)}
    rows: dict[str, list[list[int]]] = {worker: [] for worker in timeline.workers}
    for span in timeline.spans:
        rows.setdefault(span.worker, []).append(
            [
                round((span.start_s - timeline.start_s) * 10),
                max(1, round((span.end_s - span.start_s) * 10)),
                kinds.index(span.kind),
                number.get(span.job_id, -1),
                -1 if span.segment is None else span.segment,
            ]
        )
    reasons = list(timeline.idle_s)
    idle: dict[str, list[list[int]]] = {worker: [] for worker in rows}
    for gap in timeline.idle:
        begin, length = round((gap.start_s - timeline.start_s) * 10), round((gap.end_s - gap.start_s) * 10)
        if length >= 5:
            idle.setdefault(gap.worker, []).append([begin, length, reasons.index(gap.reason)])
    return {
        "start": timeline.start_s,
        "end": timeline.end_s,
        "kinds": kinds,
        "reasons": [[reason, round(seconds, 1)] for reason, seconds in timeline.idle_s.items()],
        "workers": [
            {"name": worker, "up": round(timeline.up_s.get(worker, 0.0), 1), "spans": spans, "idle": idle[worker]}
            for worker, spans in rows.items()
        ],
    }


def _largest(jobs: dict[str, list[Any]], column: str, most: int) -> list[int]:
    known = [index for index, value in enumerate(jobs[column]) if value is not None]
    return sorted(known, key=lambda index: -jobs[column][index])[:most]


def _changes(
    folder: RunFolder,
    jobs: dict[str, list[Any]],
    totals: dict[str, Any],
    previous: tuple[dict[str, Any], list[dict[str, Any]]] | None,
) -> dict[str, Any] | None:
    """This run compared with the one before it."""
    if previous is None:
        return None
    document, rows = previous
    before = {row["job_id"]: row for row in rows}
    now = {row["job_id"]: row for row in folder.results}
    failed = {name for name, row in now.items() if row["state"] == "failed"}
    failed_before = {name for name, row in before.items() if row["state"] == "failed"}
    shared = now.keys() & before.keys()
    return {
        "run": document.get("run_id"),
        "started": document.get("started_at"),
        "rows": [
            ["films", len(before), totals["jobs"]],
            ["done", _count(before, "done"), _count(now, "done")],
            ["failed", len(failed_before), len(failed)],
            ["rendering seconds a film (median)", _median(before), _median(now)],
            ["rendering hours in all", _hours(before), _hours(now)],
        ],
        "newly_failed": sorted(failed & before.keys() - failed_before)[:_LISTED],
        "repaired": sorted(name for name in failed_before if name in now and now[name]["state"] == "done")[:_LISTED],
        "new": len(now.keys() - before.keys()),
        "gone": len(before.keys() - now.keys()),
        "changed": sum(
            1
            for name in shared
            if now[name].get("sha256") and before[name].get("sha256") and now[name]["sha256"] != before[name]["sha256"]
        ),
    }


def _count(rows: dict[str, dict[str, Any]], state: str) -> int:
    return sum(row["state"] == state for row in rows.values())


def _hours(rows: dict[str, dict[str, Any]]) -> float:
    return round(sum(row.get("gpu_s") or 0.0 for row in rows.values()) / 3600, 2)


def _median(rows: dict[str, dict[str, Any]]) -> float | None:
    seconds = [row["gpu_s"] for row in rows.values() if row.get("gpu_s")]
    return round(statistics.median(seconds), 1) if seconds else None
