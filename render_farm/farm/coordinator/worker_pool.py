"""The coordinator's worker processes: starting them, replacing them, and the text encoder's turn."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray

from render_farm.errors import HostUnfitError, StorageError, WorkerDiedError
from render_farm.farm.coordinator.hang_watch import TextWatch
from render_farm.farm.ray_cluster.environment import WorkerEnvironment
from render_farm.farm.ray_cluster.placement_groups import PlacementGroups
from render_farm.farm.run.spec import FarmConfig, RunSpec
from render_farm.farm.worker.actor import RenderWorker
from render_farm.farm.worker.text_worker import TextReport, TextWorker

_START_ATTEMPTS = 3
_CONCURRENT_CALLS = 8
_CLOSE_S = 5.0
_LOOK_EVERY_S = 1.0
_PROBE_S = 20.0
_PROBE_AGAIN_S = 10.0
_ADDRESS = re.compile(r"\bip: ?([0-9a-f.:]+)", re.IGNORECASE)
"""Where the process was that Ray tells of."""


class WorkerPool:
    """Keeps `config.num_workers` workers alive from the first `start` on, or fewer (`limit`). A restarted worker has a
    new name."""

    def __init__(
        self,
        config: FarmConfig,
        *,
        on_up: Callable[[str, str], None],
        on_start_failed: Callable[[str, str], None],
        on_unfit: Callable[[str, BaseException], None],
        on_cannot_start: Callable[[str], None],
        work_for: Callable[[], str],
        outputs: Callable[[], list[str]],
    ) -> None:
        """`on_start_failed` gets the host of a failed start, empty where it is unknown, and the reason; `on_unfit` the
        host of a worker that fails its probe, and its error; `on_cannot_start` the reason, when no worker is up and
        none can be started. `work_for` names the runs that a worker is started for, `outputs` where they go."""
        self.reconfigure(config)
        self._on_up = on_up
        self._on_start_failed = on_start_failed
        self._on_unfit = on_unfit
        self._on_cannot_start = on_cannot_start
        self.environment = WorkerEnvironment()
        """Of every process that is started."""
        self._outputs = outputs
        self.texts = TextWatch()
        self.last_problem = ""
        """Why the last start of a worker failed. Empty when it did not."""
        self._work_for = work_for
        self._handles: dict[str, Any] = {}
        self._slots: dict[int, str] = {}
        self._generation = 0
        self._failed_starts = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starting: dict[str, asyncio.Future[Any]] = {}
        """Workers that are not up yet."""
        self._avoided: frozenset[str] = frozenset()
        """Hosts on which no worker is started."""
        self.limit: int | None = None
        """No more workers than this are started; None: `config.num_workers` alone counts."""
        self.pids: dict[str, int] = {}
        self.nodes: dict[str, str] = {}
        """Ids of their nodes, by worker."""

    def reconfigure(self, config: FarmConfig) -> None:
        """Start workers as `config` says from now on. Only while there are none."""
        self._config = config
        resources = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
        self._placement = PlacementGroups(size=config.bundle_size, num_slots=config.num_workers, resources=resources)

    def grow(self, config: FarmConfig) -> None:
        """Have more slots from the next `start` on. They are like the present ones, and in no placement group."""
        self._config = config

    def avoid_hosts(self, hosts: Iterable[str]) -> None:
        """Start no worker on these hosts from now on."""
        self._avoided = frozenset(hosts)

    @property
    def device(self) -> str:
        return self._config.device

    @property
    def num_slots_taken(self) -> int:
        return len(self._slots)

    def has(self, worker: str) -> bool:
        return worker in self._handles

    def handle(self, worker: str) -> Any:
        """The Ray actor of a worker that is up."""
        return self._handles[worker]

    def start(self) -> None:
        """Start a worker in every slot that has none, as far as the limit allows."""
        most = self._config.num_workers if self.limit is None else min(self.limit, self._config.num_workers)
        for slot in range(self._config.num_workers):
            if len(self._slots) >= most:
                return
            if slot not in self._slots:
                self._generation += 1
                name = f"worker-{slot}.{self._generation}"
                self._slots[slot] = name
                task = asyncio.create_task(self._start(name, slot))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _start(self, name: str, slot: int) -> None:
        config = self._config
        me = ray.get_runtime_context().current_actor
        actor = RenderWorker.options(  # type: ignore[attr-defined]
            num_cpus=config.cpus_per_worker,
            num_gpus=config.gpus_per_worker,
            max_concurrency=_CONCURRENT_CALLS,
            **await asyncio.to_thread(self._where, slot),
        ).remote(
            name,
            me,
            runs=self._work_for(),
            device=config.device,
            dtype=config.dtype,
            num_threads=config.num_threads,
            cache_folder=config.model_cache,
            options=config.engine,
        )
        ready = asyncio.ensure_future(
            asyncio.wait_for(actor.ready.remote(self.environment, self._outputs()), config.timeouts.worker_start_s)
        )
        self._starting[name] = ready
        try:
            where = await ready
            if not await self._becomes_fit(actor, await asyncio.to_thread(_host_of, where["node"]), where["unfit"]):
                self._give_up(actor, slot)
                if self._work_for():
                    self.start()
                return
        except asyncio.CancelledError:
            self._give_up(actor, slot)
            return
        except (TimeoutError, ray.exceptions.RayError) as error:
            self._failed_starts += 1
            missing = await asyncio.to_thread(self._placement.what_is_missing, slot)
            reason = (
                missing or " ".join(str(error).split())[-400:] or f"no answer in {config.timeouts.worker_start_s:g} s"
            )
            self._give_up(actor, slot)
            self.last_problem = reason
            self._on_start_failed(await asyncio.to_thread(_host_in, str(error)), reason)
            if self._failed_starts >= _START_ATTEMPTS and not self._handles:
                self._failed_starts = 0
                self._on_cannot_start(f"workers cannot be started: {reason}")
            else:
                await asyncio.sleep(1.0)
                if self._work_for():
                    self.start()
            return
        finally:
            del self._starting[name]
        self._failed_starts, self.last_problem = 0, ""
        self._handles[name] = actor
        self.pids[name], self.nodes[name] = where["pid"], where["node"]
        self._on_up(name, await asyncio.to_thread(_host_of, where["node"]))

    async def _becomes_fit(self, actor: Any, host: str, error: BaseException | None) -> bool:
        """Probe the machine of a worker that is to come up again until it is fit. `error` is what the first probe said.
        False when the machine gets no work any more."""
        gives_up_s = time.monotonic() + self._config.policy.patience_s
        while error is not None:
            self.last_problem = f"on host {host}: {error}"
            self._on_unfit(host, error)
            if isinstance(error, StorageError):
                return True  # most often it is everybody's, and its films wait for it
            if not self._work_for() or host in self._avoided:
                return False
            if time.monotonic() > gives_up_s and not self._handles:
                self._on_cannot_start(f"workers cannot be started: {self.last_problem}")
                return False
            await asyncio.sleep(_PROBE_AGAIN_S)
            error = await self._probe(actor)
        return True

    async def _probe(self, actor: Any) -> BaseException | None:
        """Why the machine of a worker is not fit for work; None when it is, or does not say so in time."""
        try:
            await asyncio.wait_for(actor.probe.remote(self._outputs()), _PROBE_S)
        except TimeoutError:
            return None
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", error)
            return cause if isinstance(cause, HostUnfitError | StorageError) else None
        return None

    async def probe(self, worker: str) -> BaseException | None:
        """The same of a worker that is up. None, too, when its process has ended."""
        try:
            return await self._probe(self._handles[worker]) if worker in self._handles else None
        except ray.exceptions.RayError:
            return None

    def _give_up(self, actor: Any, slot: int) -> None:
        self._slots.pop(slot, None)
        ray.kill(actor)
        self._placement.release_unused(tuple(self._slots))

    def stop_starting(self) -> None:
        """Give up the workers that are not up yet. Otherwise Ray would keep looking for machines for them."""
        for ready in self._starting.values():
            ready.cancel()

    def _where(self, slot: int) -> dict[str, Any]:
        """Options that keep an actor with those of its render group, and off the avoided hosts."""
        nodes = [node["NodeID"] for node in _nodes() if node["NodeName"] in self._avoided] if self._avoided else []
        return self._placement.options(slot, avoided_nodes=nodes)

    def forget(self, worker: str, *, kill: bool = False) -> bool:
        """Free the slot of a worker whose process ended; False when that is known already."""
        actor = self._handles.pop(worker, None)
        if actor is None:
            return False
        if kill:
            ray.kill(actor)
        self.pids.pop(worker, None)
        self.nodes.pop(worker, None)
        for slot, name in list(self._slots.items()):
            if name == worker:
                del self._slots[slot]
        self._placement.release_unused(tuple(self._slots))
        return True

    def kill(self, worker: str) -> None:
        """End a process at once; its calls then fail (`deaths.is_death`)."""
        ray.kill(self._handles[worker])

    async def drop_films(self, worker: str) -> None:
        """Have an idle worker remove its films' temporary files."""
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):  # that it ended is noticed with its next work
            await asyncio.wait_for(self._handles[worker].drop_films.remote(), _CLOSE_S)

    async def end(self, worker: str) -> None:
        """End a worker that has nothing to do."""
        actor = self._handles.get(worker)
        if actor is not None and self.forget(worker):
            await self._close(actor)

    async def replace(self, worker: str) -> None:
        """End a worker and start a fresh one in its slot, which does not wait for the end of one that hangs: what that
        one has reserved, Ray gives it when it is free."""
        actor = self._handles.get(worker)
        was_there = self.forget(worker)
        self.start()
        if was_there:
            await self._close(actor)

    async def _close(self, actor: Any) -> None:
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):  # it is ended all the same
            await asyncio.wait_for(actor.close.remote(), _CLOSE_S)
        ray.kill(actor)

    async def encode(self, spec: RunSpec, *, model: str, texts: list[str]) -> TextReport:
        """Encode prompts of a run in a process that ends afterwards, and the encoder with it."""
        config = self._config
        actor = await self._ready_encoder()
        try:
            self.texts.begin(time.monotonic())
            call = asyncio.ensure_future(
                actor.encode.remote(
                    model=model,
                    is_named=model != spec.default_model,
                    limits=spec.limits,
                    device=config.device,
                    dtype=config.dtype,
                    output=spec.output,
                    run_id=spec.run_id,
                    texts=texts,
                    cache_folder=config.model_cache,
                    coordinator=ray.get_runtime_context().current_actor,
                )
            )
            while not (await asyncio.wait([call], timeout=_LOOK_EVERY_S))[0]:
                problem = self.texts.silent(time.monotonic(), config.timeouts)
                if problem:
                    call.cancel()
                    raise WorkerDiedError(f"the process that encodes the prompts {problem}; it is killed")
            report: TextReport = await call
            return report
        finally:
            ray.kill(actor)

    async def _ready_encoder(self) -> Any:
        """A process that encodes prompts, which the caller kills. It may take any number of them: Ray does not say
        whether one hangs or its machine has yet to come."""
        config = self._config
        while True:
            # No CPU is reserved: the workers may hold them all, and wait for what this one makes.
            actor = TextWorker.options(  # type: ignore[attr-defined]
                num_cpus=0, num_gpus=config.gpus_per_worker, **self._placement.spare(tuple(self._slots))
            ).remote()
            is_ready = False
            try:
                await asyncio.wait_for(actor.ready.remote(self.environment), config.timeouts.worker_start_s)
                is_ready = True
                return actor
            except TimeoutError:
                seconds = config.timeouts.worker_start_s
                self._on_start_failed("", f"the one that encodes the prompts gave no answer in {seconds:g} s")
            finally:
                if not is_ready:
                    ray.kill(actor)


def _host_of(node_id: str) -> str:
    """The name of a node (`ray start --node-name`, else its address), which outlives its raylet."""
    return next((str(node["NodeName"]) for node in _nodes() if node["NodeID"] == node_id), node_id)


def _host_in(text: str) -> str:
    """The host that Ray names in what it says of a process. Empty when it names none, or several have the address."""
    found = _ADDRESS.search(text)
    hosts = {str(node["NodeName"]) for node in _nodes() if found and node["NodeManagerAddress"] == found[1]}
    return hosts.pop() if len(hosts) == 1 else ""


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found
