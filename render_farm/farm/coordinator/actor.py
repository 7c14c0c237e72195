"""The coordinator: one Ray actor a cluster that drives the scheduling machine.

It turns what happens (workers answer, die, report steps) into events, and the machine's actions into calls. Runs are
added to it; each is owned through its lease, so that two clusters never render the same run at once. Nothing durable
lives here: what is finished lies in storage, and whoever starts next reads it there.
"""

from __future__ import annotations

import asyncio
import os
import time

import ray

from render_farm.errors import UsageError
from render_farm.farm.coordinator.event_loop import EventLoop
from render_farm.farm.coordinator.metrics import FarmMetrics
from render_farm.farm.coordinator.run_texts import RunTexts
from render_farm.farm.coordinator.runs import ActiveRuns
from render_farm.farm.coordinator.text_stage import TextStage
from render_farm.farm.coordinator.worker_calls import WorkerCalls
from render_farm.farm.coordinator.worker_lifecycle import WorkerLifecycle
from render_farm.farm.ray_cluster.ray_metrics import RayMetrics
from render_farm.farm.ray_cluster.task_names import TaskNames
from render_farm.farm.run.film_task import PreviewNews
from render_farm.farm.run.owned_run import OwnedRun
from render_farm.farm.run.scheduled_film import scheduled
from render_farm.farm.run.spec import FarmShape, FilmEntry, RunSpec, run_key
from render_farm.observability.snapshot import RunSnapshot
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.states import State

NAME = "coordinator"
_TICK_S = 0.5
_PAUSED = "paused"


@ray.remote(num_cpus=0, max_restarts=0)
class Coordinator:
    """See the module. An asynchronous actor: its methods interleave only where they await."""

    def __init__(self, shape: FarmShape, address: str, environment: str = "") -> None:
        self._address = address
        self._environment = environment
        self._machine = FarmMachine(shape.policy, scheduling=shape.scheduling)
        self._metrics = FarmMetrics(RayMetrics())
        self._dispatch = EventLoop(self._machine, self._metrics, on_mistake=lambda text: self._keeper.stop_all(text))
        self._keeper = ActiveRuns(
            self._dispatch,
            self._metrics,
            device=lambda: self._crew.shape.device,
            on_all_over=lambda: self._crew.on_idle(),
        )
        self._crew = WorkerLifecycle(shape, self._dispatch, self._keeper, self._metrics, on_not_needed=self._end)
        stage = TextStage(
            self._crew.pool,
            shape.policy,
            takes_a_place=shape.device == "cuda",
            free_slot=self._crew.free_slot,
            on_encoded=self._metrics.encoded,
        )
        self._texts = RunTexts(stage, self._dispatch, self._keeper)
        self._errands = WorkerCalls(
            self._crew.pool,
            self._keeper.runs,
            self._crew.watch,
            group_timeout_s=shape.timeouts.group_s,
            metrics=self._metrics,
            names=TaskNames(os.environ),
            apply=self._dispatch.apply,
            on_worker_ended=self._crew.lost,
            on_prompt_missing=self._texts.missing,
        )
        self._dispatch.connect(
            {
                ev.RenderSegment: self._errands.render,
                ev.FinishFilm: self._errands.finish,
                ev.StopWork: self._errands.stop,
                ev.ReplaceWorker: lambda action: self._crew.pool.replace(action.worker),
                ev.FilmEnded: self._keeper.film_ended,
                ev.FilmDelayed: self._keeper.film_delayed,
                ev.HostQuarantined: self._keeper.host_quarantined,
                ev.RunEnded: self._keeper.run_ended,
            },
            on_hosts_changed=self._hosts_changed,
        )
        self._adding = asyncio.Lock()
        self._ticking: asyncio.Task | None = None

    # --- calls of the driver; `key` is the `RunSpec.key` of its run ---

    async def add_run(self, spec: RunSpec, shape: FarmShape) -> bool:
        """Take a run on; False when it is being rendered here already.

        A run whose driver died before it was sealed is taken up where that one stopped. Raises `LeaseHeldError` when
        another coordinator owns the run, `UsageError` when the farm's workers are of another kind than it asks for, or
        when the run of this id that is being rendered here is of another manifest.
        """
        async with self._adding:
            known = self._keeper.runs.get(spec.key)
            if known is not None and not known.is_over:
                spec.check_joins(known.record.spec)
                return not known.sealed
            await self._adopt(shape)
            timeouts = shape.timeouts
            await self._keeper.take_on(
                spec, address=self._address, lease_s=timeouts.lease_s, patience_s=timeouts.cluster_patience_s
            )
            return True

    async def _adopt(self, shape: FarmShape) -> None:
        """Have workers as this run asks for them, or others that will do."""
        present = self._crew.shape
        if shape == present or await self._crew.adopt(shape):
            return
        if (shape.device, shape.dtype) != (present.device, present.dtype):
            raise UsageError(
                f"this cluster's farm renders on {present.device} in {present.dtype} for another run",
                advice="wait until that one is over, or ask for the same",
            )
        if shape.scaling != present.scaling and shape.scaling is not None and shape.scaling.max_cost is not None:
            raise UsageError(
                f"--max-cost {shape.scaling.max_cost:g} cannot be kept: this cluster's farm is at work for another "
                "run, which has not the same --max-gpus and --max-cost",
                advice="wait until that one is over, or ask for the same",
            )
        if shape.scaling == present.scaling:
            self._crew.grow(shape)
        if shape.bundle_size > self._crew.shape.num_workers:
            raise UsageError(
                f"a film of this run needs {shape.bundle_size} workers together, and this cluster's farm has "
                f"{self._crew.shape.num_workers} for another run",
                advice="wait until that one is over",
            )

    async def add_films(self, key: str, entries: list[FilmEntry]) -> None:
        """Add films to a run that is not sealed yet."""
        run = self._keeper.runs[key]
        films = []
        for entry in entries:
            if entry.task.job_id in run.record.films:
                continue  # from a driver that died while it added them
            run.record.add(entry)
            run.texts[entry.task.model].update(dict.fromkeys(entry.texts))
            run.fingerprints[entry.task.model] = entry.task.plan.spec.fingerprint
            clock_ahead_s = time.monotonic() - time.time()
            films.append(scheduled(key, entry, self._crew.shape.device, clock_ahead_s=clock_ahead_s))
        self._dispatch.apply(ev.FilmsAdded(films=tuple(films)))

    async def seal_run(self, key: str) -> None:
        """No more films come: encode the prompts and render."""
        run = self._keeper.runs[key]
        if run.sealed:
            return
        run.sealed = True
        run.record.state = State.RUNNING
        self._crew.show(run)
        if self._ticking is None:
            self._ticking = self._dispatch.spawn(self._tick())
        self._dispatch.spawn(self._encode_and_start(run))
        if self._crew.shape.device != "cuda":
            self._crew.start()
        self._seal(run)

    async def _encode_and_start(self, run: OwnedRun) -> None:
        await self._texts.encode_all(run)
        self._crew.start()

    def _seal(self, run: OwnedRun) -> None:
        spec = run.record.spec
        self._dispatch.apply(
            ev.RunSealed(
                run_id=spec.key,
                max_failed=spec.max_failed,
                failed_before=spec.failed_before,
                max_workers=spec.max_workers,
            )
        )

    async def snapshot(self, key: str, after_line: int = 0) -> RunSnapshot:
        """The run now, with the log lines after `after_line`."""
        run = self._keeper.runs[key]
        if run.record.state is State.RUNNING and not self._machine.workers:
            if not run.record.note or run.record.note.startswith("starting"):
                run.record.note = f"starting {self._crew.expected}"
        elif run.record.note.startswith("starting"):
            run.record.note = ""
        if not run.record.note and run.control.paused:
            run.record.note = _PAUSED
        elif run.record.note == _PAUSED and not run.control.paused:
            run.record.note = ""
        return self._keeper.snapshot(run, after_line=after_line)

    async def cancel_run(self, key: str, reason: str) -> None:
        """Stop a run at its workers' next steps; what is stored stays."""
        run = self._keeper.runs[key]
        self._keeper.stop(run, reason, level="warning")
        if not run.sealed:
            run.sealed = True
            self._seal(run)

    async def wait(self, key: str) -> dict[str, int]:
        """Wait until the run is over and its results are written; jobs by state."""
        run = self._keeper.runs[key]
        await run.over.wait()
        return run.record.counts

    async def gives_way_to(self, environment: str) -> bool:
        """Whether a new coordinator with `environment` should take this one's place: it renders nothing, and was
        started with another."""
        return environment != self._environment and not self._keeper.anything_left and not self._adding.locked()

    async def workers(self) -> dict[str, int]:
        """Process ids of the workers that are up, by name."""
        return self._crew.pool.pids

    async def close(self) -> None:
        """Let workers remove their temporary files, and end them."""
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(self._crew.let_go(worker) for worker in self._machine.workers))

    def _end(self) -> None:
        """Ray waits for the actors of a node that it drains, `ray start --block` on SIGTERM half a minute."""
        if not self._adding.locked():
            ray.kill(ray.get_runtime_context().current_actor)

    # --- calls of the workers ---

    async def step_done(self, work: int, step: int, num_steps: int) -> None:
        """A segment made a step."""
        self._errands.stepped(work, step, num_steps)

    async def still_finishing(self, work: int) -> None:
        """A film that is being finished has written something."""
        self._crew.watch.alive(work, time.monotonic())

    async def previewed(self, news: PreviewNews) -> None:
        """A film can be watched a segment further."""
        run = self._keeper.runs.get(run_key(news.output, news.run_id))
        if run is not None and not run.is_over:
            run.record.previewed(news)

    async def on_sigterm(self, worker: str) -> None:
        """A worker's process got a SIGTERM."""
        await self._crew.on_sigterm(worker)

    # --- time ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._crew.end_silent(now)
            self._crew.check_drains(now)
            self._crew.scale(now)
            self._dispatch.apply(ev.Tick())
            self._metrics.sample(
                self._keeper.runs,
                self._machine,
                now=now,
                now_unix_s=time.time(),
                num_preparing=self._crew.watch.num_preparing,
            )
            self._keeper.look_after(now)

    def _hosts_changed(self) -> None:
        """Quarantines outlive the coordinator, and no worker is started where they hold."""
        self._crew.pool.avoid_hosts(self._machine.hosts.quarantined)
        self._keeper.hosts_changed()
