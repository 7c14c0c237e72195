"""What has to hold after every chaos run, as named invariants. Each looks at the real output, past the proxy."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load

from render_farm.media.mp4 import probe_mp4
from render_farm.observability.events import EventKind, parse_lines
from render_farm.storage.checkpoints import read_film_keys
from render_farm.storage.done import read_done, verify_done
from render_farm.storage.layout import FINAL_NAMES, SEGMENTS, JobKeys, RunKeys, film_key, segment_of
from render_farm.storage.lease import read_lease
from render_farm.storage.run_state import load_run_state
from render_farm.storage.store import Store

_Segment = tuple[str, int]
"""Job and index."""


class Audit:
    """One run's output: its store, its id, and the latents of an undisturbed run by job."""

    def __init__(self, store: Store, run_id: str, expected: Mapping[str, np.ndarray], num_frames: int) -> None:
        self.store = store
        self.run_id = run_id
        self.expected = expected
        self.num_frames = num_frames
        table = pq.read_table(io.BytesIO(store.read_bytes(RunKeys(run_id=run_id).results)))
        self.rows: dict[str, dict[str, Any]] = {row["job_id"]: row for row in table.to_pylist()}

    def violations(self, *, num_kills: int) -> list[str]:
        """Every invariant that does not hold, with what was found."""
        found: list[str] = []
        for invariant in INVARIANTS:
            try:
                found += [f"{invariant.__name__}: {text}" for text in invariant(self)]
            except Exception as error:  # noqa: BLE001  (what cannot be looked at does not hold)
                found.append(f"{invariant.__name__}: {error!r:.300}")
        again = self.num_again() if num_kills else self.num_rendered_again()
        if again > num_kills:
            found.append(f"at_most_one_segment_again_per_kill: {again} segments again, {num_kills} kills")
        return found

    def num_again(self) -> int:
        """Segments begun again or rendered again; one that was both counts once, as one kill does both."""
        return (self._rendered_again() | self._begun_again()).total()

    def num_rendered_again(self) -> int:
        """Segments that were rendered to their end more than once: each leaves an object of its own."""
        return self._rendered_again().total()

    def num_begun_again(self) -> int:
        """Segments that were begun again before they were stored, as far as the run's log tells."""
        return self._begun_again().total()

    def _rendered_again(self) -> Counter[_Segment]:
        stored = Counter(segment_of(key) for key in self.store.list(SEGMENTS) if key.endswith(".safetensors"))
        return +Counter({segment: stored[key] - 1 for key, segment in self._first_with.items()})

    @cached_property
    def _keys(self) -> dict[_Segment, str]:
        """Keys of segments, as far as films are done."""
        films = {job_id: self._film(job_id) for job_id in self.expected}
        return {
            (job_id, index): key
            for job_id, film in films.items()
            for index, key in enumerate(read_film_keys(self.store, film) if film else ())
        }

    @cached_property
    def _first_with(self) -> dict[str, _Segment]:
        """For the key of each segment, the first film's that has it: films that begin alike share segments."""
        return {key: segment for segment, key in reversed(self._keys.items())}

    def _begun_again(self) -> Counter[_Segment]:
        """A killed coordinator leaves out of the log what it had not written yet. A stored segment that is handed out
        again is only read, and a worker that finds less in the store than it was told begins nothing."""
        begun = Counter[_Segment]()
        stored = set()
        for key in sorted(self.store.list(RunKeys(run_id=self.run_id).logs)):
            for line in parse_lines(self.store.read_bytes(key)):
                if line.segment is None:
                    continue
                segment = line.job_id, line.segment
                if line.kind == EventKind.SEGMENT_DONE:
                    stored.add(segment)
                    begun[segment] -= line.values.get("seconds") == 0.0  # it was only read, see `RunProgress`
                elif line.kind == EventKind.SEGMENT_STARTED and segment not in stored:
                    begun[segment] += 1
                elif line.kind == EventKind.WORK_FAILED and "segments_done" in line.values:
                    begun[segment] -= segment not in stored
        by_film, begun = begun, Counter()
        for segment, number in by_film.items():
            begun[self._first_with.get(self._keys.get(segment, ""), segment)] += number
        return begun - Counter(dict.fromkeys(begun, 1))

    def counted_attempts(self) -> list[str]:
        """Jobs that had an attempt counted, where none may be."""
        return [
            f"no_attempt_is_counted: {job_id} had {row['attempts']}"
            for job_id, row in self.rows.items()
            if row["attempts"] > 1
        ]

    def not_finite(self, job_id: str) -> list[str]:
        """What is wrong with a job that had to fail because its model computes NaN. Nothing of it may be published."""
        row = self.rows.get(job_id, {})
        wrong = [] if row.get("error_class") == "NotFiniteError" else [f"{job_id} failed by {row.get('error_class')}"]
        wrong += [f"{key} is there" for key in self.store.list(job_id)]
        return [f"a_film_of_nan_fails: {text}" for text in wrong]

    def done(self) -> list[str]:
        return [job_id for job_id in self.expected if self.rows.get(job_id, {}).get("state") == "done"]

    def _film(self, job_id: str) -> str:
        done = read_done(self.store, job_id)
        return film_key(job_id, done["render_key"]) if done else ""


def every_job_is_done_once_or_failed_with_a_reason(audit: Audit) -> list[str]:
    wrong = [f"{job_id} has no row" for job_id in set(audit.expected) - set(audit.rows)]
    for job_id, row in audit.rows.items():
        if row["state"] not in ("done", "failed") or (row["state"] == "failed" and not row["message"]):
            wrong.append(f"{job_id} is {row['state']}: {row['message']}")
    return wrong


def every_video_decodes_to_the_planned_frames(audit: Audit) -> list[str]:
    wrong = []
    for job_id in audit.done():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "video.mp4")
            audit.store.get_file(JobKeys(job_id=job_id).video, path)
            decoded = sum(1 for _ in imageio_ffmpeg.read_frames(str(path))) - 1  # the first item is about the file
            if (decoded, probe_mp4(path).num_frames) != (audit.num_frames, audit.num_frames):
                wrong.append(f"{job_id} has {decoded} frames where {audit.num_frames} are planned")
    return wrong


def latents_are_those_of_an_undisturbed_run(audit: Audit) -> list[str]:
    return [
        f"{job_id} differs"
        for job_id in audit.done()
        if not np.array_equal(
            load(audit.store.read_bytes(JobKeys(job_id=job_id).latents))["latents"], audit.expected[job_id]
        )
    ]


def nothing_half_written_under_a_final_name(audit: Audit) -> list[str]:
    wrong = []
    for job_id in audit.expected:
        names = {key.rpartition("/")[2] for key in audit.store.list(job_id)}
        wrong += [f"{job_id}/{name} is no final name" for name in names - set(FINAL_NAMES)]
        if job_id in audit.done() or names:
            wrong += list(verify_done(audit.store, job_id))
    return wrong


def results_agree_with_the_tree(audit: Audit) -> list[str]:
    wrong = []
    for job_id in audit.expected:
        done, row = read_done(audit.store, job_id), audit.rows.get(job_id, {})
        if (done is not None) != (row.get("state") == "done"):
            wrong.append(f"{job_id} is {row.get('state')} in the results, and {'' if done else 'not '}in the tree")
        elif done is not None:
            told = {"sha256": row["sha256"], "num_frames": row["frames"], "segments": row["segments"]}
            there = {**{name: done[name] for name in told}, "segments": len(done["segments"])}
            if told != there:
                wrong.append(f"{job_id} has {told} in the results and {there} in the tree")
    return wrong


def the_run_is_given_back_and_its_state_says_so(audit: Audit) -> list[str]:
    wrong = []
    lease = read_lease(audit.store, audit.run_id)
    if lease is None or not lease.released:
        wrong.append(f"the lease is {'missing' if lease is None else 'held'}")
    rows = load_run_state(audit.store, audit.run_id).jobs
    wrong += [
        f"the state has {job_id} as {rows[job_id].state if job_id in rows else 'unknown'}"
        for job_id in audit.done()
        if job_id not in rows or rows[job_id].state != "done"
    ]
    if left := audit.store.list(RunKeys(run_id=audit.run_id).control):
        wrong.append(f"requests are left: {left}")
    return wrong


def the_report_says_how_the_run_ended(audit: Audit) -> list[str]:
    key = RunKeys(run_id=audit.run_id).report
    if not audit.store.exists(key):
        return ["there is none"]
    return [] if b'"over":true' in audit.store.read_bytes(key) else ["it says that the run is not over"]


INVARIANTS: tuple[Callable[[Audit], list[str]], ...] = (
    every_job_is_done_once_or_failed_with_a_reason,
    every_video_decodes_to_the_planned_frames,
    latents_are_those_of_an_undisturbed_run,
    nothing_half_written_under_a_final_name,
    results_agree_with_the_tree,
    the_run_is_given_back_and_its_state_says_so,
    the_report_says_how_the_run_ended,
)
