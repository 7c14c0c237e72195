"""Films from their arrival to their last state, and the runs that end with them."""

from __future__ import annotations

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.aging import level_of
from render_farm.scheduling.dispatch import Dispatcher
from render_farm.scheduling.events import Action, JobKey, QueuedFilm
from render_farm.scheduling.farm_state import FarmState, FilmState
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State, run_state


class FilmLifecycle:
    """See the module. Films enter the queue here, and only here."""

    def __init__(self, state: FarmState, dispatcher: Dispatcher, aging_s: float, suspect_after: int) -> None:
        self._state = state
        self._dispatcher = dispatcher
        self._aging_s = aging_s
        self._suspect_after = suspect_after
        self._unread_text: dict[tuple[str, str], list[JobKey]] = {}
        """Films that wait for `TextReady`, by run and model."""
        self._num_added = 0

    def add(self, spec: QueuedFilm, now: float, actions: list[Action]) -> None:
        """A film of a run arrives. In one that is being stopped it ends at once."""
        key = spec.key
        assert key not in self._state.films, f"{key} was added before"
        self._num_added += 1
        film = FilmState(
            spec=spec,
            setting=self._state.setting_of(spec),
            number=self._num_added,
            added_s=now,
            priority=spec.priority,
            level=level_of(spec.priority, now, self._aging_s),
            segments_done=spec.segments_done,
            prior_left_s=0.0,
            suspect_after=self._suspect_after,
        )
        self._state.add(key, film)
        self._dispatcher.shares.arrived(spec.share)
        stopping = self._state.runs[spec.run_id].stopping
        if stopping:
            self.end(key, State.CANCELLED, actions, _cancelled(stopping))
        else:
            self.enqueue(key)

    def seal(self, event: ev.RunSealed, actions: list[Action]) -> None:
        """No more films come for a run."""
        run = self._state.run(event.run_id)
        run.sealed, run.cut_short = not event.more, event.cut_short
        run.max_failed, run.failed_before = event.max_failed, event.failed_before
        self._dispatcher.quotas.limit_run(event.run_id, event.max_workers)
        named = (JobKey(event.run_id, job_id) for job_id in event.first)
        run.first = {key for key in named if key in self._state.films and not self._state.films[key].state.ended}
        run.first_failed = event.first_failed
        self.hold(event.run_id)
        if event.first and not run.first:
            self._first_ended(event.run_id, actions)
        self._check_run(event.run_id, actions)

    def enqueue(self, key: JobKey) -> None:
        """Put a film into the queue, unless it ended, is at work, waits for its text, or may not start now."""
        film = self._state.films[key]
        if film.state.ended or film.worker is not None or key in self._dispatcher.queue:
            return
        run = self._state.runs[film.spec.run_id]
        # A film that only has to be finished needs no text.
        if not film.is_rendered:
            if film.spec.model not in run.ready_models:
                self._unread_text.setdefault((film.spec.run_id, film.spec.model), []).append(key)
                return
            if run.holds(key):
                run.held[key] = None
                return
        self._dispatcher.queue.push(key, self._dispatcher.entry(key))

    def hold(self, run_id: str) -> None:
        """Take the films out of the queue that their run may not start now."""
        run = self._state.run(run_id)
        for key in run.films if run.paused or run.first else ():
            if run.holds(key) and key in self._dispatcher.queue and not self._state.films[key].is_rendered:
                self._dispatcher.queue.discard(key)
                run.held[key] = None

    def release(self, run_id: str) -> None:
        """Put the films back that their run may start now."""
        run = self._state.run(run_id)
        held, run.held = run.held, {}
        for key in held:
            self.enqueue(key)

    def _first_ended(self, run_id: str, actions: list[Action]) -> None:
        """The films that were to be rendered first all ended: the others start, or the run is paused."""
        run = self._state.runs[run_id]
        if run.first_failed and (run.counts[State.WAITING] or run.counts[State.RUNNING]):
            run.paused = True
            self.hold(run_id)
            actions.append(ev.RunPaused(run_id=run_id, num_failed=run.first_failed))
        else:
            self.release(run_id)

    def text_ready(self, run_id: str, model: str) -> None:
        self._state.run(run_id).ready_models.add(model)
        for key in self._unread_text.pop((run_id, model), ()):
            self.enqueue(key)

    def text_failed(self, event: ev.TextFailed, actions: list[Action]) -> None:
        for key in self._unread_text.pop((event.run_id, event.model), ()):
            if not self._state.films[key].state.ended:
                self.end(key, State.FAILED, actions, event.failure)

    def end(self, key: JobKey, state: State, actions: list[Action], failure: Failure | None = None) -> None:
        """A film reaches its last state."""
        film = self._state.films[key]
        film.worker, film.finishing, film.cancelled_for = None, False, ""
        self._dispatcher.queue.discard(key)
        run = self._state.runs[film.spec.run_id]
        run.held.pop(key, None)
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
        if key in run.first:
            run.first.discard(key)
            run.first_failed += state is State.FAILED
            if not run.first:
                self._first_ended(film.spec.run_id, actions)
        self._check_run(film.spec.run_id, actions)

    def cancel(self, event: ev.CancelRun, actions: list[Action]) -> None:
        """Stop a run or some of its films. What is not known is ignored."""
        run = self._state.runs.get(event.run_id)
        if run is None:
            return
        if event.job_ids is None:
            run.stopping = event.reason
            keys = list(run.films)
        else:
            named = (JobKey(event.run_id, job_id) for job_id in event.job_ids)
            keys = [key for key in named if key in self._state.films]
        for key in keys:
            film = self._state.films[key]
            if film.state.ended:
                continue
            if film.worker is not None:
                actions.append(ev.StopWork(worker=film.worker, film=key, keep_steps=event.job_ids is None))
            if film.finishing:  # only its worker knows whether it is published by now
                film.cancelled_for = event.reason
            else:
                self.end(key, State.CANCELLED, actions, _cancelled(event.reason))

    def stopped(self, key: JobKey, actions: list[Action]) -> bool:
        """End a film that was cancelled while it was being finished. False when it was not."""
        reason = self._state.films[key].cancelled_for
        if reason:
            self.end(key, State.CANCELLED, actions, _cancelled(reason))
        return bool(reason)

    def _check_run(self, run_id: str, actions: list[Action]) -> None:
        """Stop a run in which too much failed. End one whose films all ended."""
        run = self._state.runs[run_id]
        failed = run.counts[State.FAILED] + run.failed_before
        if run.max_failed is not None and failed > run.max_failed and not run.stopping:
            reason = f"the run stopped: {failed} jobs failed, more than the {run.max_failed} that --max-failed allows"
            self.cancel(ev.CancelRun(run_id=run_id, reason=reason), actions)
        if run.sealed and not (run.ended or run.counts[State.WAITING] or run.counts[State.RUNNING]):
            run.ended = True
            stopped = run.cut_short or bool(run.stopping and run.counts[State.CANCELLED])
            actions.append(ev.RunEnded(run_id=run_id, state=run_state(run.counts_by_name, stopped=stopped)))

    def forget_run(self, run_id: str) -> list[JobKey]:
        """Drop a run that ended, so that a long-lived farm does not grow. Returns its films."""
        run = self._state.runs.pop(run_id)
        assert run.ended
        for key in run.films:
            del self._state.films[key]
        self._dispatcher.quotas.limit_run(run_id, None)
        return run.films


def _cancelled(reason: str) -> Failure:
    return Failure(fault=Fault.USER, error_class="Cancelled", message=reason)
