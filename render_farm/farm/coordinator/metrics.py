"""The coordinator's metrics: events are counted as they happen, and the farm's state is reported every few seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import nan

from render_farm.check_mode import kinds_of
from render_farm.farm.run.film_task import FilmReport, SegmentReport
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.farm.worker.metrics import report_traffic
from render_farm.farm.worker.text_worker import TextReport
from render_farm.observability.metrics import (
    ATTEMPTS,
    DEADLINE_SLACK,
    ETA,
    FAILURES,
    FINDINGS,
    GROUP_SEGMENTS,
    JOBS,
    JOBS_ENDED,
    LATE_JOBS,
    LEASE_CHANGES,
    MOST_RUNS_NAMED,
    PHASE_SECONDS,
    PREPARING,
    QUARANTINED_HOSTS,
    QUEUE_WAIT,
    RUN_AT_WORK,
    RUNS,
    SEAM_SCORE,
    SEGMENTS,
    STEPS,
    VIDEO_SECONDS,
    WORK_SECONDS,
    WORKERS,
)
from render_farm.observability.sink import MetricSink
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State
from render_farm.storage.layout import RunKeys

_SAMPLE_EVERY_S = 5.0
_CANCELLED = "Cancelled"


class FarmMetrics:
    """See the module. Times are seconds of the coordinator's monotonic clock, except where Unix time is named."""

    def __init__(self, sink: MetricSink) -> None:
        self._sink = sink
        self._given_s: dict[ev.JobKey, float] = {}
        """When the films were added that no worker has started yet."""
        self._steps: dict[str, int] = {}
        """Steps that are counted already, by run."""
        self._named: set[str] = set()
        """Addresses of the runs that were reported by name."""
        self._sampled_s = -_SAMPLE_EVERY_S

    # --- what happens ---

    def applied(self, event: ev.Event, actions: Iterable[ev.Action], now: float) -> None:
        """The machine took an event in."""
        match event:
            case ev.FilmsAdded():
                self._given_s.update((film.key, now) for film in event.films)
            case ev.WorkFailed() | ev.TextFailed():
                self.failed(event.failure)
        for action in actions:
            match action:
                case ev.RenderSegment():
                    self._handed_out(action.film, now, "segment")
                    self._sink.add(GROUP_SEGMENTS, size=str(1 + len(action.helpers)))
                case ev.FinishFilm():
                    self._handed_out(action.film, now, "finish")
                case ev.FilmEnded():
                    self._given_s.pop(action.film, None)
                    self._sink.add(JOBS_ENDED, state=str(action.state))

    def failed(self, failure: Failure) -> None:
        """Work failed, or a worker ended."""
        if failure.error_class != _CANCELLED:
            self._sink.add(FAILURES, error_class=failure.error_class, fault=str(failure.fault))

    def _handed_out(self, film: ev.JobKey, now: float, work: str) -> None:
        self._sink.add(ATTEMPTS, work=work)
        given_s = self._given_s.pop(film, None)
        if given_s is not None:
            self._sink.observe(QUEUE_WAIT, now - given_s)

    def encoded(self, report: TextReport) -> None:
        """Prompts were encoded."""
        self._took((("text", report.seconds),))
        report_traffic(self._sink, report.traffic)

    def rendered(self, report: SegmentReport) -> None:
        """A segment is stored."""
        self._took(report.phases)

    def published(self, report: FilmReport, *, fps: float) -> None:
        """A film is published."""
        self._took(report.phases)
        self._sink.add(VIDEO_SECONDS, report.num_frames / fps)
        if report.seam_score is not None:
            self._sink.observe(SEAM_SCORE, report.seam_score)
        self.found(report.findings)

    def found(self, findings: Iterable[str]) -> None:
        """The checks found something in a film."""
        for kind in sorted(kinds_of(findings)):
            self._sink.add(FINDINGS, kind=kind)

    def _took(self, phases: Sequence[tuple[str, float]]) -> None:
        for phase, seconds in phases:
            self._sink.observe(PHASE_SECONDS, seconds, phase=phase)
            self._sink.add(WORK_SECONDS, seconds, phase=phase)

    def lease(self, change: str) -> None:
        """A run's lease was `taken`, `taken_over`, `given_back` or `lost`."""
        self._sink.add(LEASE_CHANGES, change=change)

    # --- how things stand ---

    def sample(
        self,
        runs: Mapping[str, OwnedRun],
        machine: FarmMachine,
        *,
        now: float,
        now_unix_s: float,
        num_preparing: int = 0,
    ) -> None:
        """Report the state of the farm, when it is time to. `num_preparing` segments were handed out and have made no
        step yet."""
        if now - self._sampled_s < _SAMPLE_EVERY_S:
            return
        self._sampled_s = now
        going_on = [run for run in runs.values() if not run.is_over]
        shown = going_on or list(runs.values())[-1:]
        self._name_runs(going_on)
        self._report_runs(going_on, [run.progress.snapshot(now_s=now_unix_s) for run in shown])
        num_idle = len(machine.idle_workers)
        self._sink.set(WORKERS, num_idle, state="idle")
        self._sink.set(WORKERS, len(machine.workers) - num_idle, state="busy")
        self._sink.set(PREPARING, sum(len(run.encoding) for run in going_on), work="text")
        self._sink.set(PREPARING, num_preparing, work="segment")
        self._sink.set(QUARANTINED_HOSTS, len(machine.hosts.quarantined))
        for run_id, run in runs.items():
            self._sink.add(STEPS, run.progress.pace.steps_made - self._steps.get(run_id, 0))
            self._steps[run_id] = run.progress.pace.steps_made
            report_traffic(self._sink, run.progress.store.meter.take())
        self._steps = {run_id: steps for run_id, steps in self._steps.items() if run_id in runs}

    def _name_runs(self, going_on: Sequence[OwnedRun]) -> None:
        at_work = {f"{run.progress.spec.output}/{RunKeys(run_id=run.progress.spec.run_id).folder}" for run in going_on}
        unnamed = sorted(at_work - self._named)
        self._named.update(unnamed[: MOST_RUNS_NAMED - len(self._named)])
        for run in self._named:  # each time, because Ray may lose what was set before its exporter was there
            self._sink.set(RUN_AT_WORK, int(run in at_work), run=run)

    def _report_runs(self, going_on: Sequence[OwnedRun], snapshots: Sequence[RunSnapshot]) -> None:
        states = Counter("paused" if run.control.paused else str(run.progress.state) for run in going_on)
        for state in ("waiting", "running", "paused"):
            self._sink.set(RUNS, states[state], state=state)
        for job_state in State:
            self._sink.set(JOBS, sum(snapshot.jobs.get(job_state, 0) for snapshot in snapshots), state=str(job_state))
        self._sink.set(SEGMENTS, sum(snapshot.segments_waiting for snapshot in snapshots), state="waiting")
        self._sink.set(SEGMENTS, sum(snapshot.segments_running for snapshot in snapshots), state="running")
        self._sink.set(SEGMENTS, sum(snapshot.segments_done for snapshot in snapshots), state="done")
        self._sink.set(LATE_JOBS, sum(snapshot.num_late for snapshot in snapshots))
        etas = [snapshot.eta_s for snapshot in snapshots if snapshot.eta_s is not None]
        self._sink.set(ETA, max(etas, default=nan) if going_on else 0.0)
        slacks = [snapshot.slack_s for snapshot in snapshots if snapshot.slack_s is not None]
        self._sink.set(DEADLINE_SLACK, min(slacks, default=nan))
