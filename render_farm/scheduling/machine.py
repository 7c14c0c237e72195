"""`FarmMachine`: the farm's state and its one transition function, `apply(event, now) -> actions`.

A film's segments are rendered in order, by one worker at a time, or by one and its helpers (a render group, formed anew
for every segment from idle workers of one host). A film stays on its worker from segment to segment unless the rules of
`dispatch.py` have it give way, and its last worker also finishes it (decode, MP4, publish) beside its next work.
No event costs more than O(log films), but for the end or cancellation of a run, which touches its own films once.
"""

from __future__ import annotations

import heapq
from collections import Counter

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.aging import level_of
from render_farm.scheduling.costs import CostModel
from render_farm.scheduling.dispatch import Dispatcher
from render_farm.scheduling.elastic import speed_of
from render_farm.scheduling.events import Action, Event, JobKey, QueuedFilm
from render_farm.scheduling.farm_state import NO_WORKERS, FarmState, FilmState, RunEntry, WorkerRecord, WorkInHand
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.reasons import why_waiting
from render_farm.scheduling.retry import Failure, RetryPolicy, Then, judge, rule_for
from render_farm.scheduling.states import State, run_state
from render_farm.scheduling.worker_index import WorkerIndex


class FarmMachine:
    """See the module's text. Deterministic: the same events at the same times give the same actions."""

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        scheduling: SchedulingPolicy | None = None,
        costs: CostModel | None = None,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._scheduling = scheduling or SchedulingPolicy()
        self.costs = costs or CostModel()
        self._state = FarmState(self.costs)
        self._films = self._state.films
        self._workers = self._state.workers
        self._runs = self._state.runs
        self._dispatcher = Dispatcher(self._state, self._scheduling)
        self._ready = self._dispatcher.queue
        self._idle_workers = self._dispatcher.idle_workers
        self._worker_index = WorkerIndex(self._state, self._idle_workers, self._policy)
        self.hosts = self._worker_index.hosts
        self._delayed: list[tuple[float, int, JobKey]] = []
        self._unread_text: dict[tuple[str, str], list[JobKey]] = {}
        self._number = 0

    # --- questions ---

    def counts(self, run_id: str) -> dict[str, int]:
        """Jobs of a run by state."""
        return {state.value: number for state, number in self._runs[run_id].counts.items() if number}

    def unfinished(self, run_id: str, *, begun_only: bool = False) -> dict[tuple[int, int], int]:
        """Films of a run that have not ended by (workers of the smallest group that they may have, of the largest);
        with `begun_only` those that are at work."""
        found: Counter[tuple[int, int]] = Counter()
        for (state, smallest, largest), number in self._runs[run_id].sizes.items():
            if number and (state is State.RUNNING or (state is State.WAITING and not begun_only)):
                found[smallest, largest] += number
        return found

    def has_run(self, run_id: str) -> bool:
        return run_id in self._runs

    def is_ending(self, run_id: str) -> bool:
        """Whether a run has ended or is being stopped: what failed in it is not tried again."""
        run = self._runs[run_id]
        return run.ended or bool(run.stopping)

    def state_of(self, film: JobKey) -> State:
        return self._films[film].state

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._workers)

    @property
    def idle_workers(self) -> tuple[str, ...]:
        """Workers without any work, finishing included."""
        return self._worker_index.idle

    @property
    def num_workers_wanted(self) -> int:
        """Workers that could render now if there were as many, in the smallest groups that the films may have."""
        return self._dispatcher.num_wanted

    @property
    def used_s(self) -> dict[str, float]:
        """Worker-seconds of each share so far."""
        return dict(self._dispatcher.shares.used_s)

    def left_s(self, film: JobKey) -> float:
        """What is left of a film, in the smallest group it may have."""
        return self._state.left_s(self._films[film])

    def why_waiting(self, key: JobKey, now: float) -> str:
        """Why a film that waits is not being rendered, in a sentence for people."""
        film = self._films[key]
        assert film.state is State.WAITING
        if key in self._runs[film.spec.run_id].held:
            return "its run is paused"
        delayed = [time_s for time_s, _, delayed_key in self._delayed if delayed_key == key]
        if delayed and delayed[0] > now:
            return f"its last try failed; it is tried again in {delayed[0] - now:.0f} s"
        if key not in self._ready:
            return "its prompts are not encoded yet"
        return why_waiting(key, now, state=self._state, dispatcher=self._dispatcher, hosts=self.hosts)

    # --- the transition function ---

    def apply(self, event: Event, now: float) -> list[Action]:
        """Take one event in and return what to do, in order."""
        actions: list[Action] = []
        match event:
            case ev.SegmentDone():
                self._segment_done(event, now, actions)
            case ev.FilmPublished():
                self._published(event, actions)
            case ev.FilmsAdded():
                self._add_films(event.films, now)
            case ev.RunSealed():
                self._seal(event, actions)
            case ev.TextReady():
                self._state.run(event.run_id).ready_models.add(event.model)
                for key in self._unread_text.pop((event.run_id, event.model), ()):
                    self._enqueue(key)
            case ev.TextMissing():
                self._state.run(event.run_id).ready_models.discard(event.model)
            case ev.TextFailed():
                for key in self._unread_text.pop((event.run_id, event.model), ()):
                    if not self._films[key].state.ended:
                        self._end_film(key, State.FAILED, actions, event.failure)
            case ev.WorkerUp():
                self._worker_index.up(event, actions)
            case ev.WorkerLost():
                if event.worker in self._workers:
                    if self._workers[event.worker].is_at_work:
                        self._worker_index.count_against_host(event.worker, event.failure, now, actions)
                    self._lose_worker(event, now, actions)
            case ev.HelperLeft():
                self._helper_left(event.worker, event.leader)
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
                self._worker_index.set_aside(event.host, event.reason, actions)
            case ev.ReleaseHost():
                self._worker_index.release_host(event.host)
            case ev.Tick():
                pass
        self._release_delayed(now)
        self._dispatch(now, actions)
        wake_s = min(self._dispatcher.wake_s, self._delayed[0][0] if self._delayed else float("inf"))
        if wake_s != float("inf"):
            actions.append(ev.WakeAt(time_s=wake_s))
        return actions

    # --- films and runs ---

    def _add_films(self, films: tuple[QueuedFilm, ...], now: float) -> None:
        for spec in films:
            key = spec.key
            assert key not in self._films, f"{key} was added before"
            self._number += 1
            film = FilmState(
                spec=spec,
                setting=self._state.setting_of(spec),
                number=self._number,
                added_s=now,
                priority=spec.priority,
                level=level_of(spec.priority, now, self._scheduling.aging_s),
                segments_done=spec.segments_done,
                prior_left_s=0.0,
            )
            self._state.add(key, film)
            self._dispatcher.shares.arrived(spec.share)
            self._enqueue(key)

    def _seal(self, event: ev.RunSealed, actions: list[Action]) -> None:
        run = self._state.run(event.run_id)
        run.sealed, run.max_failed, run.failed_before = True, event.max_failed, event.failed_before
        self._dispatcher.quotas.limit_run(event.run_id, event.max_workers)
        self._check_failures(event.run_id, actions)
        self._end_run_if_over(event.run_id, actions)

    def _enqueue(self, key: JobKey) -> None:
        film = self._films[key]
        if film.state.ended or film.worker is not None or key in self._ready:
            return
        run = self._runs[film.spec.run_id]
        # A film that only has to be finished needs no text.
        if not film.is_rendered:
            if film.spec.model not in run.ready_models:
                self._unread_text.setdefault((film.spec.run_id, film.spec.model), []).append(key)
                return
            if run.paused:
                run.held[key] = None
                return
        self._ready.push(key, self._dispatcher.entry(key))

    def _end_film(self, key: JobKey, state: State, actions: list[Action], failure: Failure | None = None) -> None:
        film = self._films[key]
        self._ready.discard(key)
        self._runs[film.spec.run_id].held.pop(key, None)
        self._state.move(key, state)
        self._dispatcher.shares.left(film.spec.share)
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
        failed = run.counts[State.FAILED] + run.failed_before
        if run.max_failed is not None and failed > run.max_failed and not run.stopping:
            reason = f"the run stopped: {failed} jobs failed, more than the {run.max_failed} that --max-failed allows"
            self._cancel(ev.CancelRun(run_id=run_id, reason=reason), actions)

    def _end_run_if_over(self, run_id: str, actions: list[Action]) -> None:
        run = self._runs[run_id]
        if run.ended or not run.sealed or run.counts[State.WAITING] or run.counts[State.RUNNING]:
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
        self._dispatcher.quotas.limit_run(run_id, None)

    # --- work ---

    def _dispatch(self, now: float, actions: list[Action]) -> None:
        while (choice := self._dispatcher.next_choice(now)) is not None:
            self._ready.take(choice.film)
            self._hand_out(choice.workers, choice.film, now, actions)
        if len(self._ready) and len(self._idle_workers):
            self._replace_avoided(actions)

    def _replace_avoided(self, actions: list[Action]) -> None:
        """Only films that every worker has failed are left, or whose groups lack one that has not: a fresh process
        counts as another worker."""
        if not self._worker_index.is_idle:
            return
        for level in self._ready.levels():
            for queue_key in self._ready.keys(level):
                first = self._ready.first(level, queue_key)
                for worker in self._films[first].avoid if first is not None else ():
                    if worker in self._idle_workers and self._idle_workers.has_enough(
                        self._workers[worker].host, queue_key.size, ()
                    ):
                        self._worker_index.replace(worker, "it failed the films that are left", actions)
                        return

    def _hand_out(self, workers: tuple[str, ...], key: JobKey, now: float, actions: list[Action]) -> None:
        film, worker = self._films[key], workers[0]
        film.worker = worker
        film.attempts += 1
        self._state.move(key, State.RUNNING)
        if film.is_rendered:
            film.finishing = True
            self._workers[worker].finishing.add(key)
            self._worker_index.refresh(worker)
            actions.append(
                ev.FinishFilm(worker=worker, film=key, attempt=film.attempts, fallback_level=film.fallback_level)
            )
            return
        self._begin(workers, key, now)
        actions.append(
            ev.RenderSegment(
                worker=worker,
                film=key,
                segment=film.segments_done,
                attempt=film.attempts,
                helpers=workers[1:],
                fallback_level=film.fallback_level,
            )
        )

    def _begin(self, workers: tuple[str, ...], key: JobKey, now: float) -> None:
        """Enter what a film's next segment takes of the farm."""
        film, leader = self._films[key], workers[0]
        spec, size = film.spec, len(workers)
        segment_s = self._prior_s(film, film.segments_done, size) * self._state.ratio(film, size)
        work = WorkInHand(
            film=key,
            spec=spec,
            helpers=workers[1:],
            begun_s=now,
            ends_s=now + segment_s,
            charged_s=segment_s * size,
        )
        self._dispatcher.shares.charge(spec.share, work.charged_s)
        self._dispatcher.quotas.took(spec.run_id, spec.share, size)
        self._state.num_wanted += spec.group_size
        self._state.num_rendering += 1
        for worker in workers:
            record = self._workers[worker]
            record.setting = film.setting
            if worker == leader:
                record.work = work
            else:
                record.leader = leader
            self._worker_index.refresh(worker)
        if self.costs.load_s(spec.model) is not None:
            self._dispatcher.ends.began(spec.model, leader, key, now + self._state.left_s(film))
        self._dispatcher.picked(key)

    @staticmethod
    def _prior_s(film: FilmState, segment: int, size: int) -> float:
        """What a segment should take in a group of `size`, by arithmetic."""
        return film.prior_of(segment) / speed_of(film.spec.groups, size)

    def _over(self, record: WorkerRecord, now: float) -> WorkInHand | None:
        """A worker's segment is over, however it went: its share pays what it used."""
        work, record.work = record.work, None
        if work is not None:
            spec = work.spec
            self._dispatcher.shares.charge(spec.share, (now - work.begun_s) * work.size - work.charged_s)
            self._dispatcher.quotas.took(spec.run_id, spec.share, -work.size)
            self._state.num_wanted -= spec.group_size
            self._state.num_rendering -= 1
        return work

    def _free(self, worker: str, now: float, staying: tuple[str, ...] = ()) -> None:
        """A worker's segment is over, and its helpers are free; those of `staying` when they have left the group."""
        work = self._over(self._workers[worker], now)
        self._worker_index.refresh(worker)
        for helper in work.helpers if work is not None else ():
            if helper not in staying:
                self._helper_left(helper, worker)

    def _helper_left(self, helper: str, leader: str) -> None:
        record = self._workers.get(helper)
        if record is not None and record.leader == leader:
            record.leader = ""
            self._worker_index.refresh(helper)

    def _segment_done(self, event: ev.SegmentDone, now: float, actions: list[Action]) -> None:
        film, worker = self._films.get(event.film), self._workers.get(event.worker)
        if worker is None or worker.work is None or worker.work.film != event.film:
            return
        size = worker.work.size
        self._free(event.worker, now, event.staying)
        if event.loading_s is not None and worker.setting is not None:
            self.costs.observe_load(worker.setting.model, event.loading_s)
        if film is None or film.worker != event.worker:
            return
        assert film.segments_done == event.segment
        if event.seconds is not None:
            prior_s = self._prior_s(film, event.segment, size)
            self._state.observe(film, size, prior_s, event.seconds)
        self._state.stored(event.film, film.segments_done + 1)
        film.counted = film.waits = 0
        film.attempts -= 1
        if film.is_rendered:
            self._hand_out((event.worker,), event.film, now, actions)
            return
        may_go_on = not self._runs[film.spec.run_id].paused and not self.hosts.is_quarantined(worker.host)
        workers = self._dispatcher.goes_on(event.film, event.worker, now) if may_go_on else None
        if workers is None:
            film.worker = None
            self._state.move(event.film, State.WAITING)
            self._enqueue(event.film)
            return
        self._hand_out(workers, event.film, now, actions)

    def _published(self, event: ev.FilmPublished, actions: list[Action]) -> None:
        worker, film = self._workers.get(event.worker), self._films.get(event.film)
        if worker is not None:
            worker.finishing.discard(event.film)
            self._worker_index.refresh(event.worker)
        if film is None or film.worker != event.worker or film.state.ended:
            return
        film.worker, film.finishing = None, False
        self._end_film(event.film, State.DONE, actions)

    # --- failures ---

    def _work_failed(self, event: ev.WorkFailed, now: float, actions: list[Action]) -> None:
        record = self._workers.get(event.worker)
        in_group = False
        if record is not None:
            record.finishing.discard(event.film)
            if record.work is not None and record.work.film == event.film:
                in_group = record.work.size > 1
                self._free(event.worker, now, event.staying)
            self._worker_index.refresh(event.worker)
        blamed = event.blamed or event.worker
        film = self._films.get(event.film)
        if film is not None and film.worker == event.worker and not film.state.ended:
            if event.segments_done is not None and event.segments_done < film.segments_done:
                self._state.stored(event.film, event.segments_done)
            self._failed_once(event.film, blamed, event.failure, now, actions)
        rule = rule_for(event.failure)
        # A group must not lack for ever the one that failed it.
        ends_process = event.failure.poisons_process or rule.ends_process or (in_group and rule.then is Then.ELSEWHERE)
        if blamed in self._workers:
            self._worker_index.count_against_host(blamed, event.failure, now, actions)
        for worker in dict.fromkeys([*([blamed] if ends_process else []), *event.ending]):
            if worker in self._workers:
                self._lose_worker(ev.WorkerLost(worker=worker, failure=event.failure), now, actions)
                actions.append(ev.ReplaceWorker(worker=worker, reason=event.failure.message))

    def _failed_once(self, key: JobKey, worker: str, failure: Failure, now: float, actions: list[Action]) -> None:
        film = self._films[key]
        film.worker, film.finishing = None, False
        self._state.dated_changes += film.spec.deadline_s is not None
        waits = rule_for(failure).then is Then.ANYWHERE  # a lost machine is not waited for, and begins no waiting
        if waits and film.waits == 0:
            film.waiting_since_s = now
        verdict = judge(
            failure,
            counted_before=film.counted,
            waits_before=film.waits,
            waiting_for_s=now - film.waiting_since_s,
            policy=self._policy,
            memory_modes_left=film.spec.num_memory_modes - 1 - film.fallback_level,
            seed="/".join(key),
        )
        film.counted += verdict.counted
        film.waits += waits
        film.fallback_level += verdict.step_down
        if verdict.avoid_worker:
            film.avoid |= {worker}
        if not verdict.retry:
            self._end_film(key, State.FAILED, actions, failure)
            return
        film.attempts -= not verdict.counted
        self._state.move(key, State.WAITING)
        self._number += 1
        heapq.heappush(self._delayed, (now + verdict.delay_s, self._number, key))
        actions.append(ev.FilmDelayed(film=key, message=failure.message, delay_s=verdict.delay_s))

    def _lose_worker(self, event: ev.WorkerLost, now: float, actions: list[Action]) -> None:
        """Its helpers are free when `HelperLeft` says so."""
        record = self._worker_index.forget(event.worker)
        if record is None:
            return
        work = self._over(record, now)
        for key in [*([work.film] if work is not None else []), *sorted(record.finishing)]:
            film = self._films.get(key)
            if film is not None and film.worker == event.worker and not film.state.ended:
                self._failed_once(key, event.worker, event.failure, now, actions)

    # --- what people ask for ---

    def _pause(self, run_id: str) -> None:
        run = self._state.run(run_id)
        run.paused = True
        for key in run.films:
            if key in self._ready and not self._films[key].is_rendered:
                self._ready.discard(key)
                run.held[key] = None

    def _resume(self, run_id: str) -> None:
        run = self._state.run(run_id)
        run.paused = False
        held, run.held = run.held, {}
        for key in held:
            self._enqueue(key)

    def _retry(self, event: ev.RetryFilms) -> None:
        run = self._runs[event.run_id]
        for job_id in event.job_ids:
            key = JobKey(event.run_id, job_id)
            film = self._films.get(key)
            if film is None or film.state not in (State.FAILED, State.CANCELLED) or run.ended or run.stopping:
                continue
            film.counted = film.waits = film.attempts = film.fallback_level = 0
            film.avoid = NO_WORKERS
            self._state.move(key, State.WAITING)
            self._dispatcher.shares.arrived(film.spec.share)
            self._enqueue(key)

    def _set_priority(self, event: ev.SetPriority) -> None:
        for job_id in event.job_ids:
            key = JobKey(event.run_id, job_id)
            film = self._films.get(key)
            if film is None or film.state.ended:
                continue
            waits = key in self._ready
            self._ready.discard(key)
            film.priority = event.priority
            self._state.relevel(key, level_of(event.priority, film.added_s, self._scheduling.aging_s))
            if waits:
                self._ready.push(key, self._dispatcher.entry(key))

    def _release_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            key = heapq.heappop(self._delayed)[2]
            if key in self._films:
                self._enqueue(key)

    def _cancel(self, event: ev.CancelRun, actions: list[Action]) -> None:
        run: RunEntry | None = self._runs.get(event.run_id)
        if run is None:
            return
        if event.job_ids is None:
            run.stopping = event.reason
            keys = list(run.films)
        else:
            keys = [key for job_id in event.job_ids if (key := JobKey(event.run_id, job_id)) in self._films]
        reason = Failure(fault=Fault.USER, error_class="Cancelled", message=event.reason)
        for key in keys:
            film = self._films[key]
            if film.state.ended:
                continue
            if film.worker is not None:
                actions.append(ev.StopWork(worker=film.worker, film=key))
            film.worker, film.finishing = None, False
            self._end_film(key, State.CANCELLED, actions, reason)
