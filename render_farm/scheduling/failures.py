"""Failed work: carries out what `retry.judge` decides, and keeps the films that are tried again later."""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import count

from render_farm.scheduling import events as ev
from render_farm.scheduling.events import Action, JobKey
from render_farm.scheduling.farm_state import FarmState, WorkerRecord
from render_farm.scheduling.film_lifecycle import FilmLifecycle
from render_farm.scheduling.rendering import Rendering
from render_farm.scheduling.retry import Failure, RetryPolicy, Then, beside, judge, rule_for
from render_farm.scheduling.states import State
from render_farm.scheduling.worker_index import WorkerIndex


class Failures:
    """See the module."""

    def __init__(
        self,
        state: FarmState,
        films: FilmLifecycle,
        rendering: Rendering,
        worker_index: WorkerIndex,
        policy: RetryPolicy,
    ) -> None:
        self._state = state
        self._films = films
        self._rendering = rendering
        self._worker_index = worker_index
        self._policy = policy
        self._delayed: list[tuple[float, int, JobKey]] = []
        """Heap of (time of the next try, serial number, film)."""
        self._serials = count()

    @property
    def next_try_s(self) -> float:
        """When the next film is tried again; infinite when none waits for that."""
        return self._delayed[0][0] if self._delayed else float("inf")

    def try_of(self, key: JobKey) -> float | None:
        """When a film is tried again; None when it does not wait for that. Looks at all that do."""
        return next((time_s for time_s, _, delayed in self._delayed if delayed == key), None)

    def enqueue_due(self, now: float) -> None:
        """Films whose delay is over enter the queue again."""
        while self.next_try_s <= now:
            key = heapq.heappop(self._delayed)[2]
            if key in self._state.films:
                self._films.enqueue(key)

    def work_failed(self, event: ev.WorkFailed, now: float, actions: list[Action]) -> None:
        """A film's work failed on a worker that is still up."""
        workers, failure = self._state.workers, event.failure
        work = workers[event.worker].work if event.worker in workers else None
        in_group = False
        if work is not None and work.film == event.film:
            in_group = work.size > 1
            self._rendering.end(event.worker, now, event.staying)
        self._worker_index.remove_finishing(event.worker, event.film)
        blamed = event.blamed or event.worker
        film = self._state.films.get(event.film)
        if film is not None and film.worker == event.worker and not film.state.ended:
            if event.segments_done is not None and event.segments_done < film.segments_done:
                self._state.stored(event.film, event.segments_done)
            if event.is_rejected:
                film.spec = replace(film.spec, segment_keys=())
            self._failed_once(event.film, blamed, failure, now, actions)
        rule = rule_for(failure)
        # A member that failed its group must come back as a fresh process, or the group could never form again.
        ends_process = failure.poisons_process or rule.ends_process or (in_group and rule.then is Then.ELSEWHERE)
        if blamed in workers:
            self._worker_index.count_against_host(workers[blamed].host, failure, now, actions, event.film)
        for worker in dict.fromkeys([*([blamed] if ends_process else []), *event.ending]):
            if worker in workers:
                self._worker_gone(worker, beside(worker, failure, blamed=blamed), now, actions)
                actions.append(ev.ReplaceWorker(worker=worker, reason=failure.message))

    def worker_lost(self, event: ev.WorkerLost, now: float, actions: list[Action]) -> None:
        """A worker's process ended by itself."""
        record = self._state.workers.get(event.worker)
        if record is None:
            return
        if record.is_at_work and not self._is_of_a_lost_group(event.worker):
            film = self._film_of(record)
            self._worker_index.count_against_host(record.host, event.failure, now, actions, film)
        self._worker_gone(event.worker, event.failure, now, actions)

    def _is_of_a_lost_group(self, worker: str) -> bool:
        """Whether a worker is in a group that has failed or lost another one: the host was blamed for that already."""
        record = self._state.workers[worker]
        leader = self._state.workers.get(record.leader) if record.leader else record
        if leader is None or leader.work is None or worker not in leader.work.workers:
            return bool(record.leader)
        return not all(name in self._state.workers for name in leader.work.workers)

    def _film_of(self, record: WorkerRecord) -> JobKey | None:
        """What a worker worked at, as far as one film can be named."""
        leader = self._state.workers.get(record.leader) if record.leader else record
        if leader is not None and leader.work is not None:
            return leader.work.film
        return next(iter(record.finishing)) if len(record.finishing) == 1 else None

    def _worker_gone(self, worker: str, failure: Failure, now: float, actions: list[Action]) -> None:
        record = self._worker_index.forget(worker)
        keys = sorted(record.finishing)
        if record.work is not None:
            self._rendering.settle(record.work, now)
            keys.insert(0, record.work.film)
        for key in keys:
            film = self._state.films.get(key)
            if film is not None and film.worker == worker and not film.state.ended:
                self._failed_once(key, worker, failure, now, actions)

    def _failed_once(self, key: JobKey, worker: str, failure: Failure, now: float, actions: list[Action]) -> None:
        if self._films.stopped(key, actions):
            return
        film = self._state.films[key]
        film.worker, film.finishing = None, False
        self._state.dated_changes += film.spec.deadline_s is not None
        waits = rule_for(failure).then is Then.ANYWHERE  # a lost machine starts no waiting: another one takes over
        if waits and film.waits == 0:
            film.waiting_since_s = now
        verdict = judge(
            failure,
            faults_before=film.faults,
            waits_before=film.waits,
            waiting_for_s=now - film.waiting_since_s,
            policy=self._policy,
            memory_modes_left=film.spec.num_memory_modes - 1 - film.fallback_level,
            seed="/".join(key),
        )
        film.faults += (failure.error_class,) * verdict.counted
        film.waits += waits
        film.fallback_level += verdict.step_down
        if verdict.avoid_worker and worker not in film.avoid:
            film.avoid = (*film.avoid, worker)
        if not verdict.retry:
            self._films.end(key, State.FAILED, actions, failure)
            return
        film.attempts -= not verdict.counted
        self._state.move(key, State.WAITING)
        heapq.heappush(self._delayed, (now + verdict.delay_s, next(self._serials), key))
        actions.append(ev.FilmDelayed(film=key, message=failure.message, delay_s=verdict.delay_s))
