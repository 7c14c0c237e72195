"""The runs that a coordinator holds: their books, their durable state, what people ask of them, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from render_farm.errors import LeaseHeldError, StorageError
from render_farm.farm.control.live import LiveControl
from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.run.cost_store import load_costs, save_costs
from render_farm.farm.run.owned_run import OwnedRun, hold
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.events import EventKind
from render_farm.scheduling import events as ev
from render_farm.scheduling.states import State
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.mailbox import give_answer, take_requests

_ENDED_RUNS_KEPT = 20


class ActiveRuns:
    """See the module. `runs` (by `RunSpec.key`) has the ended ones too, until newer ones push them out."""

    def __init__(
        self,
        dispatch: EventLoop,
        metrics: FarmMetrics,
        *,
        device: Callable[[], str],
        on_all_over: Callable[[], Awaitable[None]],
    ) -> None:
        self.runs: dict[str, OwnedRun] = {}
        self._dispatch = dispatch
        self._metrics = metrics
        self._device = device
        self._on_all_over = on_all_over
        self._control = LiveControl(dispatch.machine, dispatch.apply)

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
            loop.call_soon_threadsafe(self._lease_lost, spec.key, str(error))

        timing = LeaseTiming(gone_after_s=lease_s, renew_every_s=lease_s / 4, give_up_after_s=max(lease_s, patience_s))
        run = await asyncio.to_thread(hold, spec, this_holder(address), timing, on_lost)
        for problem in run.durable.state.problems:
            run.record.log.add(problem, level="warning")
        self._forget_old(spec.key)
        self.runs[spec.key] = run
        await self._recall_costs(run)
        self._metrics.lease("taken_over" if run.lease.is_taken_over else "taken")
        self._as_asked_before(run)

    async def _recall_costs(self, run: OwnedRun) -> None:
        """Go by what earlier runs of that output have learned, as long as this farm has learned nothing."""
        costs = self._dispatch.machine.costs
        if not costs.num_observed():
            costs.take(await asyncio.to_thread(load_costs, run.record.store, self._device()))

    async def _save_costs(self, run: OwnedRun) -> None:
        costs = self._dispatch.machine.costs
        try:
            if not run.lease_lost and costs.num_observed():
                await run.confirm()
                await asyncio.to_thread(save_costs, run.record.store, self._device(), costs)
        except (StorageError, LeaseHeldError) as error:
            run.record.log.add(f"what was learned of segments' times could not be stored: {error}", level="warning")

    def _as_asked_before(self, run: OwnedRun) -> None:
        """What people asked of the run while another coordinator held it, or nobody."""
        for host, reason in run.control.quarantined:
            if not self._dispatch.machine.hosts.is_quarantined(host):
                self._dispatch.apply(ev.QuarantineHost(host=host, reason=reason))
        if run.spent:
            run.record.log.add(f"this run's cluster has cost {run.spent:.2f} before; --max-cost counts on from there")
        if run.control.paused:
            run.record.log.add(
                f"the run is paused; `render-farm resume {run.run_id}` lets it go on",
                level="warning",
                kind=EventKind.RUN_PAUSED,
            )
            self._dispatch.apply(ev.PauseRun(run_id=run.key))

    def _forget_old(self, again: str) -> None:
        """Drop the runs that ended longest ago, and an ended one that is to be run again."""
        ended = [key for key, run in self.runs.items() if run.is_over]
        for key in [*ended[:-_ENDED_RUNS_KEPT], *([again] if again in ended[-_ENDED_RUNS_KEPT:] else [])]:
            self._dispatch.machine.forget_run(key)
            del self.runs[key]

    # --- the books ---

    def film_ended(self, action: ev.FilmEnded) -> None:
        key, job_id = action.film
        run = self.runs[key]
        run.record.ended(
            job_id, action.state, error_class=action.error_class, message=action.message, attempts=action.attempts
        )
        level = "info" if action.state == "done" else "error"
        uri = run.record.films[job_id].result.uri
        run.record.log.add(f"{action.state}: {action.message or uri or 'published'}", job_id=job_id, level=level)

    def film_delayed(self, action: ev.FilmDelayed) -> None:
        key, job_id = action.film
        record = self.runs[key].record
        record.roll_back(job_id, action.message)
        record.log.add(f"again in {action.delay_s:g} s: {action.message}", job_id=job_id, level="warning")

    def host_quarantined(self, action: ev.HostQuarantined) -> None:
        for run in self.at_work:
            run.record.log.add(
                f"host {action.host} is quarantined: {action.reason}; "
                f"`render-farm hosts release {run.run_id} {action.host}` gives it work again",
                level="error",
            )

    def hosts_changed(self) -> None:
        """Quarantines outlive the coordinator."""
        quarantined = tuple(sorted(self._dispatch.machine.hosts.quarantined.items()))
        for run in self.at_work:
            run.control = replace(run.control, quarantined=quarantined)

    # --- upkeep ---

    def look_after(self, now: float) -> None:
        """Write what changed and answer what was asked, where it is time."""
        for run in self.runs.values():
            if run.due(now):
                self._dispatch.spawn(self._write(run))
                self._dispatch.spawn(self._answer_requests(run))

    async def _write(self, run: OwnedRun) -> None:
        machine = self._dispatch.machine
        run.live = run.record.live(
            num_workers=len(machine.workers),
            workers_busy=len(machine.workers) - len(machine.idle_workers),
            paused=run.control.paused,
            quarantined=machine.hosts.quarantined,
        )
        try:
            await run.write()
        except LeaseHeldError as error:
            self._lease_lost(run.key, str(error))

    async def _answer_requests(self, run: OwnedRun) -> None:
        """Do what others asked through the run's mailbox. What was done is durable before it is answered."""
        if run.answering:
            return
        run.answering = True
        store = run.record.store
        try:
            for request_id, request in await asyncio.to_thread(take_requests, store, run.run_id):
                await run.confirm()
                answer = self._control.answer(run, request)
                await self._write(run)
                await run.confirm()
                await asyncio.to_thread(give_answer, store, run.run_id, request_id, answer)
        except LeaseHeldError as error:
            self._lease_lost(run.key, str(error))
        except StorageError as error:
            run.record.log.add(f"requests to this run are not answered: {error}", level="warning")
        finally:
            run.answering = False

    # --- ends ---

    async def run_ended(self, action: ev.RunEnded) -> None:
        run = self.runs[action.run_id]
        counts = run.record.counts
        state = action.state
        if state is State.DONE and counts.get("failed"):
            state = State.FAILED  # rows that were bad from the start
        try:
            await self._save_costs(run)
            await run.give_back()
            if not run.lease_lost:
                self._metrics.lease("given_back")
        finally:  # whatever happens, nobody may wait for this run for ever
            run.record.state = state
            run.over.set()
        if not self.anything_left:
            await self._on_all_over()

    def stop(self, run: OwnedRun, reason: str, *, level: str = "error") -> None:
        """Stop a run at its workers' next steps; what is stored stays."""
        run.record.stop_reason = reason
        run.record.log.add(reason, level=level)
        self._dispatch.apply(ev.CancelRun(run_id=run.key, reason=reason))

    def stop_all(self, reason: str) -> None:
        for run in list(self.at_work):
            self.stop(run, reason)

    def _lease_lost(self, key: str, reason: str) -> None:
        run = self.runs.get(key)
        if run is not None and not run.is_over:
            run.lease_lost = True
            self._metrics.lease("lost")
            self.stop(run, f"the run's lease was lost: {reason}")
