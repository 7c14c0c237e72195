"""The coordinator: one Ray actor per cluster that drives the scheduling machine.

It turns what happens (workers answer, die, report steps) into events, and the machine's actions into calls. Runs are
added to it; each is owned through its lease, so that two clusters never render the same run at once. Nothing durable
lives here: everything that is finished is in storage, where the next coordinator reads it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import ray

from render_farm.errors import UsageError
from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.coordinator.quarantines import Quarantines
from render_farm.farm.coordinator.run_texts import RunTexts
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.text_stage import TextStage
from render_farm.farm.coordinator.waiting import Waiting
from render_farm.farm.coordinator.worker_calls import WorkerCalls
from render_farm.farm.coordinator.worker_draining import WorkerDraining
from render_farm.farm.coordinator.worker_lifecycle import WorkerLifecycle
from render_farm.farm.coordinator.worker_scaling import WorkerScaling
from render_farm.farm.ray_cluster.autoscaler import forget_requests
from render_farm.farm.ray_cluster.environment import WorkerEnvironment
from render_farm.farm.ray_cluster.ray_metrics import RayMetrics
from render_farm.farm.ray_cluster.task_names import TaskNames
from render_farm.farm.run.film_task import PreviewNews
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.farm.run.results import Result
from render_farm.farm.run.scheduled_film import scheduled
from render_farm.farm.run.spec import FarmConfig, FilmEntry, RunSpec, run_key
from render_farm.observability.observer import ObserverSource
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import State

NAME = "coordinator"
_TICK_S = 0.5
_STOP_WITHIN_S = 120.0
_STOPPED_AGAIN_S = 0.05
_PAUSED = "paused"
_NONE = WorkerEnvironment()


@ray.remote(num_cpus=0, max_restarts=0)
class Coordinator:
    """See the module. An asynchronous actor: its methods interleave only where they await."""

    def __init__(self, config: FarmConfig, address: str, digest: str = "") -> None:
        """`digest` is of the environment that comes with the first run. Arguments of an actor's start are kept by Ray,
        and those of calls are not."""
        self._address = address
        self._digest = digest
        self._machine = FarmMachine(config.policy, scheduling=config.scheduling)
        self._metrics = FarmMetrics(RayMetrics())
        self._events = EventLoop(self._machine, self._metrics, on_mistake=lambda text: self._active.stop_all(text))
        self._active = ActiveRuns(
            self._events,
            self._metrics,
            device=lambda: self._lifecycle.config.device,
            on_idle=lambda: self._lifecycle.on_idle(),
        )
        self._lifecycle = WorkerLifecycle(config, self._events, self._active, self._metrics)
        self._scaling = WorkerScaling(self._lifecycle, self._events, self._active)
        self._draining = WorkerDraining(self._lifecycle, self._events, self._active, on_not_needed=self._end)
        self._quarantines = Quarantines(self._events, self._active)
        self._waiting = Waiting(self._lifecycle, self._events, self._active)
        stage = TextStage(
            self._lifecycle.pool,
            config.policy,
            takes_slot=config.device == "cuda",
            free_slot=self._lifecycle.free_slot,
            on_encoded=self._metrics.encoded,
        )
        self._texts = RunTexts(stage, self._events, self._active)
        self._calls = WorkerCalls(
            self._lifecycle.pool,
            self._active.runs,
            self._lifecycle.watch,
            group_timeout_s=config.timeouts.group_s,
            metrics=self._metrics,
            names=TaskNames(os.environ),
            apply=self._events.apply,
            on_worker_ended=self._lifecycle.lost,
            on_prompt_missing=self._texts.missing,
            on_unfit=lambda worker, error: self._lifecycle.unfit(self._machine.host_of(worker), error),
        )
        self._events.connect(
            {
                ev.RenderSegment: self._calls.render,
                ev.FinishFilm: self._calls.finish,
                ev.StopWork: self._calls.stop,
                ev.ReplaceWorker: lambda action: self._lifecycle.pool.replace(action.worker),
                ev.FilmEnded: self._active.film_ended,
                ev.FilmDelayed: self._active.film_delayed,
                ev.HostQuarantined: self._active.host_quarantined,
                ev.HostReleased: self._active.host_released,
                ev.RunEnded: self._active.run_ended,
                ev.RunPaused: self._active.run_paused,
            },
            on_hosts_changed=self._hosts_changed,
        )
        if address != "local":
            forget_requests()
        self._adding = asyncio.Lock()
        self._ticking: asyncio.Task[Any] | None = None

    # --- calls of the driver; `key` is the `RunSpec.key` of its run ---

    async def add_run(
        self,
        spec: RunSpec,
        config: FarmConfig,
        environment: WorkerEnvironment = _NONE,
        observer: ObserverSource | None = None,
    ) -> bool:
        """Take a run on; False when it is being rendered here already. The farm keeps the first environment that it
        gets: an idle one gives way to another (`gives_way_to`).

        A run whose driver died before it was sealed is taken up where that one stopped. Raises `LeaseHeldError` when
        another coordinator owns the run, `UsageError` when the farm's workers are of another kind than it asks for, or
        when the run of this id that is being rendered here is of another manifest.
        """
        async with self._adding:
            known = self._active.runs.get(spec.key)
            if known is not None and known.is_abandoned:
                await known.over.wait()
            if known is not None and not known.is_over:
                spec.check_joins(known.progress.spec)
                known.fed_s = time.monotonic()
                return not known.sealed
            if not self._lifecycle.pool.environment.variables:
                self._lifecycle.pool.environment = environment
                environment.apply()
            await self._reconfigure(config)
            timeouts = config.timeouts
            if self._ticking is None:
                self._ticking = self._events.spawn(self._tick())
            await self._active.take_on(
                replace(spec, observer=observer),
                address=self._address,
                lease_s=timeouts.lease_s,
                patience_s=timeouts.cluster_patience_s,
            )
            run = self._run(spec.key)
            for model, (fingerprint, texts) in spec.texts.items():
                run.texts[model].update(dict.fromkeys(texts))
                run.fingerprints[model] = fingerprint
            return True

    async def _reconfigure(self, config: FarmConfig) -> None:
        """Have the workers that this run asks for, or others that will do."""
        present = self._lifecycle.config
        if config == present or await self._lifecycle.reconfigure(config):
            return
        if (config.device, config.dtype) != (present.device, present.dtype):
            raise UsageError(
                f"the cluster is already rendering another run on {present.device} in {present.dtype}",
                advice="wait until that run has ended, or ask for the same",
            )
        if config.scaling != present.scaling and config.scaling is not None and config.scaling.max_cost is not None:
            raise UsageError(
                f"--max-cost {config.scaling.max_cost:g} cannot be kept: the cluster is already rendering another "
                "run with a different --max-gpus or --max-cost",
                advice="wait until that run has ended, or ask for the same",
            )
        if config.scaling == present.scaling:
            self._lifecycle.grow(config)
        if config.bundle_size > self._lifecycle.config.num_workers:
            raise UsageError(
                f"a film of this run needs {config.bundle_size} workers together, and this cluster has "
                f"{self._lifecycle.config.num_workers}, which another run uses",
                advice="wait until that run has ended",
            )

    async def add_films(
        self,
        key: str,
        entries: list[FilmEntry],
        ended: tuple[Result, ...] = (),
        render_keys: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Add films, and rows that need no work, to a run. False when it takes no more: it is sealed, or stopped."""
        run = self._run(key)
        if run.sealed:
            return False
        run.fed_s = time.monotonic()
        run.add_ended(ended, render_keys)
        films = []
        for entry in entries:
            if entry.task.job_id in run.progress.films:
                continue  # from a driver that died while it added them
            run.progress.add(entry)
            run.texts[entry.task.model].update(dict.fromkeys(entry.texts))
            run.fingerprints[entry.task.model] = entry.task.plan.spec.fingerprint
            clock_ahead_s = time.monotonic() - time.time()
            films.append(scheduled(key, entry, self._lifecycle.config.device, clock_ahead_s=clock_ahead_s))
        self._events.apply(ev.FilmsAdded(films=tuple(films)))
        if run.started:
            for model in {entry.task.model for entry in entries}:
                if model not in run.encoding and not self._machine.is_text_ready(key, model):
                    self._texts.missing(key, model)  # those of its earlier films could not be encoded
        return not (run.progress.stop_reason or self._machine.is_ending(key))

    def _run(self, key: str) -> OwnedRun:
        """KeyError makes a driver add its run again: after a restart of the coordinator, or when the run was given
        up."""
        run = self._active.runs[key]
        if run.is_abandoned:
            raise KeyError(key)
        return run

    async def seal_run(self, key: str, *, more: bool = False) -> None:
        """Encode the prompts and render. No more films come, unless `more` says so: it is called again then."""
        run = self._run(key)
        if run.sealed:
            return
        was_started, run.started, run.sealed = run.started, True, not more
        run.progress.state = State.RUNNING
        if not was_started:
            self._lifecycle.show(run)
        self._seal(run)
        if run.progress.stop_reason:  # it was asked for while the films were coming
            self._events.apply(ev.CancelRun(run_id=key, reason=run.progress.stop_reason))
            return
        if was_started:
            return
        self._events.spawn(self._encode_and_start(run))
        if self._lifecycle.config.device != "cuda":
            self._lifecycle.start()

    async def _encode_and_start(self, run: OwnedRun) -> None:
        await self._texts.encode_all(run)
        self._lifecycle.start()

    def _seal(self, run: OwnedRun) -> None:
        spec, ended = run.progress.spec, run.progress.ended_before.values()
        self._events.apply(
            ev.RunSealed(
                run_id=spec.key,
                max_failed=spec.max_failed,
                failed_before=max(spec.failed_before, sum(result.state == State.FAILED for result in ended)),
                max_workers=spec.max_workers,
                first=spec.first,
                more=not run.sealed,
                cut_short=run.sealed and (run.cut_short or run.progress.num_untold > 0),
                first_failed=sum(result.job_id in spec.first and result.state == State.FAILED for result in ended),
            )
        )

    async def snapshot(self, key: str, after_line: int = 0) -> RunSnapshot:
        """The run now, with the log lines after `after_line`."""
        run = self._run(key)
        run.fed_s = time.monotonic()
        if run.progress.state is State.RUNNING and not self._machine.workers:
            if not run.progress.note or run.progress.note.startswith("starting"):
                run.progress.note = f"starting {self._lifecycle.expected}"
        elif run.progress.note.startswith("starting"):
            run.progress.note = ""
        if not run.progress.note and run.control.paused:
            run.progress.note = _PAUSED
        elif run.progress.note == _PAUSED and not run.control.paused:
            run.progress.note = ""
        return self._active.snapshot(run, after_line=after_line)

    async def cancel_run(self, key: str, reason: str) -> None:
        """Stop a run at its workers' next steps; what is stored stays."""
        run = self._active.runs[key]
        if not run.sealed:
            run.sealed, run.cut_short = True, not run.started
            self._seal(run)
        self._active.stop(run, reason, level="warning")

    async def wait(self, key: str) -> dict[str, int]:
        """Wait until the run is over, its results are written, and its end is reported. Returns jobs by state."""
        run = self._active.runs[key]
        await run.told.wait()
        return run.progress.counts

    async def gives_way_to(self, digest: str) -> bool:
        """Whether a new coordinator, with the environment of `digest`, should take this one's place: it renders
        nothing, and was started with another."""
        return digest != self._digest and not self._active.anything_left and not self._adding.locked()

    async def workers(self) -> dict[str, int]:
        """Process ids of the workers that are up, by name."""
        return self._lifecycle.pool.pids

    async def close(self) -> None:
        """Let workers store the steps of segments that were stopped and remove their temporary files, and end them."""
        stop = time.monotonic() + _STOP_WITHIN_S
        while self._machine.num_rendering and time.monotonic() < stop:
            await asyncio.sleep(_STOPPED_AGAIN_S)
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(self._lifecycle.release(worker) for worker in self._machine.workers))

    def _end(self) -> None:
        """Ray waits for the actors of a node that it drains, `ray start --block` on SIGTERM half a minute."""
        if not self._adding.locked():
            ray.kill(ray.get_runtime_context().current_actor)

    # --- calls of the workers ---

    async def step_done(self, call_id: int, step: int, num_steps: int) -> None:
        """A segment made a step."""
        self._calls.stepped(call_id, step, num_steps)

    async def still_at_work(self, call_id: int) -> None:
        """A film that is being finished has written something."""
        self._lifecycle.watch.alive(call_id, time.monotonic())

    async def encoded(self) -> None:
        """The process that encodes prompts has encoded some."""
        self._lifecycle.pool.texts.sign(time.monotonic())

    async def previewed(self, news: PreviewNews) -> None:
        """A film can be watched a segment further."""
        run = self._active.runs.get(run_key(news.output, news.run_id))
        if run is not None and not run.is_over:
            run.progress.previewed(news)

    async def on_sigterm(self, worker: str) -> None:
        """A worker's process got a SIGTERM."""
        await self._draining.on_sigterm(worker)

    # --- time ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._active.drop_abandoned(now, self._lifecycle.config.timeouts.lease_s)
            self._lifecycle.end_silent(now)
            self._lifecycle.release_unneeded(now)
            self._draining.check(now)
            self._quarantines.check(now)
            self._waiting.check(now)
            self._scaling.check(now)
            self._events.apply(ev.Tick())
            self._metrics.sample(
                self._active.runs,
                self._machine,
                now=now,
                now_unix_s=time.time(),
                num_preparing=self._lifecycle.watch.num_preparing,
            )
            self._active.look_after(now)

    def _hosts_changed(self) -> None:
        """Quarantines outlive the coordinator, and no worker is started where they hold."""
        self._lifecycle.pool.avoid_hosts(self._machine.hosts.quarantined)
        self._active.hosts_changed()
