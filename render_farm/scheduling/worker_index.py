"""The workers that are up: what they do, which could start something, and which hosts get no more work."""

from __future__ import annotations

from render_farm.scheduling import events as ev
from render_farm.scheduling.affinity import Setting
from render_farm.scheduling.events import Action, Cause, JobKey
from render_farm.scheduling.farm_state import FarmState, WorkerRecord, WorkInHand
from render_farm.scheduling.hosts import HostRecords
from render_farm.scheduling.idle_workers import IdleWorker, IdleWorkers
from render_farm.scheduling.retry import Failure, RetryPolicy, rule_for

MOST_FINISHING = 2
"""Films that one worker decodes and publishes at a time; one that has as many is given nothing new."""


class WorkerIndex:
    """Keeps `state.workers`, and in `idle_workers` those that could start a segment now. Every method does both."""

    def __init__(self, state: FarmState, idle_workers: IdleWorkers, policy: RetryPolicy) -> None:
        self.hosts = HostRecords(policy)
        self._state = state
        self._workers = state.workers
        self._idle_workers = idle_workers
        self._idle: dict[str, None] = {}
        """Workers that render nothing, those included that may not begin anything now."""

    @property
    def idle(self) -> tuple[str, ...]:
        """Workers without any work, finishing included."""
        return tuple(worker for worker in self._idle if not self._workers[worker].finishing)

    @property
    def is_idle(self) -> bool:
        """Whether no worker has any work."""
        return len(self._idle) == len(self._workers) and not any(self._workers[w].finishing for w in self._idle)

    def up(self, event: ev.WorkerUp, actions: list[Action]) -> None:
        """A worker's process is there."""
        self._workers[event.worker] = WorkerRecord(host=event.host)
        self.hosts.up(event.worker, event.host)
        self._state.dated_changes += 1
        if self.hosts.is_quarantined(event.host):
            self._refresh(event.worker)
            self._end_quarantined((event.worker,), actions)
            return
        self._idle_workers.enter(event.worker, event.host)
        self._refresh(event.worker)

    def begin(self, work: WorkInHand, setting: Setting) -> None:
        """The workers of a group start a segment, for which each of them loads `setting`."""
        leader = work.workers[0]
        for worker in work.workers:
            record = self._workers[worker]
            record.setting = setting
            if worker == leader:
                record.work = work
            else:
                record.leader = leader
            self._refresh(worker)

    def end(self, leader: str, staying: tuple[str, ...]) -> WorkInHand:
        """A leader's segment is over. It is free, and so are its helpers except those in `staying`."""
        record = self._workers[leader]
        assert record.work is not None
        work, record.work = record.work, None
        self._refresh(leader)
        for helper in work.workers[1:]:
            if helper not in staying:
                self.leave_group(helper, leader)
        return work

    def leave_group(self, helper: str, leader: str) -> None:
        """A helper is free. Nothing happens when it is gone or helps somebody else by now."""
        record = self._workers.get(helper)
        if record is not None and record.leader == leader:
            record.leader = ""
            self._refresh(helper)

    def add_finishing(self, worker: str, film: JobKey) -> None:
        """A worker finishes a film alongside its next work."""
        self._workers[worker].finishing.add(film)
        self._refresh(worker)

    def remove_finishing(self, worker: str, film: JobKey) -> None:
        """It does so no more. Nothing happens when the worker is gone or never did."""
        if worker in self._workers:
            self._workers[worker].finishing.discard(film)
            self._refresh(worker)

    def _refresh(self, worker: str) -> None:
        """Index what a worker could start now."""
        record = self._workers.get(worker)
        if record is None or not record.is_idle:
            self._idle.pop(worker, None)
            self._idle_workers.discard(worker)
            return
        self._idle.setdefault(worker)
        films = [self._state.films.get(key) for key in record.finishing]
        takes_no_more = len(films) >= MOST_FINISHING or any(film is not None and film.is_suspect for film in films)
        if takes_no_more or self.hosts.is_quarantined(record.host):
            self._idle_workers.discard(worker)
        else:
            idle = IdleWorker(
                worker=worker, host=record.host, setting=record.setting, num_finishing=len(record.finishing)
            )
            self._idle_workers.add(idle)

    def forget(self, worker: str) -> WorkerRecord:
        """A worker's process is gone. Helpers of its segment are free once they have left the group."""
        record = self._workers.pop(worker)
        self._refresh(worker)
        self._state.dated_changes += 1
        self.hosts.lost(worker, record.host)
        if not self.hosts.is_quarantined(record.host):
            self._idle_workers.leave(worker, record.host)
        return record

    def replace(self, worker: str, reason: str, actions: list[Action]) -> None:
        """End a worker without work and start a fresh one."""
        self.forget(worker)
        actions.append(ev.ReplaceWorker(worker=worker, reason=reason))

    def count_against_host(
        self, host: str, failure: Failure, now: float, actions: list[Action], film: JobKey | None = None
    ) -> None:
        """A worker of the host failed, at `film` if it had one: too often by its own fault, or by one that the other
        hosts do not have, and its host gets no more work."""
        rule = rule_for(failure)
        if not (rule.counted and rule.blames_host) and not rule.suspects_host:
            return
        reason = self.hosts.fault(host, failure.error_class, now, film=film, is_shared=not rule.counted)
        if reason:
            actions.append(ev.HostQuarantined(host=host, reason=f"{reason}, the last one: {failure.message}"))
            self.set_aside(host, reason, actions, cause=Cause.FAULTS)
        for acquitted in self.hosts.acquitted():
            self.release_host(acquitted)
            actions.append(ev.HostReleased(host=acquitted, reason="other hosts have had the same faults"))

    def set_aside(self, host: str, reason: str, actions: list[Action], *, cause: Cause) -> None:
        """Give a host no more work."""
        was_open = not self.hosts.is_quarantined(host)
        workers = self.hosts.quarantine(host, reason, cause)
        if was_open:
            self._idle_workers.release(host)
            for worker in workers:
                self._idle_workers.leave(worker, host)
        self._end_quarantined(workers, actions)

    def _end_quarantined(self, workers: tuple[str, ...], actions: list[Action]) -> None:
        """Replace those that do nothing; the others when they have done what they do."""
        for worker in workers:
            record = self._workers.get(worker)
            if record is not None and not record.is_at_work:
                self.replace(worker, "its host is quarantined", actions)

    def release_host(self, host: str) -> None:
        """Give a host work again."""
        if not self.hosts.release(host):
            return
        for worker, record in self._workers.items():
            if record.host == host:
                self._idle_workers.enter(worker, host)
                self._refresh(worker)
