"""The coordinator's calls, without Ray: what they need of it begins with a run's first worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from render_farm.errors import UsageError
from render_farm.farm.coordinator.actor import Coordinator
from render_farm.farm.run.spec import FarmConfig, RunSpec
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.scaling import ScaleLimits

SHAPE = FarmConfig(num_workers=1, device="cpu")


def test_runs_of_one_id_in_two_outputs_are_two_runs(tmp_path):
    specs = [RunSpec(run_id="night", output=str(tmp_path / name)) for name in "ab"]

    async def add() -> None:
        coordinator = Coordinator.__ray_metadata__.modified_class(SHAPE, "local")
        for spec in specs:
            assert await coordinator.add_run(spec, SHAPE)
        await coordinator.cancel_run(specs[0].key, "asked to")
        assert await asyncio.wait_for(coordinator.wait(specs[0].key), 20) == {}
        states = [(await coordinator.snapshot(spec.key)).state for spec in specs]
        assert states == ["done", "waiting"], "nothing was to be cancelled"
        await coordinator.cancel_run(specs[1].key, "asked to")
        await asyncio.wait_for(coordinator.wait(specs[1].key), 20)

    asyncio.run(add())


def test_only_a_command_that_asks_for_the_same_joins_a_run(tmp_path):
    def spec(manifest: str, keep_latents: bool = False) -> RunSpec:
        return RunSpec(run_id="night", output=str(tmp_path), manifest_sha256=manifest, keep_latents=keep_latents)

    async def add() -> None:
        coordinator = Coordinator.__ray_metadata__.modified_class(SHAPE, "local")
        assert await coordinator.add_run(spec("a"), SHAPE)
        with pytest.raises(UsageError, match="run night is being rendered from another manifest"):
            await coordinator.add_run(spec("b"), SHAPE)
        with pytest.raises(UsageError, match="run night is being rendered without --keep-latents"):
            await coordinator.add_run(spec("a", keep_latents=True), SHAPE)
        assert await coordinator.add_run(spec("a"), SHAPE), "it is not sealed: whoever comes adds its films"
        await coordinator.cancel_run(spec("a").key, "asked to")
        await asyncio.wait_for(coordinator.wait(spec("a").key), 20)
        assert await coordinator.add_run(spec("b"), SHAPE), "the run has ended: its id is free for another manifest"
        await coordinator.cancel_run(spec("b").key, "asked to")
        await asyncio.wait_for(coordinator.wait(spec("b").key), 20)

    asyncio.run(add())


def test_a_run_beside_another_has_the_workers_it_asks_for_or_is_refused(tmp_path):
    busy, beside = (RunSpec(run_id="night", output=str(tmp_path / name)) for name in "ab")
    budget = ScaleLimits(max_workers=8, max_cost=10.0, price_per_hour=3.0)

    async def add() -> None:
        coordinator = Coordinator.__ray_metadata__.modified_class(SHAPE, "local")
        assert await coordinator.add_run(busy, SHAPE)
        with pytest.raises(UsageError, match="needs 4 workers together, and this cluster's farm has 1"):
            await coordinator.add_run(beside, replace(SHAPE, num_workers=4, bundle_size=4))
        with pytest.raises(UsageError, match="--max-cost 10 cannot be kept"):
            await coordinator.add_run(beside, replace(SHAPE, scaling=budget))
        assert await coordinator.add_run(beside, replace(SHAPE, num_workers=3))
        assert coordinator._lifecycle.config.num_workers == 3
        for spec in (busy, beside):
            await coordinator.cancel_run(spec.key, "asked to")
            await asyncio.wait_for(coordinator.wait(spec.key), 20)

    asyncio.run(add())


def test_a_worker_that_was_asked_to_end_goes_when_it_has_no_work(monkeypatch):
    idle: list[str] = []
    monkeypatch.setattr(FarmMachine, "idle_workers", property(lambda machine: tuple(idle)))

    async def ask() -> None:
        coordinator = Coordinator.__ray_metadata__.modified_class(SHAPE, "local")
        draining, machine = coordinator._draining, coordinator._machine
        draining._looked_s = float("inf")  # there is no Ray to ask
        for worker in ("busy", "other"):
            machine.apply(ev.WorkerUp(worker=worker, host="h"), 0.0)
        await coordinator.on_sigterm("busy")
        draining.check(0.0)
        await asyncio.sleep(0)
        assert machine.workers == ("busy", "other")
        idle.extend(["busy", "other"])
        draining.check(0.5)
        await asyncio.sleep(0.1)
        assert machine.workers == ("other",)

    asyncio.run(ask())
