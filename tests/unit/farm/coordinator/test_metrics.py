"""The farm's metrics: their list, their bounded labels, and what the coordinator and the workers say through them."""

from __future__ import annotations

import math

import pytest

from render_farm.errors import Fault
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.run.film_task import FilmReport, SegmentReport
from render_farm.farm.run.owned_run import acquire_run
from render_farm.farm.run.spec import RunSpec
from render_farm.farm.worker.text_worker import TextReport
from render_farm.observability import metrics as m
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.meter import Traffic
from tests.helpers.film_entries import entry
from tests.helpers.metrics_sink import Remembered


@pytest.fixture
def farm(tmp_path):
    """A run of three films on a machine with one worker, its metrics told as the coordinator tells them."""
    run = acquire_run(
        RunSpec(run_id="night", output=str(tmp_path)), this_holder(), LeaseTiming(), on_lost=lambda error: None
    )
    sink, machine = Remembered(), FarmMachine()
    told = FarmMetrics(sink)

    def apply(event: ev.Event, now: float) -> list[ev.Action]:
        actions = machine.apply(event, now)
        told.applied(event, actions, now)
        return actions

    films = []
    for job_id, deadline_s in (("a", None), ("b", 900.0), ("c", 5000.0)):
        made = entry(job_id, tmp_path, deadline_s)
        run.progress.add(made)
        films.append(ev.QueuedFilm(run_id="night", job_id=job_id, num_segments=2, model="tiny", deadline_s=deadline_s))
    apply(ev.FilmsAdded(films=tuple(films)), 0.0)
    run.progress.state = State.RUNNING
    yield run, machine, told, sink, apply
    run.lease.stop()


def test_the_coordinator_tells_what_happens_and_how_things_stand(farm):
    run, machine, told, sink, apply = farm
    apply(ev.RunSealed(run_id="night"), 1.0)
    apply(ev.WorkerUp(worker="worker-0.1", host="h"), 2.0)
    told.encoded(TextReport(num_new=1, seconds=3.0, traffic=Traffic(num_bytes={"written": 7})))
    first = apply(ev.TextReady(run_id="night", model="tiny"), 12.0)
    assert [type(action) for action in first] == [ev.RenderSegment]
    assert sink.observed[m.QUEUE_WAIT.name,] == [12.0]
    job_id = first[0].film[1]
    run.progress.started(job_id, "worker-0.1", "denoise")
    run.progress.stepped(job_id, 0, 4, 8)

    run.encoding.add("another model")
    told.sample({"night": run}, machine, now=20.0, now_unix_s=1000.0, num_preparing=3)
    assert (sink.of(m.PREPARING, "text"), sink.of(m.PREPARING, "segment")) == (1, 3)
    assert [sink.of(m.JOBS, state) for state in ("waiting", "running", "done")] == [2, 1, 0]
    assert [sink.of(m.SEGMENTS, state) for state in ("waiting", "running", "done")] == [5, 1, 0]
    assert (sink.of(m.RUNS, "running"), sink.of(m.WORKERS, "busy"), sink.of(m.WORKERS, "idle")) == (1, 1, 0)
    assert sink.of(m.RUN_AT_WORK, f"{run.progress.spec.output}/_runs/night") == 1
    assert (sink.of(m.STEPS), sink.of(m.LATE_JOBS)) == (4, 1)
    assert math.isnan(sink.of(m.DEADLINE_SLACK))  # there is no pace yet
    assert sink.of(m.STORAGE_BYTES, "written") > 7  # the run's own objects, too

    told.rendered(SegmentReport(segment=0, seconds=2.0, phases=(("denoise", 2.0), ("checkpoint", 0.5))))
    told.published(
        FilmReport(
            uri="",
            sha256="",
            num_frames=48,
            video_bytes=9,
            render_s=2.0,
            seconds=1.0,
            phases=(("upload", 1.0),),
            seam_score=4,
            findings=("cut@3", "cut@9", "frozen@20-60"),
        ),
        fps=24,
    )
    assert sink.of(m.VIDEO_SECONDS) == 2.0
    observed = {phase: sink.observed[m.PHASE_SECONDS.name, phase] for phase in ("text", "denoise", "upload")}
    assert observed == {"text": [3.0], "denoise": [2.0], "upload": [1.0]}
    assert sink.of(m.WORK_SECONDS, "text") == 3.0
    assert sink.observed[m.SEAM_SCORE.name,] == [4]
    assert (sink.of(m.FINDINGS, "cut"), sink.of(m.FINDINGS, "frozen")) == (1, 1)

    surprise = ev.WorkFailed(
        worker="worker-0.1",
        film=first[0].film,
        failure=Failure(fault=Fault.WORKER, error_class="NobodyForesawError", message="x"),
    )
    apply(surprise, 21.0)
    assert sink.of(m.FAILURES, m.OTHER, "worker") == 1
    assert sink.of(m.ATTEMPTS, "segment") == 2  # the next film has begun
    apply(ev.CancelRun(run_id="night", reason="enough"), 22.0)
    assert sink.of(m.JOBS_ENDED, "cancelled") == 3


def test_the_last_run_stays_to_be_seen(farm):
    run, machine, told, sink, _ = farm
    told.sample({"night": run}, machine, now=0.0, now_unix_s=0.0)
    assert sink.of(m.RUN_AT_WORK, f"{run.progress.spec.output}/_runs/night") == 1
    sink.values.clear()  # as when Ray loses what was set before its exporter was there
    told.sample({"night": run}, machine, now=5.0, now_unix_s=0.0)
    assert sink.of(m.RUN_AT_WORK, f"{run.progress.spec.output}/_runs/night") == 1
    for job_id in ("a", "b", "c"):
        run.progress.ended(job_id, State.DONE, error_class="", message="", attempts=1)
    run.over.set()
    told.sample({"night": run}, machine, now=10.0, now_unix_s=0.0)
    assert (sink.of(m.JOBS, "done"), sink.of(m.RUNS, "running"), sink.of(m.ETA)) == (3, 0, 0.0)
    assert sink.of(m.RUN_AT_WORK, f"{run.progress.spec.output}/_runs/night") == 0
