"""The farm's metrics: their list, their bounded labels, and what the coordinator and the workers say through them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from pathlib import Path

import pytest

import render_farm
from render_farm.errors import Fault
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.run.film_task import FilmReport, FilmTask, SegmentReport
from render_farm.farm.run.owned_run import hold
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.farm.worker.metrics import WorkerMetrics
from render_farm.farm.worker.text_worker import TextReport
from render_farm.job import RenderJob
from render_farm.observability import metrics as m
from render_farm.planning import facts_of_preset, plan_film
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.meter import StorageMeter, Traffic
from render_farm.storage.open import open_store

PACKAGE = Path(render_farm.__file__).parent


class Remembered:
    """A sink that adds up, by exposed labels as Ray's would have them."""

    def __init__(self) -> None:
        self.values: dict[tuple, float] = defaultdict(float)
        self.observed: dict[tuple, list[float]] = defaultdict(list)

    def _key(self, metric: m.Metric, labels: dict[str, str]) -> tuple:
        return (metric.name, *metric.label_values(labels).values())

    def add(self, metric, value=1.0, **labels):
        assert metric.kind is m.MetricKind.COUNTER and value >= 0
        self.values[self._key(metric, labels)] += value

    def set(self, metric, value, **labels):
        assert metric.kind is m.MetricKind.GAUGE
        self.values[self._key(metric, labels)] = value

    def observe(self, metric, value, **labels):
        assert metric.kind is m.MetricKind.HISTOGRAM
        self.observed[self._key(metric, labels)].append(value)

    def of(self, metric: m.Metric, *labels: str) -> float:
        return self.values[(metric.name, *labels)]


def test_every_metric_is_complete_and_named_as_prometheus_asks():
    assert len({metric.name for metric in m.METRICS}) == len(m.METRICS)
    assert set(m.METRICS) == {value for value in vars(m).values() if isinstance(value, m.Metric)}
    for metric in m.METRICS:
        assert re.fullmatch(r"render_farm_[a-z_]+", metric.name)
        assert metric.help.endswith(".") and metric.unit
        assert metric.name.endswith("_total") == (metric.kind is m.MetricKind.COUNTER)
        assert bool(metric.buckets) == (metric.kind is m.MetricKind.HISTOGRAM)
        assert list(metric.buckets) == sorted(metric.buckets)
        if metric.unit != "1":
            assert metric.unit in metric.name


def test_labels_are_bounded():
    """Whatever is recorded, a metric has a known number of series; nothing of a job, run or message becomes a label."""
    for metric in m.METRICS:
        labels = {label.name for label in metric.labels}
        assert not labels & {"job", "job_id", "run", "run_id", "prompt", "message", "segment", "host"}
        assert math.prod(len(label.values) for label in metric.labels if label.values) < 300
        odd = metric.label_values(dict.fromkeys(labels, "shot-0001 of ada"))
        assert set(odd.values()) <= {m.OTHER}
    assert m.JOBS.label_values({"state": "done"}) == {"state": "done"}
    assert m.WORKER.bounded(m.place_of("worker-12.7")) == "worker-12"
    assert m.WORKER.bounded("worker-12.7") == m.OTHER
    with pytest.raises(AssertionError):
        m.JOBS.label_values({"state": "done", "job_id": "a"})


def test_no_other_file_names_a_metric():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "metrics.py":
            continue
        text = path.read_text()
        named = [metric.name for metric in m.METRICS if f'{metric.name}"' in text]
        assert named == [], path


def entry(job_id: str, output: Path, deadline_s: float | None = None) -> FilmEntry:
    job = RenderJob(job_id=job_id, prompt="a red circle", num_frames=37, base_num_frames=21, overlap_history=5)
    plan = plan_film(job, facts_of_preset("tiny"))
    task = FilmTask(run_id="night", output=str(output), model="tiny", plan=plan)
    return FilmEntry(task=task, costs=(10, 10), deadline_s=deadline_s)


@pytest.fixture
def farm(tmp_path):
    """A run of three films on a machine with one worker, its metrics told as the coordinator tells them."""
    run = hold(RunSpec(run_id="night", output=str(tmp_path)), this_holder(), LeaseTiming(), on_lost=lambda error: None)
    sink, machine = Remembered(), FarmMachine()
    told = FarmMetrics(sink)

    def apply(event: ev.Event, now: float) -> list[ev.Action]:
        actions = machine.apply(event, now)
        told.applied(event, actions, now)
        return actions

    films = []
    for job_id, deadline_s in (("a", None), ("b", 900.0), ("c", 5000.0)):
        made = entry(job_id, tmp_path, deadline_s)
        run.record.add(made)
        films.append(ev.Film(run_id="night", job_id=job_id, num_segments=2, model="tiny", deadline_s=deadline_s))
    apply(ev.FilmsAdded(films=tuple(films)), 0.0)
    run.record.state = State.RUNNING
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
    run.record.started(job_id, "worker-0.1", "denoise")
    run.record.stepped(job_id, 0, 4, 8)

    run.encoding.add("another model")
    told.sample({"night": run}, machine, now=20.0, now_unix_s=1000.0, num_preparing=3)
    assert (sink.of(m.PREPARING, "text"), sink.of(m.PREPARING, "segment")) == (1, 3)
    assert [sink.of(m.JOBS, state) for state in ("waiting", "running", "done")] == [2, 1, 0]
    assert [sink.of(m.SEGMENTS, state) for state in ("waiting", "running", "done")] == [5, 1, 0]
    assert (sink.of(m.RUNS, "running"), sink.of(m.WORKERS, "busy"), sink.of(m.WORKERS, "idle")) == (1, 1, 0)
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
        ),
        fps=24,
    )
    assert sink.of(m.VIDEO_SECONDS) == 2.0
    observed = {phase: sink.observed[m.PHASE_SECONDS.name, phase] for phase in ("text", "denoise", "upload")}
    assert observed == {"text": [3.0], "denoise": [2.0], "upload": [1.0]}
    assert sink.of(m.WORK_SECONDS, "text") == 3.0
    assert sink.observed[m.SEAM_SCORE.name,] == [4]

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
    for job_id in ("a", "b", "c"):
        run.record.ended(job_id, State.DONE, error_class="", message="", attempts=1)
    run.over.set()
    told.sample({"night": run}, machine, now=5.0, now_unix_s=0.0)
    assert (sink.of(m.JOBS, "done"), sink.of(m.RUNS, "running"), sink.of(m.ETA)) == (3, 0, 0.0)


class Worker:
    name = "worker-3.7"
    kv_cache_bytes = 11
    engine_s = 1.5

    def __init__(self) -> None:
        self.meter = StorageMeter()


def test_a_worker_tells_what_it_uses_and_moves(tmp_path):
    worker, sink = Worker(), Remembered()
    store = open_store(tmp_path, meter=worker.meter)
    store.write_bytes("a", b"12345")
    assert store.read_bytes("a") == b"12345"
    (tmp_path / "file").write_bytes(b"123")
    store.put_file(tmp_path / "file", "b")
    store.get_file("b", tmp_path / "copy")
    assert store.create("c", b"1") and not store.create("c", b"1")
    assert not store.exists("nothing")
    with pytest.raises(Exception, match="a file is where"):
        store.write_bytes("a/b", b"")
    told = WorkerMetrics(worker, sink, every_s=3600)
    told.close()
    assert sink.of(m.STORAGE_BYTES, "written") == 5 + 3 + 1
    assert sink.of(m.STORAGE_BYTES, "read") == 5 + 3
    assert sink.of(m.STORAGE_ERRORS, "write", "given_up") == 1
    assert sink.of(m.BUSY_SECONDS, "worker-3") == 1.5
    assert sink.of(m.WORKER_SECONDS, "worker-3") > 0
    assert sink.of(m.KV_CACHE_BYTES, "worker-3") == 11
    assert sink.of(m.WORKER_MEMORY, "worker-3", "host") > 1 << 20
    assert not any(key[-1] == "device" for key in sink.values)
