"""The runs that a coordinator owns: their progress, their durable state, requests to them, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

from render_farm.errors import LeaseHeldError, StorageError
from render_farm.farm.control.live import LiveControl
from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.coordinator.observing import observe
from render_farm.farm.run.cost_store import load_costs, save_costs
from render_farm.farm.run.owned_run import OwnedRun, acquire_run
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.events import EventKind
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling import events as ev
from render_farm.scheduling.states import State
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.mailbox import give_answer, take_requests
from render_farm.storage.run_state import JobRow

_ENDED_RUNS_KEPT = 20


class ActiveRuns:
    """See the module. `runs` (by `RunSpec.key`) has the ended ones too, until newer ones push them out."""

    def __init__(
        self,
        events: EventLoop,
        metrics: FarmMetrics,
        *,
        device: Callable[[], str],
        on_idle: Callable[[], Awaitable[None]],
    ) -> None:
        self.runs: dict[str, OwnedRun] = {}
        self._events = events
        self._metrics = metrics
        self._device = device
        self._on_idle = on_idle
        self._control = LiveControl(events.machine, events.apply)

    @property
    def at_work(self) -> Iterator[OwnedRun]:
        """The runs that are not over."""
        return (run for run in self.runs.values() if not run.is_over)

    @property
    def anything_left(self) -> bool:
        return any(True for _ in self.at_work)

    async def take_on(self, spec: RunSpec, *, address: str, lease_s: float, patience_s: float) -> None:
        """Own a run, through outages of its store of up to `patience_s`. Raises `LeaseHeldError` when another
        coordinator does."""
        loop = asyncio.get_running_loop()

        def on_lost(error: Exception) -> None:
            loop.call_soon_threadsafe(self._lease_lost, spec.key, error)

        timing = LeaseTiming(gone_after_s=lease_s, renew_every_s=lease_s / 4, give_up_after_s=max(lease_s, patience_s))
        run = await asyncio.to_thread(acquire_run, spec, this_holder(address), timing, on_lost)
        for problem in run.durable.state.problems:
            run.progress.log.add(problem, level="warning")
        self._forget_old(spec.key)
        self.runs[spec.key] = run
        await self._recall_costs(run)
        self._events.spawn(observe(run, self.snapshot))
        self._metrics.lease("taken_over" if run.lease.is_taken_over else "taken")
        self._apply_earlier_requests(run)

    async def _recall_costs(self, run: OwnedRun) -> None:
        """Use the costs that earlier runs of that output measured, as long as this farm has measured none."""
        costs = self._events.machine.costs
        if not costs.num_observed():
            costs.take(await asyncio.to_thread(load_costs, run.progress.store, self._device()))

    async def _save_costs(self, run: OwnedRun) -> None:
        costs = self._events.machine.costs
        try:
            if not run.lease_lost and costs.num_observed():
                await run.confirm()
                await asyncio.to_thread(save_costs, run.progress.store, self._device(), costs)
        except (StorageError, LeaseHeldError) as error:
            run.progress.log.add(f"what was learned of segments' times could not be stored: {error}", level="warning")

    def _apply_earlier_requests(self, run: OwnedRun) -> None:
        """Requests that were made while another coordinator owned the run, or nobody did."""
        for host, reason in run.control.quarantined:
            if not self._events.machine.hosts.is_quarantined(host):
                cause = ev.Cause.EARLIER_FAULTS if host in run.control.machines else ev.Cause.PERSON
                self._events.apply(ev.QuarantineHost(host=host, reason=reason, cause=cause))
        for host, reason in self._events.machine.hosts.quarantined.items():
            run.progress.log.add(_quarantined(run, host, reason), level="warning")
        if run.spent:
            run.progress.log.add(f"this run's cluster has cost {run.spent:.2f} before; this counts towards --max-cost")
        if run.control.paused:
            run.progress.log.add(
                f"the run is paused; `render-farm resume {run.run_id}` continues it",
                level="warning",
                kind=EventKind.RUN_PAUSED,
            )
            self._events.apply(ev.PauseRun(run_id=run.key))

    def _forget_old(self, again: str) -> None:
        """Drop the runs that ended longest ago, and an ended one that is to be run again."""
        ended = [key for key, run in self.runs.items() if run.is_over]
        for key in [*ended[:-_ENDED_RUNS_KEPT], *([again] if again in ended[-_ENDED_RUNS_KEPT:] else [])]:
            self._events.machine.forget_run(key)
            del self.runs[key]

    # --- progress ---

    def film_ended(self, action: ev.FilmEnded) -> None:
        key, job_id = action.film
        run = self.runs[key]
        if action.state is State.CANCELLED and run.store_error is not None:  # nobody has cancelled it
            message = f"{run.store_error}; what is stored stays, and the same command again continues"
            action = replace(action, state=State.FAILED, error_class=type(run.store_error).__name__, message=message)
        if action.state is State.DONE and run.durable.state.jobs.get(job_id, JobRow()).taken_out:
            run.change(job_id, lambda row: replace(row, taken_out=False))  # it was published before it could be stopped
        run.progress.ended(
            job_id, action.state, error_class=action.error_class, message=action.message, attempts=action.attempts
        )
        level = "info" if action.state == "done" else "error"
        uri = run.progress.films[job_id].result.uri
        run.progress.log.add(f"{action.state}: {action.message or uri or 'published'}", job_id=job_id, level=level)

    def film_delayed(self, action: ev.FilmDelayed) -> None:
        key, job_id = action.film
        progress = self.runs[key].progress
        worker = progress.films[job_id].worker
        host = self._events.machine.host_of(worker)
        place = f" (on {worker}, host {host})" if host else ""
        progress.roll_back(job_id, action.message)
        progress.log.add(f"again in {action.delay_s:g} s: {action.message}{place}", job_id=job_id, level="warning")

    def host_quarantined(self, action: ev.HostQuarantined) -> None:
        for run in self.at_work:
            run.progress.log.add(_quarantined(run, action.host, action.reason), level="error")

    def host_released(self, action: ev.HostReleased) -> None:
        for run in self.at_work:
            run.progress.log.add(f"host {action.host} gets work again: {action.reason}", level="warning")

    def hosts_changed(self) -> None:
        """Quarantines outlive the coordinator."""
        quarantined = tuple(sorted(self._events.machine.hosts.quarantined.items()))
        by_faults = self._events.machine.hosts.quarantined_by_faults
        for run in self.at_work:
            machines = {host: ids for host, ids in run.control.machines.items() if host in by_faults}
            run.control = replace(run.control, quarantined=quarantined, machines=machines)

    @property
    def machines(self) -> dict[str, frozenset[str]]:
        """Ids of the nodes of hosts that were quarantined for their faults, as the runs know them."""
        return {host: frozenset(ids) for run in self.at_work for host, ids in run.control.machines.items()}

    def keep_machines(self, machines: Mapping[str, frozenset[str]]) -> None:
        """Have the next coordinator know them, too."""
        stored = {host: tuple(sorted(ids)) for host, ids in sorted(machines.items())}
        for run in self.at_work:
            run.control = replace(run.control, machines=stored)

    # --- upkeep ---

    def look_after(self, now: float) -> None:
        """Write changes and answer requests, when it is time to."""
        for run in self.runs.values():
            if run.due(now):
                self._events.spawn(self._write(run))
                self._events.spawn(self._answer_requests(run))

    def snapshot(self, run: OwnedRun, *, after_line: int | None = None) -> RunSnapshot:
        """The run now, with the log lines after `after_line` where that is given."""
        machine = self._events.machine
        return run.progress.snapshot(
            num_workers=len(machine.workers),
            workers_busy=len(machine.workers) - len(machine.idle_workers),
            paused=run.control.paused,
            quarantined=machine.hosts.quarantined,
            after_line=after_line,
        )

    async def _write(self, run: OwnedRun) -> None:
        if not run.started or run.cut_short:  # the results of its last start have all of its rows
            return
        try:
            await run.write(self.snapshot(run))
        except LeaseHeldError as error:
            self._lease_lost(run.key, error)

    async def _answer_requests(self, run: OwnedRun) -> None:
        """Carry out the requests in the run's mailbox. Their effect is durable before they are answered."""
        if run.answering:
            return
        run.answering = True
        store = run.progress.store
        try:
            for request_id, request in await asyncio.to_thread(take_requests, store, run.run_id):
                await run.confirm()
                answer = self._control.answer(run, request)
                await self._write(run)
                await run.confirm()
                await asyncio.to_thread(give_answer, store, run.run_id, request_id, answer)
        except LeaseHeldError as error:
            self._lease_lost(run.key, error)
        except StorageError as error:
            run.progress.log.add(f"requests to this run are not answered: {error}", level="warning")
        finally:
            run.answering = False

    def run_paused(self, action: ev.RunPaused) -> None:
        """Films that were rendered first failed."""
        run = self.runs[action.run_id]
        run.control = replace(run.control, paused=True)
        failed = "a film that was" if action.num_failed == 1 else f"{action.num_failed} films that were"
        run.progress.log.add(
            f"the run is paused, because {failed} rendered first (--canary) failed; "
            f"`render-farm resume {run.run_id}` renders the others, `render-farm cancel {run.run_id}` ends the run",
            level="error",
            kind=EventKind.RUN_PAUSED,
        )

    # --- ends ---

    async def run_ended(self, action: ev.RunEnded) -> None:
        run = self.runs[action.run_id]
        counts = run.progress.counts
        state = action.state
        if counts.get("failed") and (state is State.DONE or run.store_error is not None):
            state = State.FAILED  # rows that were bad from the start, or a store that was lost
        try:
            await self._save_costs(run)
            await run.give_back()
            if not run.lease_lost:
                self._metrics.lease("given_back")
        finally:  # whatever happens, nobody may wait for this run for ever
            run.progress.state = state
            run.over.set()
        if not self.anything_left:
            await self._on_idle()

    def stop(self, run: OwnedRun, reason: str, *, level: str = "error") -> None:
        """Stop a run at its workers' next steps; what is stored stays. One that has not started is stopped then."""
        run.progress.stop_reason = reason
        run.progress.log.add(reason, level=level)
        if run.started or run.sealed:
            self._events.apply(ev.CancelRun(run_id=run.key, reason=reason))

    def drop_abandoned(self, now: float, after_s: float) -> None:
        """Give up the runs whose driver died before it had added all of their films. One that has started renders the
        films that it has. The stored state of another one stays as the last to render it left it."""
        for run in list(self.at_work):
            if run.sealed or now - run.fed_s <= after_s or (run.started and run.progress.num_open):
                continue
            run.sealed = True
            run.is_abandoned = run.cut_short = not run.started
            self.stop(run, "the command that started the run died before it had added all of its films")
            self._events.apply(ev.RunSealed(run_id=run.key, cut_short=True))

    def stop_all(self, reason: str) -> None:
        for run in list(self.at_work):
            self.stop(run, reason)

    def _lease_lost(self, key: str, error: Exception) -> None:
        run = self.runs.get(key)
        if run is not None and not run.is_over:
            run.lease_lost = True
            run.store_error = error if isinstance(error, StorageError) else None
            self._metrics.lease("lost")
            self.stop(run, f"the run's lease was lost: {error}")


def _quarantined(run: OwnedRun, host: str, reason: str) -> str:
    release = f"`render-farm hosts release {run.run_id} {host}` gives it work again"
    return f"host {host} is quarantined: {reason}; {release}"
