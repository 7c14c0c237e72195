"""The coordinator: one Ray actor a cluster that drives the scheduling machine.

It turns what happens (workers answer, die, report steps) into events, and the machine's actions into calls. Runs are
added to it; each is owned through its lease, so that two clusters never render the same run at once. Nothing durable
lives here: what is finished lies in storage, and whoever starts next reads it there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import ray

from render_farm.errors import LeaseHeldError, StorageError, UsageError
from render_farm.farm.cost_store import load_costs, save_costs
from render_farm.farm.errands import Errands
from render_farm.farm.failures import died
from render_farm.farm.farm_metrics import FarmMetrics
from render_farm.farm.film_preview import PreviewNews
from render_farm.farm.hang_watch import HangWatch
from render_farm.farm.held_run import HeldRun, hold
from render_farm.farm.live_control import LiveControl
from render_farm.farm.ray_metrics import RayMetrics
from render_farm.farm.run_spec import FarmShape, FilmEntry, RunSpec
from render_farm.farm.scheduled_film import scheduled
from render_farm.farm.snapshot import RunSnapshot
from render_farm.farm.text_stage import TextStage
from render_farm.farm.worker_pool import WorkerPool
from render_farm.observability.events import EventKind
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import RunState
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.mailbox import give_answer, take_requests

NAME = "coordinator"
_TICK_S = 0.5
_ENDED_RUNS_KEPT = 20
_PAUSED = "paused"


@ray.remote(num_cpus=0, max_restarts=0)
class Coordinator:
    """See the module. An asynchronous actor: its methods interleave only where they await."""

    def __init__(self, shape: FarmShape, address: str, environment: str = "") -> None:
        self._shape = shape
        self._address = address
        self._environment = environment
        self._machine = FarmMachine(shape.policy, scheduling=shape.scheduling)
        self._runs: dict[str, HeldRun] = {}
        self._tasks: set[asyncio.Task] = set()
        self._pool = WorkerPool(
            shape, on_up=self._worker_up, on_cannot_start=self._stop_all_runs, work_for=self._runs_at_work
        )
        self._watch = HangWatch(shape.timeouts)
        self._metrics = FarmMetrics(RayMetrics())
        self._errands = Errands(
            self._pool,
            self._runs,
            self._watch,
            group_timeout_s=shape.timeouts.group_s,
            metrics=self._metrics,
            apply=self._apply,
            on_worker_ended=self._worker_lost,
            on_prompt_missing=self._prompt_missing,
        )
        self._control = LiveControl(self._machine, self._apply)
        self._adding = asyncio.Lock()
        self._text = TextStage(
            self._pool,
            shape.policy,
            takes_a_place=shape.device == "cuda",
            free_a_place=self._free_a_place,
            on_encoded=self._metrics.encoded,
        )
        self._ticking: asyncio.Task | None = None
        self._wake_at_s = float("inf")

    # --- calls of the driver ---

    async def add_run(self, spec: RunSpec, shape: FarmShape) -> bool:
        """Take a run on; False when it is being rendered here already.

        A run whose driver died before it was sealed is taken up where that one stopped. Raises `LeaseHeldError` when
        another coordinator owns the run, `UsageError` when the farm's workers are of another kind than it asks for.
        """
        async with self._adding:
            return await self._add_run(spec, shape)

    async def _add_run(self, spec: RunSpec, shape: FarmShape) -> bool:
        known = self._runs.get(spec.run_id)
        if known is not None and not known.is_over:
            return not known.sealed
        self._adopt(shape)
        lease_s, loop = shape.timeouts.lease_s, asyncio.get_running_loop()

        def on_lost(error: Exception) -> None:
            loop.call_soon_threadsafe(self._lease_lost, spec.run_id, str(error))

        timing = LeaseTiming(gone_after_s=lease_s, renew_every_s=lease_s / 4)
        run = await asyncio.to_thread(hold, spec, this_holder(self._address), timing, on_lost)
        for problem in run.durable.state.problems:
            run.record.log.add(problem, level="warning")
        self._forget_old_runs(spec.run_id)
        self._runs[spec.run_id] = run
        await self._recall_costs(run)
        self._metrics.lease("taken_over" if run.lease.is_taken_over else "taken")
        for host, reason in run.control.quarantined:
            if not self._machine.hosts.is_quarantined(host):
                self._apply(ev.QuarantineHost(host=host, reason=reason))
        if run.control.paused:
            run.record.log.add(f"the run is paused; `render-farm resume {run.run_id}` lets it go on", level="warning")
            self._apply(ev.PauseRun(run_id=spec.run_id))
        return True

    async def _recall_costs(self, run: HeldRun) -> None:
        """Go by what earlier runs of that output have learned, as long as this farm has learned nothing."""
        if not self._machine.costs.num_observed():
            found = await asyncio.to_thread(load_costs, run.record.store, self._shape.device)
            self._machine.costs.take(found)

    def _adopt(self, shape: FarmShape) -> None:
        """Have workers as this run asks for them, when no other run needs the present ones."""
        if shape == self._shape:
            return
        if not self._anything_left and not self._machine.workers:
            self._shape = shape
            self._pool.adopt(shape)
            self._watch.timeouts = shape.timeouts
        elif (shape.device, shape.dtype) != (self._shape.device, self._shape.dtype):
            raise UsageError(
                f"this cluster's farm renders on {self._shape.device} in {self._shape.dtype} for another run",
                advice="wait until that one is over, or ask for the same",
            )

    def _forget_old_runs(self, again: str) -> None:
        """Drop the runs that ended longest ago, and an ended one that is to be run again."""
        ended = [run_id for run_id, run in self._runs.items() if run.is_over]
        for run_id in [*ended[:-_ENDED_RUNS_KEPT], *([again] if again in ended[-_ENDED_RUNS_KEPT:] else [])]:
            self._machine.forget_run(run_id)
            del self._runs[run_id]

    async def add_films(self, run_id: str, entries: list[FilmEntry]) -> None:
        """Add films to a run that is not sealed yet."""
        run = self._runs[run_id]
        films = []
        for entry in entries:
            if entry.task.job_id in run.record.films:
                continue  # from a driver that died while it added them
            run.record.add(entry)
            run.texts[entry.task.model].update(dict.fromkeys(entry.texts))
            run.fingerprints[entry.task.model] = entry.task.plan.facts.fingerprint
            films.append(scheduled(run_id, entry, self._shape.device, clock_ahead_s=time.monotonic() - time.time()))
        self._apply(ev.FilmsAdded(films=tuple(films)))

    async def seal_run(self, run_id: str) -> None:
        """No more films come: encode the prompts and render."""
        run = self._runs[run_id]
        if run.sealed:
            return
        run.sealed = True
        run.record.state = RunState.RUNNING
        for worker in self._machine.workers:
            _log_up(run, worker)
        if self._ticking is None:
            self._ticking = self._spawn(self._tick())
        self._spawn(self._encode_texts(run))
        if self._shape.device != "cuda":
            self._start_workers()
        self._seal(run)

    def _seal(self, run: HeldRun) -> None:
        spec = run.record.spec
        self._apply(
            ev.RunSealed(
                run_id=spec.run_id,
                max_failed=spec.max_failed,
                failed_before=spec.failed_before,
                max_workers=spec.max_workers,
            )
        )

    async def snapshot(self, run_id: str, after_line: int = 0) -> RunSnapshot:
        """The run now, with the log lines after `after_line`."""
        run = self._runs[run_id]
        if run.record.state is RunState.RUNNING and not self._machine.workers:
            run.record.note = run.record.note or f"starting {self._shape.num_workers} workers"
        elif run.record.note.startswith("starting"):
            run.record.note = ""
        if not run.record.note and run.control.paused:
            run.record.note = _PAUSED
        elif run.record.note == _PAUSED and not run.control.paused:
            run.record.note = ""
        return run.record.picture(
            counts=self._machine.counts(run_id) if self._machine.has_run(run_id) else {},
            after_line=after_line,
            workers=len(self._machine.workers),
            busy=len(self._machine.workers) - len(self._machine.idle_workers),
        )

    async def cancel_run(self, run_id: str, reason: str) -> None:
        """Stop a run at its workers' next steps; what is stored stays."""
        run = self._runs[run_id]
        run.record.stop_reason = reason
        run.record.log.add(reason, level="warning")
        self._apply(ev.CancelRun(run_id=run_id, reason=reason))
        if not run.sealed:
            run.sealed = True
            self._seal(run)

    async def wait(self, run_id: str) -> dict[str, int]:
        """Wait until the run is over and its results are written; jobs by state."""
        run = self._runs[run_id]
        await run.over.wait()
        return run.record.counts

    async def gives_way_to(self, environment: str) -> bool:
        """Whether a new coordinator with `environment` should take this one's place: it renders nothing, and was
        started with another."""
        return environment != self._environment and not self._anything_left and not self._adding.locked()

    async def workers(self) -> dict[str, int]:
        """Process ids of the workers that are up, by name."""
        return self._pool.pids

    async def close(self) -> None:
        """Let workers remove their temporary files, and end them."""
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(self._let_go(worker) for worker in self._machine.workers))

    # --- calls of the workers ---

    async def step_done(self, work: int, step: int, num_steps: int) -> None:
        """A segment made a step."""
        self._errands.stepped(work, step, num_steps)

    async def still_finishing(self, work: int) -> None:
        """A film that is being finished has written something."""
        self._watch.alive(work, time.monotonic())

    async def previewed(self, news: PreviewNews) -> None:
        """A film can be watched a segment further."""
        run = self._runs.get(news.run_id)
        if run is not None and not run.is_over:
            run.record.previewed(news)

    # --- events in, actions out ---

    def _apply(self, event: ev.Event) -> None:
        now = time.monotonic()
        actions = self._machine.apply(event, now)
        self._metrics.applied(event, actions, now)
        if isinstance(event, ev.QuarantineHost | ev.ReleaseHost) or any(
            isinstance(action, ev.HostQuarantined) for action in actions
        ):
            self._hosts_changed()
        for action in actions:
            match action:
                case ev.RenderSegment():
                    self._spawn(self._errands.render(action))
                case ev.FinishFilm():
                    self._spawn(self._errands.finish(action))
                case ev.StopWork():
                    self._errands.stop(action)
                case ev.ReplaceWorker():
                    self._spawn(self._pool.replace(action.worker))
                case ev.FilmEnded():
                    self._film_ended(action)
                case ev.FilmDelayed():
                    self._film_delayed(action)
                case ev.HostQuarantined():
                    self._host_quarantined(action)
                case ev.RunEnded():
                    self._spawn(self._run_ended(action))
                case ev.WakeAt():
                    self._wake_at(action.time_s)

    def _hosts_changed(self) -> None:
        """Quarantines outlive the coordinator, and no worker is started where they hold."""
        quarantined = self._machine.hosts.quarantined
        self._pool.avoid_hosts(quarantined)
        for run in self._runs.values():
            if not run.is_over:
                run.control = replace(run.control, quarantined=tuple(sorted(quarantined.items())))

    def _host_quarantined(self, action: ev.HostQuarantined) -> None:
        for run in self._runs.values():
            if not run.is_over:
                run.record.log.add(
                    f"host {action.host} is quarantined: {action.reason}; "
                    f"`render-farm hosts release {run.run_id} {action.host}` gives it work again",
                    level="error",
                )

    def _spawn(self, work: Any) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A mistake in the farm itself: no run may wait for ever because of it.
            self._stop_all_runs(f"internal error: {task.exception()!r}")

    def _worker_lost(self, worker: str, error: BaseException) -> None:
        if not self._pool.forget(worker, kill=True):  # Ray also says so of one that it merely cannot reach
            return
        for run in self._runs.values():
            if not run.is_over:
                text = f"worker {worker} ended; a fresh one is started"
                run.record.log.add(text, level="warning", kind=EventKind.WORKER_ENDED, worker=worker)
        failure = died(worker, error)
        self._metrics.failed(failure)
        self._apply(ev.WorkerLost(worker=worker, failure=failure))
        self._start_workers()

    @property
    def _anything_left(self) -> bool:
        return any(not run.is_over for run in self._runs.values())

    def _runs_at_work(self) -> str:
        """The runs that are not over, for people who look at Ray's dashboard."""
        return ", ".join(run_id for run_id, run in self._runs.items() if not run.is_over)

    def _start_workers(self) -> None:
        if self._anything_left:
            self._pool.start()

    def _worker_up(self, worker: str, host: str) -> None:
        for run in self._runs.values():
            if not run.is_over:
                _log_up(run, worker)
        self._apply(ev.WorkerUp(worker=worker, host=host))
        if not self._anything_left:
            self._spawn(self._let_go(worker))

    async def _let_go(self, worker: str) -> None:
        """End an idle worker."""
        for run in self._runs.values():
            if not run.is_over:
                text = f"worker {worker} is let go"
                run.record.log.add(text, level="debug", kind=EventKind.WORKER_ENDED, worker=worker)
        self._apply(ev.WorkerLost(worker=worker, failure=died(worker)))
        await self._pool.end(worker)

    def _stop_all_runs(self, reason: str) -> None:
        for run_id, run in self._runs.items():
            if not run.is_over:
                run.record.stop_reason = reason
                run.record.log.add(reason, level="error")
                self._apply(ev.CancelRun(run_id=run_id, reason=reason))

    # --- films and runs that end ---

    def _film_ended(self, action: ev.FilmEnded) -> None:
        run_id, job_id = action.film
        run = self._runs[run_id]
        run.record.ended(
            job_id, action.state, error_class=action.error_class, message=action.message, attempts=action.attempts
        )
        level = "info" if action.state == "done" else "error"
        uri = run.record.films[job_id].result.uri
        run.record.log.add(f"{action.state}: {action.message or uri or 'published'}", job_id=job_id, level=level)

    def _film_delayed(self, action: ev.FilmDelayed) -> None:
        run_id, job_id = action.film
        record = self._runs[run_id].record
        record.set_back(job_id, action.message)
        record.log.add(f"again in {action.delay_s:g} s: {action.message}", job_id=job_id, level="warning")

    async def _run_ended(self, action: ev.RunEnded) -> None:
        run = self._runs[action.run_id]
        counts = run.record.counts
        state = action.state
        if state is RunState.DONE and counts.get("failed"):
            state = RunState.FAILED  # rows that were bad from the start
        try:
            if not run.lease_lost and self._machine.costs.num_observed():
                await asyncio.to_thread(save_costs, run.record.store, self._shape.device, self._machine.costs)
        except StorageError as error:
            run.record.log.add(f"what was learned of segments' times could not be stored: {error}", level="warning")
        try:
            await run.give_back()
            if not run.lease_lost:
                self._metrics.lease("given_back")
        finally:  # whatever happens, nobody may wait for this run for ever
            run.record.state = state
            run.over.set()
        if not self._anything_left:
            await self._release_workers()

    async def _release_workers(self) -> None:
        """Nothing is left to render: give the devices back. The next run starts workers anew."""
        await asyncio.gather(*(self._let_go(worker) for worker in self._machine.idle_workers))
        self._start_workers()  # a run that was added meanwhile

    def _lease_lost(self, run_id: str, reason: str) -> None:
        run = self._runs.get(run_id)
        if run is not None and not run.is_over:
            run.lease_lost = True
            self._metrics.lease("lost")
            run.record.stop_reason = f"the run's lease was lost: {reason}"
            run.record.log.add(run.record.stop_reason, level="error")
            self._apply(ev.CancelRun(run_id=run_id, reason=run.record.stop_reason))

    # --- text ---

    async def _encode_texts(self, run: HeldRun) -> None:
        """Have every prompt of the run encoded, a model at a time; its films become ready."""
        for model in run.texts:
            await self._encode(run, model)
        self._start_workers()

    async def _encode(self, run: HeldRun, model: str) -> None:
        run_id = run.record.spec.run_id
        run.encoding.add(model)
        try:
            failure = await self._text.encode(run.record, model, run.fingerprints[model], list(run.texts[model]))
        finally:
            run.encoding.discard(model)
        if failure is None:
            self._apply(ev.TextReady(run_id=run_id, model=model))
        else:
            self._apply(ev.TextFailed(run_id=run_id, model=model, failure=failure))

    def _prompt_missing(self, run_id: str, model: str) -> None:
        """An embedding was lost or damaged after it was stored: the films that need it wait until it is made again."""
        run = self._runs[run_id]
        if model not in run.encoding and not run.is_over:
            self._apply(ev.TextMissing(run_id=run_id, model=model))
            self._spawn(self._encode(run, model))

    async def _free_a_place(self) -> None:
        """Let an idle worker go, when all places are taken."""
        while self._pool.num_places_taken >= self._shape.num_workers:
            if self._machine.idle_workers:
                await self._let_go(self._machine.idle_workers[0])
            else:
                await asyncio.sleep(_TICK_S)

    # --- time ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._end_silent_workers(now)
            self._apply(ev.Tick())
            self._metrics.sample(self._runs, self._machine, now=now, now_unix_s=time.time())
            for run in self._runs.values():
                if run.due(now):
                    self._spawn(self._write(run))
                    self._spawn(self._answer_requests(run))

    async def _write(self, run: HeldRun) -> None:
        run.live = run.record.live(
            num_workers=len(self._machine.workers),
            workers_busy=len(self._machine.workers) - len(self._machine.idle_workers),
            paused=run.control.paused,
            quarantined=self._machine.hosts.quarantined,
        )
        try:
            await run.write()
        except LeaseHeldError as error:
            self._lease_lost(run.record.spec.run_id, str(error))

    async def _answer_requests(self, run: HeldRun) -> None:
        """Do what others asked through the run's mailbox. What was done is durable before it is answered."""
        if run.answering:
            return
        run.answering = True
        store = run.record.store
        try:
            for request_id, request in await asyncio.to_thread(take_requests, store, run.run_id):
                answer = self._control.answer(run, request)
                await self._write(run)
                await asyncio.to_thread(give_answer, store, run.run_id, request_id, answer)
        except StorageError as error:
            run.record.log.add(f"requests to this run are not answered: {error}", level="warning")
        finally:
            run.answering = False

    def _wake_at(self, time_s: float) -> None:
        """Tick at `time_s`, when that is before the next time that is waited for."""
        now = time.monotonic()
        if now < self._wake_at_s <= time_s:
            return
        self._wake_at_s = time_s
        asyncio.get_running_loop().call_later(max(0.0, time_s - now), self._apply, ev.Tick())

    def _end_silent_workers(self, now: float) -> None:
        """End the processes of workers that have given no sign of life for far too long."""
        for work, doing in self._watch.silent(now):
            if self._pool.has(work.worker):
                self._runs[work.film[0]].record.log.add(
                    f"worker {work.worker} {doing}; it is ended", job_id=work.film[1], level="warning"
                )
                self._pool.kill(work.worker)


def _log_up(run: HeldRun, worker: str) -> None:
    run.record.log.add(f"worker {worker} is up", level="debug", kind=EventKind.WORKER_UP, worker=worker)
