"""The report's timeline: when workers were busy, and why they were idle."""

from __future__ import annotations

from dataclasses import replace

from render_farm.observability.events import EventKind, LogLine
from render_farm.report.timeline import BETWEEN, PAUSED, RETRY, TAIL, TEXT, build_timeline


def event(time_s: float, kind: EventKind, worker: str = "", job_id: str = "", **values) -> LogLine:
    return LogLine(
        number=1, time_s=time_s, level="debug", job_id=job_id, message="", kind=kind, worker=worker, values=values
    )


def test_what_a_cancelled_film_has_rendered_is_not_lost():
    def kinds(state: str) -> list[str]:
        lines = [event(1, EventKind.WORKER_UP, "w"), event(2, EventKind.SEGMENT_STARTED, "w", "a")]
        return [s.kind for s in build_timeline([*lines, event(9, EventKind.FILM_ENDED, "w", "a", state=state)]).spans]

    assert (kinds("cancelled"), kinds("failed")) == (["segment"], ["failed"])


def test_idle_time_has_its_reason():
    timeline = build_timeline(
        [
            event(0, EventKind.RUN_STARTED),
            event(1, EventKind.WORKER_UP, "w"),
            event(1, EventKind.TEXT_STARTED),
            event(5, EventKind.TEXT_DONE),
            event(5, EventKind.SEGMENT_STARTED, "w", "a"),
            event(9, EventKind.WORK_FAILED, "w", "a"),
            event(12, EventKind.SEGMENT_STARTED, "w", "a"),
            event(15, EventKind.SEGMENT_DONE, "w", "a"),
            event(16, EventKind.SEGMENT_STARTED, "w", "b"),
            event(20, EventKind.SEGMENT_DONE, "w", "b"),
            event(26, EventKind.WORKER_ENDED, "w"),
        ]
    )
    assert timeline.idle_s == {TAIL: 6.0, TEXT: 4.0, RETRY: 3.0, BETWEEN: 1.0}
    assert [(span.kind, span.end_s - span.start_s) for span in timeline.spans] == [
        ("failed", 4),
        ("segment", 3),
        ("segment", 4),
    ]
    assert timeline.up_s == {"w": 25.0}


def test_every_worker_of_a_render_group_is_busy():
    timeline = build_timeline(
        [
            event(0, EventKind.WORKER_UP, "v"),
            event(0, EventKind.WORKER_UP, "w"),
            event(1, EventKind.SEGMENT_STARTED, "v", "a", helpers=["w"]),
            event(9, EventKind.SEGMENT_DONE, "v", "a"),
        ]
    )
    assert [(span.worker, span.end_s - span.start_s) for span in timeline.spans] == [("v", 8), ("w", 8)]
    assert timeline.idle_s == {BETWEEN: 2.0}


def test_a_worker_that_finishes_beside_its_next_segment_is_busy_once():
    timeline = build_timeline(
        [
            event(0, EventKind.WORKER_UP, "w"),
            event(0, EventKind.FINISH_STARTED, "w", "a"),
            event(1, EventKind.SEGMENT_STARTED, "w", "b"),
            event(6, EventKind.FILM_PUBLISHED, "w", "a"),
            event(8, EventKind.SEGMENT_DONE, "w", "b"),
        ]
    )
    assert timeline.idle == []


def test_work_under_a_farm_that_was_killed_came_to_nothing_and_the_pause_costs_nothing():
    timeline = build_timeline(
        [
            event(0, EventKind.RUN_STARTED),
            event(1, EventKind.WORKER_UP, "w"),
            event(2, EventKind.SEGMENT_STARTED, "w", "a"),
            event(100, EventKind.RUN_STARTED),
            event(101, EventKind.WORKER_UP, "v"),
            event(101, EventKind.SEGMENT_STARTED, "v", "a"),
            event(105, EventKind.SEGMENT_DONE, "v", "a"),
        ]
    )
    assert [span.kind for span in timeline.spans] == ["failed", "segment"]
    assert timeline.up_s == {"w": 1.0, "v": 4.0}


def test_work_that_goes_on_ends_now():
    timeline = build_timeline([event(0, EventKind.SEGMENT_STARTED, "w", "a")], now_s=7)
    assert [(span.end_s, span.kind) for span in timeline.spans] == [(7, "segment")]
    assert build_timeline([]).spans == []


def test_idle_time_of_a_pause_is_the_pauses():
    started = [event(0, EventKind.RUN_STARTED), event(0, EventKind.WORKER_UP, "w")]
    paused = [
        event(10, EventKind.RUN_PAUSED),
        event(60, EventKind.RUN_RESUMED),
        event(60, EventKind.SEGMENT_STARTED, "w", "a"),
        event(70, EventKind.SEGMENT_DONE, "w", "a"),
        event(75, EventKind.RUN_PAUSED),
    ]
    assert build_timeline([*started, *paused], now_s=300).idle_s == {PAUSED: 60 + 230}
    ended = replace(event(80, EventKind.WORKER_ENDED, "w"), number=9)
    anew = [event(200, EventKind.RUN_STARTED), event(200, EventKind.WORKER_UP, "v")]
    again = [event(210, EventKind.SEGMENT_STARTED, "v", "a"), event(220, EventKind.SEGMENT_DONE, "v", "a")]
    older = [*started, replace(event(0, EventKind.RUN_PAUSED), number=7), ended, *anew, *again]
    assert build_timeline(older).idle_s == {PAUSED: 80, BETWEEN: 10}  # it was resumed while nobody rendered it
