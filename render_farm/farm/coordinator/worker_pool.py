"""The coordinator's worker processes: starting them, replacing them, and the text encoder's turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import ray

from render_farm.farm.ray_cluster.placement_groups import PlacementGroups
from render_farm.farm.run.spec import FarmShape
from render_farm.farm.worker.actor import RenderWorker
from render_farm.farm.worker.text_worker import TextReport, TextWorker

_START_ATTEMPTS = 3
_CONCURRENT_CALLS = 8
_CLOSE_S = 5.0


class WorkerPool:
    """Keeps `shape.num_workers` workers alive from the first `start` on, or fewer (`limit`). A restarted worker has a
    new name."""

    def __init__(
        self,
        shape: FarmShape,
        *,
        on_up: Callable[[str, str], None],
        on_cannot_start: Callable[[str], None],
        work_for: Callable[[], str],
    ) -> None:
        """`work_for` names the runs that a worker is started for."""
        self.adopt(shape)
        self._on_up = on_up
        self._on_cannot_start = on_cannot_start
        self._work_for = work_for
        self._handles: dict[str, Any] = {}
        self._places: dict[int, str] = {}
        self._generation = 0
        self._failed_starts = 0
        self._tasks: set[asyncio.Task] = set()
        self._avoided: frozenset[str] = frozenset()
        """Hosts on which no worker is started."""
        self.limit: int | None = None
        """No more workers than this are started; None: `shape.num_workers` alone counts."""
        self.pids: dict[str, int] = {}
        self.nodes: dict[str, str] = {}
        """Ids of their nodes, by worker."""

    def adopt(self, shape: FarmShape) -> None:
        """Start workers as `shape` says from now on. Only while there are none."""
        self._shape = shape
        resources = {"CPU": shape.cpus_per_worker, "GPU": shape.gpus_per_worker}
        self._packs = PlacementGroups(size=shape.bundle_size, num_slots=shape.num_workers, resources=resources)

    def grow(self, shape: FarmShape) -> None:
        """Have more places from the next `start` on; those of `shape` are as the present ones, and in no packs."""
        self._shape = shape

    def avoid_hosts(self, hosts: Iterable[str]) -> None:
        """Start no worker on these hosts from now on."""
        self._avoided = frozenset(hosts)

    @property
    def device(self) -> str:
        return self._shape.device

    @property
    def num_places_taken(self) -> int:
        return len(self._places)

    def has(self, worker: str) -> bool:
        return worker in self._handles

    def handle(self, worker: str) -> Any:
        """The Ray actor of a worker that is up."""
        return self._handles[worker]

    def start(self) -> None:
        """Start a worker in every place that has none, as far as the limit allows."""
        most = self._shape.num_workers if self.limit is None else min(self.limit, self._shape.num_workers)
        for place in range(self._shape.num_workers):
            if len(self._places) >= most:
                return
            if place not in self._places:
                self._generation += 1
                name = f"worker-{place}.{self._generation}"
                self._places[place] = name
                task = asyncio.create_task(self._start(name, place))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _start(self, name: str, place: int) -> None:
        shape = self._shape
        me = ray.get_runtime_context().current_actor
        actor = RenderWorker.options(  # type: ignore[attr-defined]
            num_cpus=shape.cpus_per_worker,
            num_gpus=shape.gpus_per_worker,
            max_concurrency=_CONCURRENT_CALLS,
            **await asyncio.to_thread(self._where, place),
        ).remote(
            name,
            me,
            runs=self._work_for(),
            device=shape.device,
            dtype=shape.dtype,
            num_threads=shape.num_threads,
            cache_folder=shape.model_cache,
            options=shape.engine,
        )
        try:
            where = await asyncio.wait_for(actor.ready.remote(), shape.timeouts.worker_start_s)
        except (TimeoutError, ray.exceptions.RayError) as error:
            self._failed_starts += 1
            missing = await asyncio.to_thread(self._packs.what_is_missing, place)
            reason = (
                missing or " ".join(str(error).split())[-400:] or f"no answer in {shape.timeouts.worker_start_s:g} s"
            )
            self._places.pop(place, None)
            ray.kill(actor)
            self._packs.release_unused(tuple(self._places))
            if self._failed_starts >= _START_ATTEMPTS and not self._handles:
                self._failed_starts = 0
                self._on_cannot_start(f"workers cannot be started: {reason}")
            else:
                await asyncio.sleep(1.0)
                self.start()
            return
        self._failed_starts = 0
        self._handles[name] = actor
        self.pids[name], self.nodes[name] = where["pid"], where["node"]
        self._on_up(name, await asyncio.to_thread(_host_of, where["node"]))

    def _where(self, place: int) -> dict[str, Any]:
        """Options that keep an actor with those of its render group, and off the avoided hosts."""
        nodes = [node["NodeID"] for node in ray.nodes() if node["NodeName"] in self._avoided] if self._avoided else []
        return self._packs.options(place, avoided_nodes=nodes)

    def forget(self, worker: str, *, kill: bool = False) -> bool:
        """Free the place of a worker whose process ended; False when that is known already."""
        actor = self._handles.pop(worker, None)
        if actor is None:
            return False
        if kill:
            ray.kill(actor)
        self.pids.pop(worker, None)
        self.nodes.pop(worker, None)
        for place, name in list(self._places.items()):
            if name == worker:
                del self._places[place]
        self._packs.release_unused(tuple(self._places))
        return True

    def kill(self, worker: str) -> None:
        """End a process at once; its calls then fail with `RayActorError`."""
        ray.kill(self._handles[worker])

    async def drop_films(self, worker: str) -> None:
        """Have an idle worker remove its films' temporary files."""
        with contextlib.suppress(TimeoutError, ray.exceptions.RayError):  # that it ended is noticed with its next work
            await asyncio.wait_for(self._handles[worker].drop_films.remote(), _CLOSE_S)

    async def end(self, worker: str) -> None:
        """Let a worker that has nothing to do go."""
        actor = self._handles.get(worker)
        if actor is not None and self.forget(worker):
            await self._close(actor)

    async def replace(self, worker: str) -> None:
        """End a worker and start a fresh one in its place, which does not wait for the end of one that hangs: what that
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

    async def encode(self, *, model: str, output: str, run_id: str, texts: list[str]) -> TextReport:
        """Encode prompts in a process that ends afterwards, and the encoder with it."""
        shape = self._shape
        # No CPU is reserved: the workers may hold them all, and wait for what this one makes.
        actor = TextWorker.options(  # type: ignore[attr-defined]
            num_cpus=0, num_gpus=shape.gpus_per_worker, **self._packs.spare(tuple(self._places))
        ).remote()
        try:
            return await actor.encode.remote(
                model=model,
                device=shape.device,
                dtype=shape.dtype,
                output=output,
                run_id=run_id,
                texts=texts,
                cache_folder=shape.model_cache,
            )
        finally:
            ray.kill(actor)


def _host_of(node_id: str) -> str:
    """The name of a node (`ray start --node-name`, else its address), which outlives its raylet."""
    return next((str(node["NodeName"]) for node in ray.nodes() if node["NodeID"] == node_id), node_id)
