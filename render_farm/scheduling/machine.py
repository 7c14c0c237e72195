"""`FarmMachine`: the farm's state and its one transition function, `apply(event, now) -> actions`.

A film's segments are rendered in order, by one worker at a time, or by one and its helpers (a render group, formed anew
for every segment from idle workers of one host). A film stays on its worker from segment to segment unless
a film of higher priority waits, and its last worker also finishes it (decode, MP4, publish) beside its next work.
No event costs more than O(log films), but for the end or cancellation of a run, which touches its own films once.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.events import Action, Event, Film, FilmKey
from render_farm.scheduling.hosts import HostBook
from render_farm.scheduling.queue import Place, ReadyQueue, Setting
from render_farm.scheduling.retry import Failure, RetryPolicy, Then, judge, rule_for
from render_farm.scheduling.states import MOVES, JobState, run_state

MOST_FINISHING = 2
"""Films that one worker decodes and publishes at a time; one that has as many is given nothing new."""


@dataclass
class _Film:
    spec: Film
    place: Place
    segments_done: int
    state: JobState = JobState.WAITING
    worker: str | None = None
    """Who renders or finishes it now."""
    finishing: bool = False
    attempts: int = 0
    """How often work on it was handed out and did not succeed, plus one for the work that did."""
    counted: int = 0
    """Failures of its present work by workers' fault."""
    waits: int = 0
    waiting_since_s: float = 0.0
    avoid: set[str] = field(default_factory=set)
    """Workers that failed it once: none of them gets it again."""
    memory_step: int = 0


@dataclass
class _Worker:
    rendering: FilmKey | None = None
    helpers: tuple[str, ...] = ()
    """Who renders that film's segment with it."""
    leader: str = ""
    """Whom it helps with a segment."""
    finishing: set[FilmKey] = field(default_factory=set)
    setting: Setting | None = None
    """What it has loaded."""
    host: str = ""

    @property
    def is_at_work(self) -> bool:
        return bool(self.rendering or self.leader or self.finishing)


@dataclass
class _Run:
    films: list[FilmKey] = field(default_factory=list)
    counts: Counter[JobState] = field(default_factory=Counter)
    ready_models: set[str] = field(default_factory=set)
    sealed: bool = False
    ended: bool = False
    max_failed: int | None = None
    failed_before: int = 0
    """Jobs that failed before the run began (bad rows)."""
    stopping: str = ""
    paused: bool = False
    held: dict[FilmKey, None] = field(default_factory=dict)
    """Films that would be ready, were the run not paused."""


def _setting(film: Film) -> Setting:
    return Setting(model=film.model, adapters=film.adapters)


class FarmMachine:
    """See the module's text. Deterministic: the same events at the same times give the same actions."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self._policy = policy or RetryPolicy()
        self.hosts = HostBook(self._policy)
        self._films: dict[FilmKey, _Film] = {}
        self._workers: dict[str, _Worker] = {}
        self._runs: dict[str, _Run] = {}
        self._ready = ReadyQueue()
        self._idle: dict[str, None] = {}
        self._on_host: dict[str, dict[str, None]] = {}
        """Workers by host."""
        self._delayed: list[tuple[float, int, FilmKey]] = []
        self._unread_text: dict[tuple[str, str], list[FilmKey]] = {}
        self._number = 0

    # --- questions ---

    def counts(self, run_id: str) -> dict[str, int]:
        """Jobs of a run by state."""
        return {state.value: number for state, number in self._runs[run_id].counts.items() if number}

    def has_run(self, run_id: str) -> bool:
        return run_id in self._runs

    def state_of(self, film: FilmKey) -> JobState:
        return self._films[film].state

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._workers)

    @property
    def idle_workers(self) -> tuple[str, ...]:
        """Workers without any work, finishing included."""
        return tuple(worker for worker in self._idle if not self._workers[worker].finishing)

    def why_waiting(self, key: FilmKey, now: float) -> str:
        """Why a film that waits is not being rendered, in a sentence for people."""
        film, run = self._films[key], self._runs[key[0]]
        assert film.state is JobState.WAITING
        if key in run.held:
            return "its run is paused"
        delayed = [time_s for time_s, _, delayed_key in self._delayed if delayed_key == key]
        if delayed and delayed[0] > now:
            return f"its last try failed; it is tried again in {delayed[0] - now:.0f} s"
        if key not in self._ready:
            return "its prompts are not encoded yet"
        if not self._workers:
            return "no worker is up yet"
        if all(self.hosts.is_quarantined(worker.host) for worker in self._workers.values()):
            return "every host with workers is quarantined"
        able = [worker for worker in self._workers if self._may(worker, key)]
        if not able:
            return "every worker that is up has failed it once; it waits for a fresh one"
        if not any(self._has_enough(self._workers[worker].host, key) for worker in able):
            return f"it needs {film.spec.group_size} workers on one host, and no host has as many"
        if self._num_helpers(key):
            host = self._gathers_at(key, set())
            num_idle = sum(worker in self._idle for worker in self._on_host[host]) if host is not None else 0
            if num_idle:
                return f"it needs {film.spec.group_size} idle workers on one host; {host} has {num_idle}"
        ahead = self._ready.num_before(key)
        busy = f"all {len(self._workers)} workers are at work"
        return f"{busy}; {ahead} films are before it (by priority, deadline, then order)" if ahead else busy

    # --- the transition function ---

    def apply(self, event: Event, now: float) -> list[Action]:
        """Take one event in and return what to do, in order."""
        actions: list[Action] = []
        match event:
            case ev.FilmsAdded():
                self._add_films(event.films)
            case ev.RunSealed():
                run = self._run(event.run_id)
                run.sealed, run.max_failed, run.failed_before = True, event.max_failed, event.failed_before
                self._check_failures(event.run_id, actions)
                self._end_run_if_over(event.run_id, actions)
            case ev.TextReady():
                self._run(event.run_id).ready_models.add(event.model)
                for key in self._unread_text.pop((event.run_id, event.model), ()):
                    self._enqueue(key)
            case ev.TextMissing():
                self._run(event.run_id).ready_models.discard(event.model)
            case ev.TextFailed():
                for key in self._unread_text.pop((event.run_id, event.model), ()):
                    if not self._films[key].state.ended:
                        self._end_film(key, JobState.FAILED, actions, event.failure)
            case ev.WorkerUp():
                self._workers[event.worker] = _Worker(host=event.host)
                self._on_host.setdefault(event.host, {})[event.worker] = None
                self._idle[event.worker] = None
                self.hosts.up(event.worker, event.host)
                if self.hosts.is_quarantined(event.host):
                    self._end_quarantined((event.worker,), actions)
            case ev.WorkerLost():
                if event.worker in self._workers:
                    if self._workers[event.worker].is_at_work:
                        self._count_against_host(event.worker, event.failure, now, actions)
                    self._lose_worker(event, now, actions)
            case ev.SegmentDone():
                self._segment_done(event, actions)
            case ev.HelperLeft():
                self._helper_left(event.worker, event.leader)
            case ev.FilmPublished():
                self._published(event, actions)
            case ev.WorkFailed():
                self._work_failed(event, now, actions)
            case ev.CancelRun():
                self._cancel(event, actions)
            case ev.PauseRun():
                self._pause(event.run_id)
            case ev.ResumeRun():
                self._resume(event.run_id)
            case ev.RetryFilms():
                self._retry(event)
            case ev.SetPriority():
                self._set_priority(event)
            case ev.QuarantineHost():
                self._end_quarantined(self.hosts.quarantine(event.host, event.reason), actions)
            case ev.ReleaseHost():
                self.hosts.release(event.host)
            case ev.Tick():
                pass
        self._release_delayed(now)
        self._dispatch(actions)
        if self._delayed:
            actions.append(ev.WakeAt(time_s=self._delayed[0][0]))
        return actions

    # --- films and runs ---

    def _run(self, run_id: str) -> _Run:
        return self._runs.setdefault(run_id, _Run())

    def _add_films(self, films: tuple[Film, ...]) -> None:
        for spec in films:
            assert spec.key not in self._films, f"{spec.key} was added before"
            self._number += 1
            place = Place(priority=spec.priority, deadline_s=spec.deadline_s, number=self._number)
            self._films[spec.key] = _Film(spec=spec, place=place, segments_done=spec.segments_done)
            run = self._run(spec.run_id)
            run.films.append(spec.key)
            run.counts[JobState.WAITING] += 1
            self._enqueue(spec.key)

    def _enqueue(self, key: FilmKey) -> None:
        film = self._films[key]
        if film.state.ended or film.worker is not None or key in self._ready:
            return
        # A film that only has to be finished needs no text.
        needs_text = film.segments_done < film.spec.num_segments
        if needs_text and film.spec.model not in self._run(film.spec.run_id).ready_models:
            self._unread_text.setdefault((film.spec.run_id, film.spec.model), []).append(key)
            return
        if needs_text and self._run(film.spec.run_id).paused:
            self._run(film.spec.run_id).held[key] = None
            return
        self._ready.push(key, _setting(film.spec), film.place)

    def _move(self, key: FilmKey, state: JobState) -> None:
        film = self._films[key]
        if film.state is state:
            return
        assert state in MOVES[film.state], f"{key}: {film.state} -> {state}"
        counts = self._runs[film.spec.run_id].counts
        counts[film.state] -= 1
        counts[state] += 1
        film.state = state

    def _end_film(self, key: FilmKey, state: JobState, actions: list[Action], failure: Failure | None = None) -> None:
        film = self._films[key]
        self._ready.discard(key)
        self._runs[film.spec.run_id].held.pop(key, None)
        self._move(key, state)
        actions.append(
            ev.FilmEnded(
                film=key,
                state=state,
                error_class=failure.error_class if failure else "",
                message=failure.message if failure else "",
                attempts=film.attempts,
            )
        )
        self._check_failures(film.spec.run_id, actions)
        self._end_run_if_over(film.spec.run_id, actions)

    def _check_failures(self, run_id: str, actions: list[Action]) -> None:
        run = self._runs[run_id]
        failed = run.counts[JobState.FAILED] + run.failed_before
        if run.max_failed is not None and failed > run.max_failed and not run.stopping:
            reason = f"the run stopped: {failed} jobs failed, more than the {run.max_failed} that --max-failed allows"
            self._cancel(ev.CancelRun(run_id=run_id, reason=reason), actions)

    def _end_run_if_over(self, run_id: str, actions: list[Action]) -> None:
        run = self._runs[run_id]
        if run.ended or not run.sealed or run.counts[JobState.WAITING] or run.counts[JobState.RUNNING]:
            return
        run.ended = True
        actions.append(ev.RunEnded(run_id=run_id, state=run_state(self.counts(run_id))))

    def forget_run(self, run_id: str) -> None:
        """Drop a run that ended, so that a long-lived farm does not grow."""
        run = self._runs[run_id]
        assert run.ended
        for key in run.films:
            del self._films[key]
        del self._runs[run_id]

    # --- work ---

    def _dispatch(self, actions: list[Action]) -> None:
        while self._idle and len(self._ready):
            free = [worker for worker in self._idle if self._has_room(self._workers[worker])]
            gathering: dict[FilmKey, str | None] = {}
            for worker in sorted(free, key=lambda worker: len(self._workers[worker].finishing)):
                key = self._ready.best(
                    loaded=self._workers[worker].setting, eligible=partial(self._can_lead, worker, gathering)
                )
                # The best film may need more workers than are idle here: then this one waits with it.
                helpers = None if key is None else self._helpers(worker, key)
                if key is not None and helpers is not None:
                    self._ready.take(key)
                    self._hand_out(worker, key, actions, helpers)
                    break
            else:
                self._replace_avoided(actions)
                return

    def _has_room(self, worker: _Worker) -> bool:
        return len(worker.finishing) < MOST_FINISHING and not self.hosts.is_quarantined(worker.host)

    def _may(self, worker: str, key: FilmKey) -> bool:
        return worker not in self._films[key].avoid

    # --- groups ---

    def _can_lead(self, worker: str, gathering: dict[FilmKey, str | None], key: FilmKey) -> bool:
        """A film of a group is led where its group gathers, so that it keeps the workers of one host waiting at most.
        `gathering` is where the films that were asked for before gather."""
        if not self._may(worker, key):
            return False
        if not self._num_helpers(key):
            return True
        if key not in gathering:
            gathering[key] = self._gathers_at(key, {host for host in gathering.values() if host is not None})
        return gathering[key] == self._workers[worker].host

    def _gathers_at(self, key: FilmKey, taken: set[str]) -> str | None:
        """The host with the most idle workers for a film's group; one of `taken` only if there is no other."""
        fit = [host for host in self._on_host if self._has_enough(host, key) and not self.hosts.is_quarantined(host)]
        return max(
            fit,
            key=lambda host: (host not in taken, sum(worker in self._idle for worker in self._on_host[host])),
            default=None,
        )

    def _num_helpers(self, key: FilmKey) -> int:
        film = self._films[key]
        return film.spec.group_size - 1 if film.segments_done < film.spec.num_segments else 0

    def _has_enough(self, host: str, key: FilmKey) -> bool:
        """Whether the film's group can form there, once those who are at work are done."""
        needed = 1 + self._num_helpers(key)
        return needed == 1 or sum(self._may(worker, key) for worker in self._on_host.get(host, ())) >= needed

    def _helpers(self, worker: str, key: FilmKey) -> tuple[str, ...] | None:
        """Idle workers for the group beside `worker`, those that have loaded what it needs first; None: too few."""
        needed, spec = self._num_helpers(key), self._films[key].spec
        most = max((size - 1 for size in spec.joined_sizes if size <= self._share(worker, key)), default=needed)
        if not most:
            return ()
        setting = _setting(spec)
        beside = self._on_host[self._workers[worker].host]
        idle = [other for other in beside if other != worker and other in self._idle and self._may(other, key)]
        idle.sort(key=lambda other: (self._workers[other].setting != setting, other))
        sizes = [needed, *(size - 1 for size in spec.joined_sizes if needed < size <= 1 + min(most, len(idle)))]
        return tuple(idle[: max(sizes)]) if len(idle) >= needed else None

    def _share(self, worker: str, key: FilmKey) -> int:
        """Workers that a film may have for its next segment when all are shared out over the films that are left, on
        the worker's host and altogether; 1 while films are left for all."""
        if self._films[key].segments_done >= self._films[key].spec.num_segments or len(self._ready) >= len(self._idle):
            return 1
        here = self._on_host[self._workers[worker].host]
        films_here = {key, *(found for other in here if (found := self._workers[other].rendering))}
        films = {key, *(holder.rendering for holder in self._workers.values() if holder.rendering)}
        waiting = len(self._ready) - (key in self._ready)
        return max(1, min(len(here) // len(films_here), len(self._workers) // (len(films) + waiting)))

    def _free_helpers(self, leader: str, staying: tuple[str, ...] = ()) -> None:
        """The segment that a worker led is over; those of `staying` are free when they have left the group."""
        holder = self._workers[leader]
        helpers, holder.helpers = holder.helpers, ()
        for helper in helpers:
            if helper not in staying:
                self._helper_left(helper, leader)

    def _helper_left(self, helper: str, leader: str) -> None:
        holder = self._workers.get(helper)
        if holder is not None and holder.leader == leader:
            holder.leader = ""
            self._idle[helper] = None

    def _replace_avoided(self, actions: list[Action]) -> None:
        """Only films that every worker has failed are left, or whose groups lack one that has not: a fresh process
        counts as another worker."""
        if any(worker.is_at_work for worker in self._workers.values()):
            return
        for worker, holder in self._workers.items():
            beside = self._on_host[holder.host]
            if self._ready.best(
                loaded=None,
                eligible=lambda key, worker=worker, beside=beside: (  # type: ignore[misc]
                    not self._may(worker, key) and len(beside) > self._num_helpers(key)
                ),
            ):
                self._replace(worker, "it failed the films that are left", actions)
                return

    def _hand_out(self, worker: str, key: FilmKey, actions: list[Action], helpers: tuple[str, ...] = ()) -> None:
        film, holder = self._films[key], self._workers[worker]
        film.worker = worker
        film.attempts += 1
        self._move(key, JobState.RUNNING)
        if film.segments_done < film.spec.num_segments:
            self._idle.pop(worker, None)
            holder.rendering, holder.setting = key, _setting(film.spec)
            holder.helpers = helpers
            for helper in helpers:
                self._idle.pop(helper)
                self._workers[helper].leader, self._workers[helper].setting = worker, _setting(film.spec)
            actions.append(
                ev.RenderSegment(
                    worker=worker,
                    film=key,
                    segment=film.segments_done,
                    attempt=film.attempts,
                    memory_step=film.memory_step,
                    helpers=helpers,
                )
            )
        else:
            film.finishing = True
            holder.finishing.add(key)
            actions.append(ev.FinishFilm(worker=worker, film=key, attempt=film.attempts, memory_step=film.memory_step))

    def _segment_done(self, event: ev.SegmentDone, actions: list[Action]) -> None:
        film = self._films.get(event.film)
        worker = self._workers.get(event.worker)
        if worker is None or worker.rendering != event.film:
            return
        worker.rendering = None
        self._idle[event.worker] = None
        self._free_helpers(event.worker, event.staying)
        if film is None or film.worker != event.worker:
            return
        assert film.segments_done == event.segment
        film.segments_done += 1
        film.counted = film.waits = 0
        film.attempts -= 1
        helpers = self._helpers(event.worker, event.film)
        if helpers is None or (film.segments_done < film.spec.num_segments and self._gives_way(film, worker)):
            film.worker = None
            self._move(event.film, JobState.WAITING)
            self._enqueue(event.film)
            return
        self._hand_out(event.worker, event.film, actions, helpers)

    def _gives_way(self, film: _Film, worker: _Worker) -> bool:
        """Whether a film's next segment is not its worker's next work."""
        if self._runs[film.spec.run_id].paused or self.hosts.is_quarantined(worker.host):
            return True
        best = self._ready.best(loaded=worker.setting, eligible=lambda key: True)
        return best is not None and self._films[best].place.priority > film.place.priority

    def _published(self, event: ev.FilmPublished, actions: list[Action]) -> None:
        worker, film = self._workers.get(event.worker), self._films.get(event.film)
        if worker is not None:
            worker.finishing.discard(event.film)
        if film is None or film.worker != event.worker or film.state.ended:
            return
        film.worker, film.finishing = None, False
        self._end_film(event.film, JobState.DONE, actions)

    def _let_go(self, worker_id: str, key: FilmKey, staying: tuple[str, ...]) -> None:
        """The worker does nothing for this film any more, nor do its helpers, but for `staying`."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        worker.finishing.discard(key)
        if worker.rendering == key:
            worker.rendering = None
            self._idle[worker_id] = None
            self._free_helpers(worker_id, staying)

    def _work_failed(self, event: ev.WorkFailed, now: float, actions: list[Action]) -> None:
        holder = self._workers.get(event.worker)
        in_group = holder is not None and holder.rendering == event.film and bool(holder.helpers)
        blamed = event.blamed or event.worker
        self._let_go(event.worker, event.film, event.staying)
        film = self._films.get(event.film)
        if film is not None and film.worker == event.worker and not film.state.ended:
            if event.segments_done is not None:
                film.segments_done = min(film.segments_done, event.segments_done)
            self._failed_once(event.film, blamed, event.failure, now, actions)
        rule = rule_for(event.failure)
        # A group must not lack for ever the one that failed it.
        ends_process = event.failure.poisons_process or rule.ends_process or (in_group and rule.then is Then.ELSEWHERE)
        if blamed in self._workers:
            self._count_against_host(blamed, event.failure, now, actions)
        for worker in dict.fromkeys([*([blamed] if ends_process else []), *event.ending]):
            if worker in self._workers:
                self._lose_worker(ev.WorkerLost(worker=worker, failure=event.failure), now, actions)
                actions.append(ev.ReplaceWorker(worker=worker, reason=event.failure.message))

    def _failed_once(self, key: FilmKey, worker: str, failure: Failure, now: float, actions: list[Action]) -> None:
        film = self._films[key]
        film.worker, film.finishing = None, False
        if film.waits == 0:
            film.waiting_since_s = now
        verdict = judge(
            failure,
            counted_before=film.counted,
            waits_before=film.waits,
            waiting_for_s=now - film.waiting_since_s,
            policy=self._policy,
            memory_modes_left=film.spec.num_memory_modes - 1 - film.memory_step,
            seed="/".join(key),
        )
        film.counted += verdict.counted
        film.waits += failure.fault is Fault.CLUSTER
        film.memory_step += verdict.step_down
        if verdict.avoid_worker:
            film.avoid.add(worker)
        if not verdict.retry:
            self._end_film(key, JobState.FAILED, actions, failure)
            return
        self._move(key, JobState.WAITING)
        self._number += 1
        heapq.heappush(self._delayed, (now + verdict.delay_s, self._number, key))
        actions.append(ev.FilmDelayed(film=key, message=failure.message, delay_s=verdict.delay_s))

    def _lose_worker(self, event: ev.WorkerLost, now: float, actions: list[Action]) -> None:
        worker = self._workers.pop(event.worker, None)
        self._idle.pop(event.worker, None)
        if worker is None:
            return
        self._left_host(event.worker, worker.host)
        held = [*([worker.rendering] if worker.rendering else []), *sorted(worker.finishing)]
        for key in held:
            film = self._films.get(key)
            if film is not None and film.worker == event.worker and not film.state.ended:
                self._failed_once(key, event.worker, event.failure, now, actions)

    # --- hosts ---

    def _count_against_host(self, worker: str, failure: Failure, now: float, actions: list[Action]) -> None:
        host = self._workers[worker].host
        if not rule_for(failure).counted:
            return
        reason = self.hosts.fault(host, failure.error_class, now)
        if reason:
            actions.append(ev.HostQuarantined(host=host, reason=reason))
            self._end_quarantined(self.hosts.quarantine(host, reason), actions)

    def _end_quarantined(self, workers: tuple[str, ...], actions: list[Action]) -> None:
        """Replace those that do nothing; the others when they have done what they do."""
        for worker in workers:
            holder = self._workers.get(worker)
            if holder is not None and not holder.is_at_work:
                self._replace(worker, "its host is quarantined", actions)

    def _left_host(self, worker: str, host: str) -> None:
        self.hosts.lost(worker, host)
        self._on_host[host].pop(worker)
        if not self._on_host[host]:
            del self._on_host[host]

    def _replace(self, worker: str, reason: str, actions: list[Action]) -> None:
        """End a worker without work and start a fresh one."""
        host = self._workers.pop(worker).host
        self._idle.pop(worker, None)
        self._left_host(worker, host)
        actions.append(ev.ReplaceWorker(worker=worker, reason=reason))

    # --- what people ask for ---

    def _pause(self, run_id: str) -> None:
        run = self._run(run_id)
        run.paused = True
        for key in run.films:
            film = self._films[key]
            if key in self._ready and film.segments_done < film.spec.num_segments:
                self._ready.discard(key)
                run.held[key] = None

    def _resume(self, run_id: str) -> None:
        run = self._run(run_id)
        run.paused = False
        held, run.held = run.held, {}
        for key in held:
            self._enqueue(key)

    def _retry(self, event: ev.RetryFilms) -> None:
        run = self._runs[event.run_id]
        for job_id in event.job_ids:
            key = (event.run_id, job_id)
            film = self._films.get(key)
            if film is None or film.state not in (JobState.FAILED, JobState.CANCELLED) or run.ended or run.stopping:
                continue
            film.counted = film.waits = film.attempts = film.memory_step = 0
            film.avoid.clear()
            self._move(key, JobState.WAITING)
            self._enqueue(key)

    def _set_priority(self, event: ev.SetPriority) -> None:
        for job_id in event.job_ids:
            key = (event.run_id, job_id)
            film = self._films.get(key)
            if film is None or film.state.ended:
                continue
            film.place = replace(film.place, priority=event.priority)
            if key in self._ready:
                self._ready.discard(key)
                self._ready.push(key, _setting(film.spec), film.place)

    def _release_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            key = heapq.heappop(self._delayed)[2]
            if key in self._films:
                self._enqueue(key)

    def _cancel(self, event: ev.CancelRun, actions: list[Action]) -> None:
        run = self._runs.get(event.run_id)
        if run is None:
            return
        if event.job_ids is None:
            run.stopping = event.reason
            keys = list(run.films)
        else:
            keys = [(event.run_id, job_id) for job_id in event.job_ids if (event.run_id, job_id) in self._films]
        reason = Failure(fault=Fault.USER, error_class="Cancelled", message=event.reason)
        for key in keys:
            film = self._films[key]
            if film.state.ended:
                continue
            if film.worker is not None:
                actions.append(ev.StopWork(worker=film.worker, film=key))
            film.worker, film.finishing = None, False
            self._end_film(key, JobState.CANCELLED, actions, reason)
