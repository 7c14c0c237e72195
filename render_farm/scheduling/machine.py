"""`FarmMachine`: the farm's state and its one transition function, `apply(event, now) -> actions`.

A film's segments are rendered in order, by one worker or by one and its helpers: a render group, formed again for every
segment from idle workers of one host. A film stays on its worker from segment to segment unless the rules of
`dispatch.py` make it give way. Its last worker also finishes it (decode, MP4, publish) alongside its next work.
No event costs more than O(log films), except the end or cancellation of a run, which touches each of its films once.

The machine hands out work. `FilmLifecycle` brings films to their last state, `Failures` decides about failed work,
`Requests` carries out what people ask, `WorkerIndex` keeps the workers, and `Rendering` the segments at work.
"""

from __future__ import annotations

from collections import Counter

from render_farm.scheduling import events as ev
from render_farm.scheduling.costs import CostModel
from render_farm.scheduling.dispatch import Dispatcher
from render_farm.scheduling.events import Action, Event, JobKey
from render_farm.scheduling.failures import Failures
from render_farm.scheduling.farm_state import FarmState
from render_farm.scheduling.film_lifecycle import FilmLifecycle
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.reasons import why_waiting
from render_farm.scheduling.rendering import Rendering
from render_farm.scheduling.requests import Requests
from render_farm.scheduling.retry import RetryPolicy
from render_farm.scheduling.shared_segments import SharedSegments
from render_farm.scheduling.states import State
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
        policy, scheduling = policy or RetryPolicy(), scheduling or SchedulingPolicy()
        self.costs = costs or CostModel()
        self._state = FarmState(self.costs)
        self._dispatcher = Dispatcher(self._state, scheduling)
        self._queue, self._idle_workers = self._dispatcher.queue, self._dispatcher.idle_workers
        self._worker_index = WorkerIndex(self._state, self._idle_workers, policy)
        self.hosts = self._worker_index.hosts
        suspect_after = max(1, min(2, policy.attempts - 1))
        self._lifecycle = FilmLifecycle(self._state, self._dispatcher, scheduling.aging_s, suspect_after)
        self._requests = Requests(self._state, self._dispatcher, self._lifecycle, scheduling.aging_s)
        self._shared = SharedSegments(self._state)
        self._rendering = Rendering(self._state, self._dispatcher, self._worker_index, self._shared, self._lifecycle)
        self._failures = Failures(self._state, self._lifecycle, self._rendering, self._worker_index, policy)

    # --- questions ---

    def counts(self, run_id: str) -> dict[str, int]:
        """Jobs of a run by state."""
        return self._state.runs[run_id].counts_by_name

    def unfinished(self, run_id: str, *, begun_only: bool = False) -> dict[tuple[int, int], int]:
        """Films of a run that have not ended by (workers of the smallest group that they may have, of the largest);
        with `begun_only` those that are at work."""
        found: Counter[tuple[int, int]] = Counter()
        for (state, smallest, largest), number in self._state.runs[run_id].sizes.items():
            if number and (state is State.RUNNING or (state is State.WAITING and not begun_only)):
                found[smallest, largest] += number
        return found

    def has_run(self, run_id: str) -> bool:
        return run_id in self._state.runs

    def is_ending(self, run_id: str) -> bool:
        """Whether a run has ended or is being stopped: what failed in it is not tried again."""
        run = self._state.run(run_id)
        return run.ended or bool(run.stopping)

    def is_text_ready(self, run_id: str, model: str) -> bool:
        """Whether the prompts of a run's films of one model are encoded."""
        return model in self._state.run(run_id).ready_models

    def state_of(self, key: JobKey) -> State:
        """CANCELLED also while its worker has yet to stop finishing it."""
        film = self._state.films[key]
        return State.CANCELLED if film.cancelled_for else film.state

    def host_of(self, worker: str) -> str:
        """Empty for a worker that is gone."""
        return self._state.workers[worker].host if worker in self._state.workers else ""

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self._state.workers)

    @property
    def idle_workers(self) -> tuple[str, ...]:
        """Workers without any work, finishing included."""
        return self._worker_index.idle

    @property
    def num_rendering(self) -> int:
        """Segments at work, those of films that were cancelled included until they have stopped."""
        return self._state.num_rendering

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
        return self._state.left_s(self._state.films[film])

    def why_waiting(self, key: JobKey, now: float) -> str:
        """Why a film that waits is not being rendered, in a sentence for people."""
        film = self._state.films[key]
        assert film.state is State.WAITING
        run = self._state.runs[film.spec.run_id]
        if key in run.held:
            return "its run is paused" if run.paused else "the films that are rendered first (--canary) have not ended"
        try_s = self._failures.try_of(key)
        if try_s is not None and try_s > now:
            return f"its last try failed; it is tried again in {try_s - now:.0f} s"
        renderer = self._state.films.get(self._shared.renderer_of(key) or key, film)
        if renderer is not film:
            of_run = f" of run {renderer.spec.run_id}" if renderer.spec.run_id != film.spec.run_id else ""
            return (
                f"its segment {film.segments_done + 1} is also segment {renderer.segments_done + 1} of "
                f"{renderer.spec.job_id}{of_run}, which is being rendered; it continues from there"
            )
        if key not in self._queue:
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
                self._published(event, now, actions)
            case ev.FilmsAdded():
                for film in event.films:
                    self._lifecycle.add(film, now, actions)
            case ev.RunSealed():
                self._lifecycle.seal(event, actions)
            case ev.TextReady():
                self._lifecycle.text_ready(event.run_id, event.model)
            case ev.TextMissing():
                self._state.run(event.run_id).ready_models.discard(event.model)
            case ev.TextFailed():
                self._lifecycle.text_failed(event, actions)
            case ev.WorkerUp():
                self._worker_index.up(event, actions)
            case ev.StartFailed():
                self._worker_index.count_against_host(event.host, event.failure, now, actions)
            case ev.WorkerLost():
                self._failures.worker_lost(event, now, actions)
            case ev.HelperLeft():
                self._worker_index.leave_group(event.worker, event.leader)
            case ev.WorkFailed():
                self._failures.work_failed(event, now, actions)
            case ev.CancelRun():
                self._lifecycle.cancel(event, actions)
            case ev.PauseRun():
                self._requests.pause(event.run_id)
            case ev.ResumeRun():
                self._requests.resume(event.run_id)
            case ev.RetryFilms():
                self._requests.retry(event)
            case ev.SetPriority():
                self._requests.set_priority(event)
            case ev.QuarantineHost():
                self._worker_index.set_aside(event.host, event.reason, actions, cause=event.cause)
            case ev.ReleaseHost():
                self._worker_index.release_host(event.host)
            case ev.Tick():
                pass
        self._failures.enqueue_due(now)
        self._dispatch(now, actions)
        wake_s = min(self._dispatcher.wake_s, self._failures.next_try_s)
        if wake_s != float("inf"):
            actions.append(ev.WakeAt(time_s=wake_s))
        return actions

    def forget_run(self, run_id: str) -> None:
        """Drop a run that ended, so that a long-lived farm does not grow."""
        self.hosts.forget_films(self._lifecycle.forget_run(run_id))

    # --- work ---

    def _dispatch(self, now: float, actions: list[Action]) -> None:
        while (choice := self._dispatcher.next_choice(now)) is not None:
            if self._shared.renderer_of(choice.film) is not None:
                self._queue.discard(choice.film)
                self._shared.wait(choice.film)
                continue
            self._queue.take(choice.film)
            self._hand_out(choice.workers, choice.film, now, actions)
        if len(self._queue) and len(self._idle_workers) and self._worker_index.is_idle:
            self._replace_avoided(actions)

    def _replace_avoided(self, actions: list[Action]) -> None:
        """Replace a worker when every worker has failed the films that are left, or their groups lack one that has not:
        a fresh process counts as another worker."""
        for level in self._queue.levels():
            for queue_key in self._queue.keys(level):
                first = self._queue.first(level, queue_key)
                for worker in self._state.films[first].avoid if first is not None else ():
                    if worker in self._idle_workers:
                        host = self._state.workers[worker].host
                        if self._idle_workers.has_enough(host, queue_key.size, ()):
                            self._worker_index.replace(worker, "it failed the films that are left", actions)
                            return

    def _hand_out(self, workers: tuple[str, ...], key: JobKey, now: float, actions: list[Action]) -> None:
        film, worker = self._state.films[key], workers[0]
        film.worker = worker
        film.attempts += 1
        self._state.move(key, State.RUNNING)
        if film.is_rendered:
            film.finishing = True
            self._worker_index.add_finishing(worker, key)
            actions.append(
                ev.FinishFilm(worker=worker, film=key, attempt=film.attempts, fallback_level=film.fallback_level)
            )
            return
        self._rendering.begin(key, workers, now)
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

    def _segment_done(self, event: ev.SegmentDone, now: float, actions: list[Action]) -> None:
        film, worker = self._state.films.get(event.film), self._state.workers.get(event.worker)
        if worker is None or worker.work is None or worker.work.film != event.film:
            return
        size = worker.work.size
        self.hosts.worked(worker.host, now)
        self._rendering.end(event.worker, now, event.staying)
        if event.loading_s is not None and worker.setting is not None:
            self.costs.observe_load(worker.setting.model, event.loading_s)
        if film is None or film.worker != event.worker:
            return
        assert film.segments_done == event.segment
        if event.seconds is not None:
            self._state.observe(film, event.segment, size, event.seconds)
        self._state.stored(event.film, film.segments_done + 1)
        film.faults, film.waits = (), 0
        film.attempts -= 1
        if film.is_rendered:
            self._hand_out((event.worker,), event.film, now, actions)
            return
        is_free = self._shared.renderer_of(event.film) is None
        may_continue = (
            is_free
            and not self._state.runs[film.spec.run_id].holds(event.film)
            and not self.hosts.is_quarantined(worker.host)
        )
        workers = self._dispatcher.next_workers(event.film, event.worker, now) if may_continue else None
        if workers is None:
            film.worker = None
            self._state.move(event.film, State.WAITING)
            self._lifecycle.enqueue(event.film)  # `_dispatch` sees whether another film renders its next segment
            return
        self._hand_out(workers, event.film, now, actions)

    def _published(self, event: ev.FilmPublished, now: float, actions: list[Action]) -> None:
        if event.worker in self._state.workers:
            self.hosts.worked(self._state.workers[event.worker].host, now)
        self._worker_index.remove_finishing(event.worker, event.film)
        film = self._state.films.get(event.film)
        if film is not None and film.worker == event.worker and not film.state.ended:
            self._lifecycle.end(event.film, State.DONE, actions)
