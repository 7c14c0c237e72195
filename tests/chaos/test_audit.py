"""What the audit counts as rendered again."""

from __future__ import annotations

import numpy as np

from render_farm.farm.run.results import Result, write_results
from render_farm.observability.events import EventKind, LogLine, dump_lines
from render_farm.storage import open_store
from render_farm.storage.checkpoints import begin_film
from render_farm.storage.layout import RunKeys, SegmentKeys
from render_farm.storage.publish import publish
from render_farm.storage.segments import SegmentMeta, save_latents
from tests.chaos.audit import Audit

FILM, OTHER = (f"{job_id}-{'0' * 12}" for job_id in "ab")
KEYS = tuple(f"{index:032x}" for index in range(3))


def save(store, index: int, attempt: str) -> None:
    latents = np.zeros((1, 1, 1, 1, 1), np.float32)
    save_latents(
        store, SegmentKeys(key=KEYS[index]), index, latents, SegmentMeta(attempt=attempt), film=FILM, previous=""
    )


Events = list[tuple[EventKind, int, dict]]
READ = (EventKind.SEGMENT_DONE, 0, {"seconds": 0.0})


def audit_of(tmp_path, *, stored: list[int], events: Events, other: Events = ()) -> Audit:
    """Of a film of three segments: objects were `stored` in this order, and this was logged. A film that begins with
    the same two has the `other` events."""
    store = open_store(tmp_path)
    begin_film(store, FILM, KEYS)
    begin_film(store, OTHER, (*KEYS[:2], f"{9:032x}"))
    for number, index in enumerate(stored):
        save(store, index, str(number))
    (tmp_path / "v").write_bytes(b"video")
    for film in (FILM, OTHER):
        publish(store, film, "attempt", {"video.mp4": tmp_path / "v"}, {"segments": [], "num_frames": 3})
    lines = [
        LogLine(
            number=number, time_s=0, level="debug", job_id=job_id, message="", kind=kind, segment=segment, values=values
        )
        for number, (job_id, (kind, segment, values)) in enumerate(
            [("a", e) for e in events] + [("b", e) for e in other]
        )
    ]
    store.write_bytes(RunKeys(run_id="r").log("1.jsonl"), dump_lines(lines))
    write_results(store, "r", [Result(job_id="a", state="done")])
    return Audit(store, "r", dict.fromkeys("ab", np.zeros(1)), 3)


def begun(segment: int) -> tuple[EventKind, int, dict]:
    return EventKind.SEGMENT_STARTED, segment, {}


def done(segment: int) -> tuple[EventKind, int, dict]:
    return EventKind.SEGMENT_DONE, segment, {}


def test_a_segment_lost_with_its_worker_counts_once(tmp_path):
    audit = audit_of(tmp_path, stored=[0, 1, 2], events=[begun(0), done(0), begun(1), begun(1), done(1), begun(2)])
    assert (audit.num_rendered_again(), audit.num_begun_again(), audit.num_again()) == (0, 1, 1)


def test_a_stored_segment_that_a_killed_coordinator_did_not_log_does_not_count(tmp_path):
    """The next one hands it out, and its worker only reads it."""
    audit = audit_of(tmp_path, stored=[0, 1, 2], events=[begun(0), begun(0), READ, begun(1), done(1)])
    assert (audit.num_rendered_again(), audit.num_begun_again(), audit.num_again()) == (0, 0, 0)


def test_a_segment_that_was_stored_and_not_recorded_counts_once(tmp_path):
    """Its object is there twice, and the log has it begun twice."""
    audit = audit_of(tmp_path, stored=[0, 1, 2], events=[begun(0), begun(0), done(0)])
    store = open_store(tmp_path)
    save(store, 0, "killed")
    assert (audit.num_rendered_again(), audit.num_begun_again(), audit.num_again()) == (1, 1, 1)


def test_a_flipped_bit_and_a_killed_worker_are_two(tmp_path):
    """The worker of segment 1 dies; the next one finds 0 damaged and begins nothing; then both are rendered."""
    damaged = EventKind.WORK_FAILED, 1, {"segments_done": 0}
    events = [begun(0), done(0), begun(1), begun(1), damaged, begun(0), done(0), begun(1), done(1), begun(2), done(2)]
    audit = audit_of(tmp_path, stored=[0, 0, 1, 2], events=events)
    assert (audit.num_rendered_again(), audit.num_begun_again(), audit.num_again()) == (1, 1, 2)


def test_a_segment_of_two_films_counts_for_one_of_them(tmp_path):
    """Both have the first two. The worker of segment 1 dies, the other film renders it, and the first one reads it."""
    events = [begun(0), done(0), begun(1)]
    audit = audit_of(tmp_path, stored=[0, 1, 1, 2], events=events, other=[begun(0), READ, begun(1), done(1)])
    assert (audit.num_rendered_again(), audit.num_begun_again(), audit.num_again()) == (1, 1, 1)


def test_what_another_film_only_reads_is_not_begun_again(tmp_path):
    events = [begun(0), done(0), begun(1), done(1), begun(2), done(2)]
    audit = audit_of(
        tmp_path, stored=[0, 1, 2], events=events, other=[begun(0), READ, begun(1), (*READ[:1], 1, READ[2])]
    )
    assert (audit.num_rendered_again(), audit.num_begun_again(), audit.num_again()) == (0, 0, 0)
