"""Every metric of the farm: name, kind, unit, labels and what it says. Nothing else defines one.

Ray's endpoint puts `ray_` before each name and adds labels of its own (the node, the session, the worker process).
A label takes few values: whatever is not among those that are written down here is counted as `other`, so neither jobs
nor messages can become labels. One metric names runs, so that alerts can: `render_farm_run_at_work`, which has the
first `MOST_RUNS_NAMED` runs of a coordinator only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from render_farm import errors
from render_farm.check_mode import KINDS

OTHER = "other"
_PLACE = re.compile(r"worker-[0-9]{1,5}")
_RUN = re.compile(r"\S.{0,1000}/_runs/[A-Za-z0-9._-]{1,128}")
MOST_RUNS_NAMED = 100
"""Series stay for as long as the coordinator's process lives."""


class MetricKind(StrEnum):
    """What Prometheus makes of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label and its values."""

    name: str
    help: str
    values: frozenset[str] | re.Pattern[str]
    """A pattern stands for things of which there are few at a time: the places of workers, and named runs."""

    def bounded(self, value: str) -> str:
        """`value`, or `other` when it is none of the label's."""
        known = value in self.values if isinstance(self.values, frozenset) else self.values.fullmatch(value)
        return value if known else OTHER


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric."""

    name: str
    kind: MetricKind
    unit: str
    """Of its values; `1` for numbers of things and ratios."""
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def exposed(self) -> str:
        """Its name at Ray's endpoint."""
        return f"ray_{self.name}"

    def label_values(self, given: Mapping[str, str]) -> dict[str, str]:
        """The labels to record, each with one of its values."""
        assert given.keys() == {label.name for label in self.labels}, f"{self.name} has other labels than {given}"
        return {label.name: label.bounded(given[label.name]) for label in self.labels}


def place_of(worker: str) -> str:
    """The place of a worker, which its successor takes over: `worker-3` for `worker-3.17`."""
    return worker.partition(".")[0]


def _label(name: str, help: str, *values: str) -> Label:
    return Label(name=name, help=help, values=frozenset(values))


_ERROR_CLASSES = [name for name, value in vars(errors).items() if isinstance(value, type) and name != "Problem"]

STATE = _label("state", "of a job, as `status` says it", "waiting", "running", "done", "failed", "cancelled")
RUN_STATE = _label("state", "of a run that is not over", "waiting", "running", "paused")
SEGMENT_STATE = _label("state", "of a segment", "waiting", "running", "done")
PHASE = _label("phase", "of the work", "text", "denoise", "decode", "encode", "upload", "checkpoint")
WORKER = Label(name="worker", help="a worker's place; a restarted worker takes its predecessor's", values=_PLACE)
RUN = Label(name="run", help="a run's address, as `render-farm status` takes it", values=_RUN)
ACTIVITY = _label("state", "of a worker", "busy", "idle")
ERROR_CLASS = _label("error_class", "of `render_farm/errors.py`; `other` for what nobody foresaw", *_ERROR_CLASSES)
FAULT = _label("fault", "whose fault it was", "user", "job", "worker", "cluster")
WORK = _label("work", "what was handed out", "segment", "finish")
GROUP_SIZE = _label("size", "workers in a render group", *(str(size) for size in range(1, 65)))
DIRECTION = _label("direction", "from storage, or to it", "read", "written")
OPERATION = _label(
    "operation",
    "of the store",
    *("read", "write", "create", "look at", "look for", "list", "delete", "copy", "clean"),
)
OUTCOME = _label("outcome", "of a request that failed: it is tried again, or given up", "tried_again", "given_up")
PREPARED = _label("work", "that waits for it", "text", "segment")
FINDING = _label("kind", "what the checks found", *KINDS)
LEASE_CHANGE = _label("change", "of a run's lease", "taken", "taken_over", "given_back", "lost")
MEMORY = _label("kind", "the host's memory, or the device's", "host", "device")

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)

JOBS = Metric(
    name="render_farm_jobs",
    kind=MetricKind.GAUGE,
    unit="1",
    labels=(STATE,),
    help="Jobs by state, of the runs that are not over; when all are, of the one that ended last.",
)
SEGMENTS = Metric(
    name="render_farm_segments",
    kind=MetricKind.GAUGE,
    unit="1",
    labels=(SEGMENT_STATE,),
    help="Segments by state, of the films of the same runs that have not failed.",
)
RUNS = Metric(
    name="render_farm_runs",
    kind=MetricKind.GAUGE,
    unit="1",
    labels=(RUN_STATE,),
    help="Runs that are not over, by state.",
)
RUN_AT_WORK = Metric(
    name="render_farm_run_at_work",
    kind=MetricKind.GAUGE,
    unit="1",
    labels=(RUN,),
    help="1 until the run is over, then 0. Alerts name runs by it.",
)
JOBS_ENDED = Metric(
    name="render_farm_jobs_ended_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(STATE,),
    help="Jobs that reached their last state.",
)
QUEUE_WAIT = Metric(
    name="render_farm_queue_wait_seconds",
    kind=MetricKind.HISTOGRAM,
    unit="seconds",
    buckets=(1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0),
    help="From when a film was given to the farm to when a worker first began on it.",
)
PHASE_SECONDS = Metric(
    name="render_farm_phase_seconds",
    kind=MetricKind.HISTOGRAM,
    unit="seconds",
    labels=(PHASE,),
    buckets=_SECONDS,
    help="How long work took: denoise, decode, encode and checkpoint for each segment, upload for each film, text for "
    "each batch of prompts. Decoding and encoding run alongside the next segment's denoising.",
)
WORK_SECONDS = Metric(
    name="render_farm_work_seconds_total",
    kind=MetricKind.COUNTER,
    unit="seconds",
    labels=(PHASE,),
    help="The same added up; Ray makes a histogram's own sum from the middles of its buckets.",
)
STEPS = Metric(
    name="render_farm_denoising_steps_total", kind=MetricKind.COUNTER, unit="1", help="Denoising steps that were made."
)
VIDEO_SECONDS = Metric(
    name="render_farm_video_seconds_total",
    kind=MetricKind.COUNTER,
    unit="seconds",
    help="Playing time of the films that were published.",
)
WORKER_SECONDS = Metric(
    name="render_farm_worker_seconds_total",
    kind=MetricKind.COUNTER,
    unit="seconds",
    labels=(WORKER,),
    help="How long workers were up, each with its GPU. Video seconds per GPU-hour are "
    "3600 x render_farm_video_seconds_total / this.",
)
BUSY_SECONDS = Metric(
    name="render_farm_worker_busy_seconds_total",
    kind=MetricKind.COUNTER,
    unit="seconds",
    labels=(WORKER,),
    help="How long workers were denoising or decoding; both at once counts once. Its rate is the share of the time in "
    "which the GPU has work.",
)
WORKERS = Metric(
    name="render_farm_workers",
    kind=MetricKind.GAUGE,
    unit="1",
    labels=(ACTIVITY,),
    help="Workers that are up, by state.",
)
PREPARING = Metric(
    name="render_farm_preparing",
    kind=MetricKind.GAUGE,
    unit="1",
    labels=(PREPARED,),
    help="Preparation before the first step: models whose prompts are being encoded (`text`), and segments that "
    "were handed out and have made no step yet (`segment`), whose workers load weights, compile, or meet in a group.",
)
QUARANTINED_HOSTS = Metric(
    name="render_farm_quarantined_hosts", kind=MetricKind.GAUGE, unit="1", help="Hosts that get no work."
)
GROUP_SEGMENTS = Metric(
    name="render_farm_group_segments_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(GROUP_SIZE,),
    help="Segments that were handed out, by the number of workers that render them together.",
)
ATTEMPTS = Metric(
    name="render_farm_attempts_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(WORK,),
    help="Work that was handed to workers: segments, and films to finish. What is tried again counts again.",
)
FAILURES = Metric(
    name="render_farm_failures_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(ERROR_CLASS, FAULT),
    help="Work that failed, whether it is tried again or not.",
)
STORAGE_BYTES = Metric(
    name="render_farm_storage_bytes_total",
    kind=MetricKind.COUNTER,
    unit="bytes",
    labels=(DIRECTION,),
    help="Bytes from and to the output's storage.",
)
STORAGE_ERRORS = Metric(
    name="render_farm_storage_errors_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(OPERATION, OUTCOME),
    help="Requests to the output's storage that failed; an object that is not there is no failure.",
)
LEASE_CHANGES = Metric(
    name="render_farm_lease_changes_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(LEASE_CHANGE,),
    help="Runs' leases that changed hands; `taken_over` is from a holder that had fallen silent.",
)
KV_CACHE_BYTES = Metric(
    name="render_farm_kv_cache_bytes",
    kind=MetricKind.GAUGE,
    unit="bytes",
    labels=(WORKER,),
    help="Keys and values of finished blocks that the segment in work keeps.",
)
WORKER_MEMORY = Metric(
    name="render_farm_worker_memory_bytes",
    kind=MetricKind.GAUGE,
    unit="bytes",
    labels=(WORKER, MEMORY),
    help="What a worker's process holds: resident memory of the host, and what torch has reserved on the GPU.",
)
ETA = Metric(
    name="render_farm_run_eta_seconds",
    kind=MetricKind.GAUGE,
    unit="seconds",
    help="Until the runs that are not over will be, by their pace; the longest. NaN while nothing is known.",
)
DEADLINE_SLACK = Metric(
    name="render_farm_run_deadline_slack_seconds",
    kind=MetricKind.GAUGE,
    unit="seconds",
    help="From when a run will be over, by its pace, to the last deadline of its unfinished films; negative when it "
    "will be late. The least of all runs. NaN while nothing is known, and without deadlines.",
)
LATE_JOBS = Metric(
    name="render_farm_late_jobs", kind=MetricKind.GAUGE, unit="1", help="Films that wait or run past their deadline."
)
SEAM_SCORE = Metric(
    name="render_farm_seam_score",
    kind=MetricKind.HISTOGRAM,
    unit="1",
    buckets=(0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
    help="The most visible join of each published film: the frame difference there over the usual one. From 3 on a "
    "join is called visible.",
)

FINDINGS = Metric(
    name="render_farm_findings_total",
    kind=MetricKind.COUNTER,
    unit="1",
    labels=(FINDING,),
    help="What the checks found in the pictures of films, whether these were published or not.",
)

METRICS: tuple[Metric, ...] = (
    RUNS,
    RUN_AT_WORK,
    JOBS,
    JOBS_ENDED,
    SEGMENTS,
    QUEUE_WAIT,
    PHASE_SECONDS,
    WORK_SECONDS,
    STEPS,
    VIDEO_SECONDS,
    WORKERS,
    PREPARING,
    WORKER_SECONDS,
    BUSY_SECONDS,
    WORKER_MEMORY,
    KV_CACHE_BYTES,
    GROUP_SEGMENTS,
    ATTEMPTS,
    FAILURES,
    QUARANTINED_HOSTS,
    STORAGE_BYTES,
    STORAGE_ERRORS,
    LEASE_CHANGES,
    ETA,
    DEADLINE_SLACK,
    LATE_JOBS,
    SEAM_SCORE,
    FINDINGS,
)
