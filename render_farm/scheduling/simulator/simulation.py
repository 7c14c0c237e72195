"""The simulated world around the machine: workers that carry out actions in the time that these take, and trouble."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.affinity import Setting
from render_farm.scheduling.costs import CostModel
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.policy import UNKNOWN_SEGMENT_S, SchedulingPolicy
from render_farm.scheduling.retry import Failure, RetryPolicy
from render_farm.scheduling.simulator.farm import SimulatedFarm
from render_farm.scheduling.simulator.outcome import LowerBound, Outcome, Span
from render_farm.scheduling.states import State

_NODE_LOST = Failure(fault=Fault.CLUSTER, error_class="NodeLostError", message="its node died")
_PREEMPTED = Failure(fault=Fault.CLUSTER, error_class="PreemptedError", message="its node was preempted")
_NOTICE_S = 1.0
"""After which the others of a group notice that one is gone."""
_FAULT = Failure(fault=Fault.WORKER, error_class="DeviceError", message="simulated fault")


@dataclass(eq=False)
class _Gpu:
    """A GPU and the worker on it."""

    number: int
    node: int
    worker: str = ""
    generation: int = 0
    is_up: bool = False
    setting: Setting | None = None
    down_since_s: float = 0.0
    films: set[ev.JobKey] = field(default_factory=set)
    """What it finishes."""
    group: tuple[str, ...] = ()
    """The workers, itself included, with which it rendered its last segment."""


@dataclass(eq=False)
class _Work:
    """A segment that is being rendered."""

    action: ev.RenderSegment
    gpus: tuple[_Gpu, ...]
    begin_s: float
    seconds: float
    loading_s: float
    forming_s: float


class Simulation:
    """See the module. `run` may be called once."""

    def __init__(
        self,
        films: Sequence[ev.QueuedFilm],
        farm: SimulatedFarm,
        *,
        scheduling: SchedulingPolicy | None,
        retry: RetryPolicy | None,
        costs: CostModel | None,
        horizon_s: float,
        quotas: Mapping[str, int],
    ) -> None:
        self._farm = farm
        self._scheduling = scheduling or SchedulingPolicy()
        self._truth = CostModel.from_dict(costs.to_dict()) if costs is not None else CostModel()
        """Segment times here, without noise. The machine's own model keeps learning."""
        self.machine = FarmMachine(retry, scheduling=self._scheduling, costs=costs)
        self._films = {film.key: film for film in films}
        self._quotas = quotas
        self._horizon_s = horizon_s
        self._random = random.Random(farm.seed)
        self._now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._gpus = [_Gpu(number=i, node=i // farm.gpus_per_node) for i in range(farm.num_gpus)]
        self._num_nodes = -(-farm.num_gpus // farm.gpus_per_node)
        self._by_worker: dict[str, _Gpu] = {}
        self._work: dict[str, _Work] = {}
        """By leader."""
        self._spans: list[Span] = []
        self._down: list[tuple[int, float, float]] = []
        self._ends: dict[ev.JobKey, float] = {}
        self._states: dict[ev.JobKey, State] = {}
        self._runs = dict.fromkeys(film.run_id for film in films)
        self._open_runs = set(self._runs)
        self._open_of_share: dict[str, int] = {}
        for film in films:
            self._open_of_share[film.share] = self._open_of_share.get(film.share, 0) + 1
        self._used_s: dict[str, float] | None = None
        self._counters = dict.fromkeys(("failures", "preemptions", "faults", "loads", "decisions", "events"), 0)
        self._deciding_s = 0.0
        self._tail_s = 0.0
        self._makespan_s = 0.0

    def run(self) -> Outcome:
        """Simulate until every run is over."""
        for gpu in self._gpus:
            self._start(gpu)
        self._send(ev.FilmsAdded(films=tuple(self._films.values())))
        for run_id in self._runs:
            self._send(ev.RunSealed(run_id=run_id, max_workers=self._quotas.get(run_id)))
            for model in dict.fromkeys(film.model for film in self._films.values() if film.run_id == run_id):
                self._send(ev.TextReady(run_id=run_id, model=model))
        for node in range(self._num_nodes):
            self._plan_trouble(node)
        while self._open_runs and self._queue:
            at_s, _, happens = heapq.heappop(self._queue)
            if at_s > self._horizon_s:
                self._now = self._horizon_s
                break
            self._now = at_s
            happens()
        return self._outcome()

    # --- time ---

    def _later(self, seconds: float, happens: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self._now + seconds, self._serial, happens))

    def _send(self, event: ev.Event) -> None:
        started = time.process_time()
        actions = self.machine.apply(event, self._now)
        self._deciding_s += time.process_time() - started
        self._counters["events"] += 1
        if self.machine.num_workers_wanted >= len(self._by_worker):
            self._tail_s = self._now
        for action in actions:
            match action:
                case ev.RenderSegment():
                    self._render(action)
                case ev.FinishFilm():
                    self._finish(action)
                case ev.StopWork():
                    self._stop(action)
                case ev.ReplaceWorker():
                    self._replace(action.worker)
                case ev.FilmEnded():
                    self._film_ended(action)
                case ev.RunEnded():
                    self._open_runs.discard(action.run_id)
                    self._makespan_s = self._now
                case ev.WakeAt():
                    self._later(max(0.0, action.time_s - self._now), partial(self._send, ev.Tick()))

    # --- work ---

    def _render(self, action: ev.RenderSegment) -> None:
        self._counters["decisions"] += 1
        # Of a node that goes the scheduler is told worker by worker: it may still give work to one that is gone.
        gone = [worker for worker in (action.worker, *action.helpers) if worker not in self._by_worker]
        if gone:
            noticed = self._helpers_leave if action.worker in gone else partial(self._group_fails, blamed=gone[0])
            self._later(_NOTICE_S, partial(noticed, action))
            return
        film = self._films[action.film]
        gpus = tuple(self._by_worker[worker] for worker in (action.worker, *action.helpers))
        needed = Setting(model=film.model, adapters=film.adapters)
        loading_s = max(self._loading_s(gpu, needed) for gpu in gpus)
        group = tuple(gpu.worker for gpu in gpus)
        forming_s = 0.0 if all(gpu.group == group for gpu in gpus) or len(gpus) == 1 else self._farm.forming_s
        for gpu in gpus:
            gpu.setting, gpu.group = needed, group
        seconds = self._segment_s(film, action.segment, len(gpus))
        work = _Work(
            action=action, gpus=gpus, begin_s=self._now, seconds=seconds, loading_s=loading_s, forming_s=forming_s
        )
        is_fault = self._random.random() < self._farm.faults_per_segment
        taken_s = self._farm.hand_over_s + loading_s + forming_s + (seconds / 2 if is_fault else seconds)
        self._work[action.worker] = work
        self._later(taken_s, partial(self._fails if is_fault else self._succeeds, work))

    def _loading_s(self, gpu: _Gpu, needed: Setting) -> float:
        if gpu.setting == needed:
            return 0.0
        if gpu.setting is not None and gpu.setting.model == needed.model:
            return self._farm.adapters_s
        self._counters["loads"] += 1
        return self._farm.load_s

    def _segment_s(self, film: ev.QueuedFilm, segment: int, size: int) -> float:
        prior_s = film.segments_s[segment] if film.segments_s else UNKNOWN_SEGMENT_S
        speed = dict(film.groups)[size]
        expected_s = self._truth.seconds((*film.cost_class, str(size)), prior_s / speed)
        return expected_s * math.exp(self._random.gauss(0.0, self._farm.noise))

    def _succeeds(self, work: _Work) -> None:
        if not self._take(work):
            return
        self._note(work, is_lost=False)
        loading_s = work.loading_s if work.loading_s >= self._farm.load_s > 0 else None
        action = work.action
        self._send(
            ev.SegmentDone(
                worker=action.worker,
                film=action.film,
                segment=action.segment,
                seconds=work.seconds,
                loading_s=loading_s,
            )
        )

    def _take(self, work: _Work) -> bool:
        """Work is over. False if it was given up after its start."""
        if self._work.get(work.action.worker) is not work:
            return False
        del self._work[work.action.worker]
        return True

    def _note(self, work: _Work, *, is_lost: bool) -> None:
        self._spans.append(
            Span(
                film=work.action.film,
                segment=work.action.segment,
                workers=tuple(gpu.number for gpu in work.gpus),
                begin_s=work.begin_s,
                end_s=self._now,
                loading_s=min(work.loading_s + work.forming_s + self._farm.hand_over_s, self._now - work.begin_s),
                is_lost=is_lost,
            )
        )

    def _finish(self, action: ev.FinishFilm) -> None:
        self._counters["decisions"] += 1
        gpu = self._by_worker.get(action.worker)
        if gpu is None:  # gone, as above
            return
        gpu.films.add(action.film)
        self._later(self._farm.finish_s, partial(self._finished, gpu, gpu.generation, action.film))

    def _finished(self, gpu: _Gpu, generation: int, film: ev.JobKey) -> None:
        if gpu.generation == generation and film in gpu.films:
            gpu.films.discard(film)
            self._send(ev.FilmPublished(worker=gpu.worker, film=film))

    def _stop(self, action: ev.StopWork) -> None:
        work = self._work.get(action.worker)
        if work is not None and work.action.film == action.film:
            self._take(work)
            self._note(work, is_lost=True)
            failure = Failure(fault=Fault.USER, error_class="Cancelled", message="stopped")
            stopped = ev.WorkFailed(worker=action.worker, film=action.film, failure=failure)
            self._later(0.0, partial(self._send, stopped))

    def _film_ended(self, action: ev.FilmEnded) -> None:
        self._ends[action.film], self._states[action.film] = self._now, action.state
        share = self._films[action.film].share
        self._open_of_share[share] -= 1
        if not self._open_of_share[share] and self._used_s is None:
            self._used_s = self.machine.used_s

    # --- trouble ---

    def _fails(self, work: _Work) -> None:
        if not self._take(work):
            return
        self._counters["faults"] += 1
        for gpu in work.gpus:
            gpu.group = ()
        self._note(work, is_lost=True)
        self._send(ev.WorkFailed(worker=work.action.worker, film=work.action.film, failure=_FAULT))

    def _plan_trouble(self, node: int) -> None:
        self._after(self._farm.failures_per_hour, partial(self._fail_node, node))
        self._after(self._farm.preemptions_per_hour, partial(self._preempt_node, node))

    def _after(self, rate_per_hour: float, happens: Callable[[], None]) -> None:
        """The next of a random series of events."""
        if rate_per_hour > 0:
            self._later(self._random.expovariate(rate_per_hour / 3600.0), happens)

    def _fail_node(self, node: int) -> None:
        self._counters["failures"] += 1
        self._node_goes(node, _NODE_LOST)
        self._after(self._farm.failures_per_hour, partial(self._fail_node, node))

    def _preempt_node(self, node: int) -> None:
        self._counters["preemptions"] += 1
        self._node_goes(node, _PREEMPTED)
        self._after(self._farm.preemptions_per_hour, partial(self._preempt_node, node))

    def _node_goes(self, node: int, failure: Failure) -> None:
        lost = [gpu for gpu in self._gpus if gpu.node == node and gpu.is_up]
        for gpu in lost:
            self._end(gpu)
        for gpu in lost:
            self._send(ev.WorkerLost(worker=gpu.worker, failure=failure))
            self._later(self._farm.repair_s, partial(self._up, gpu, gpu.generation))

    def _replace(self, worker: str) -> None:
        gpu = self._by_worker.get(worker)
        if gpu is not None:
            self._end(gpu)
            self._later(self._farm.start_s, partial(self._up, gpu, gpu.generation))

    def _end(self, gpu: _Gpu) -> None:
        """A worker's process ends, with what it does."""
        for work in [work for work in self._work.values() if any(member is gpu for member in work.gpus)]:
            self._take(work)
            self._note(work, is_lost=True)
            if work.gpus[0] is gpu:
                self._later(_NOTICE_S, partial(self._helpers_leave, work.action))
            else:
                self._later(_NOTICE_S, partial(self._group_fails, work.action, gpu.worker))
        self._by_worker.pop(gpu.worker, None)
        gpu.is_up, gpu.setting, gpu.down_since_s = False, None, self._now
        gpu.films.clear()

    def _group_fails(self, action: ev.RenderSegment, blamed: str) -> None:
        if action.worker in self._by_worker:
            fault = Failure(fault=Fault.WORKER, error_class="GroupError", message="another of the group ended")
            self._send(ev.WorkFailed(worker=action.worker, film=action.film, failure=fault, blamed=blamed))

    def _helpers_leave(self, action: ev.RenderSegment) -> None:
        for helper in action.helpers:
            if helper in self._by_worker:
                self._send(ev.HelperLeft(worker=helper, leader=action.worker))

    def _up(self, gpu: _Gpu, generation: int) -> None:
        if not gpu.is_up and gpu.generation == generation:
            self._down.append((gpu.number, gpu.down_since_s, self._now))
            self._start(gpu)

    def _start(self, gpu: _Gpu) -> None:
        gpu.generation += 1
        gpu.worker = f"gpu-{gpu.number}.{gpu.generation}"
        gpu.is_up = True
        self._by_worker[gpu.worker] = gpu
        self._send(ev.WorkerUp(worker=gpu.worker, host=f"node-{gpu.node}"))

    # --- the end ---

    def _outcome(self) -> Outcome:
        end_s = self._makespan_s if not self._open_runs else self._now
        dated = [film for film in self._films.values() if film.deadline_s is not None]
        lateness = [
            self._ends.get(film.key, end_s) - (film.deadline_s or 0.0)
            if self._states.get(film.key) is State.DONE
            else float("inf")
            for film in dated
        ]
        down = [*self._down, *((gpu.number, gpu.down_since_s, end_s) for gpu in self._gpus if not gpu.is_up)]
        counts: dict[str, int] = {}
        for key in self._films:
            state = self._states.get(key, self.machine.state_of(key))
            counts[str(state)] = counts.get(str(state), 0) + 1
        return Outcome(
            num_gpus=self._farm.num_gpus,
            makespan_s=end_s,
            bound=self._bound(),
            tail_s=self._tail_s,
            counts=counts,
            spans=self._spans,
            down_s=down,
            num_missed=sum(late > 0 for late in lateness),
            num_dated=len(dated),
            worst_lateness_s=max((late for late in lateness if late > 0), default=0.0),
            used_s=self._used_s if self._used_s is not None else self.machine.used_s,
            weights=self._scheduling.shares,
            num_failures=self._counters["failures"],
            num_preemptions=self._counters["preemptions"],
            num_faults=self._counters["faults"],
            num_loads=self._counters["loads"],
            num_decisions=self._counters["decisions"],
            num_events=self._counters["events"],
            deciding_s=self._deciding_s,
        )

    def _bound(self) -> LowerBound:
        work = chain = 0.0
        for film in self._films.values():
            options = film.groups if self._scheduling.elastic else film.groups[:1]
            size, speed = options[0]
            fastest = max(fast for _, fast in options)
            segments = film.segments_s or (UNKNOWN_SEGMENT_S,) * film.num_segments
            ratio = self._truth.ratio((*film.cost_class, str(size)))
            seconds = sum(segments[film.segments_done :]) * ratio
            work += seconds * size / speed
            chain = max(chain, seconds / fastest + self._farm.finish_s)
        return LowerBound(work_s=work / self._farm.num_gpus, chain_s=chain)
