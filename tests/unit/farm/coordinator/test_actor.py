"""The coordinator's calls, without Ray: what they need of it begins with a run's first worker."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from render_farm.errors import UsageError
from render_farm.farm.coordinator.actor import Coordinator
from render_farm.farm.coordinator.worker_pool import WorkerPool
from render_farm.farm.run.results import Result
from render_farm.farm.run.spec import FarmConfig, RunSpec
from render_farm.farm.run.timeouts import Timeouts
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.scaling import ScaleLimits
from render_farm.scheduling.states import State
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import read_lease
from render_farm.storage.mailbox import Request, Verb
from render_farm.storage.open import open_store
from render_farm.storage.run_state import load_run_state
from tests.helpers.film_entries import entry

SHAPE = FarmConfig(num_workers=1, device="cpu")


def new_coordinator(config: FarmConfig = SHAPE) -> Any:
    coordinator = Coordinator.__ray_metadata__.modified_class(config, "local")
    coordinator._draining._looked_s = float("inf")  # there is no Ray to ask
    return coordinator


def test_runs_of_one_id_in_two_outputs_are_two_runs(tmp_path):
    specs = [RunSpec(run_id="night", output=str(tmp_path / name)) for name in "ab"]

    async def add() -> None:
        coordinator = new_coordinator()
        for spec in specs:
            assert await coordinator.add_run(spec, SHAPE)
        await coordinator.cancel_run(specs[0].key, "asked to")
        assert await asyncio.wait_for(coordinator.wait(specs[0].key), 20) == {}
        states = [(await coordinator.snapshot(spec.key)).state for spec in specs]
        assert states == ["cancelled", "waiting"]
        await coordinator.cancel_run(specs[1].key, "asked to")
        await asyncio.wait_for(coordinator.wait(specs[1].key), 20)

    asyncio.run(add())


def test_only_a_command_that_asks_for_the_same_joins_a_run(tmp_path):
    def spec(manifest: str, keep_latents: bool = False) -> RunSpec:
        return RunSpec(run_id="night", output=str(tmp_path), manifest_sha256=manifest, keep_latents=keep_latents)

    async def add() -> None:
        coordinator = new_coordinator()
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
        coordinator = new_coordinator()
        assert await coordinator.add_run(busy, SHAPE)
        with pytest.raises(UsageError, match="needs 4 workers together, and this cluster has 1"):
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
        coordinator = new_coordinator()
        draining, machine = coordinator._draining, coordinator._machine
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


@pytest.mark.slow
def test_a_run_whose_command_died_while_it_added_it_is_given_up_and_may_be_added_again(tmp_path):
    spec, impatient = RunSpec(run_id="night", output=str(tmp_path)), replace(SHAPE, timeouts=Timeouts(lease_s=0.4))

    async def add() -> None:
        coordinator = new_coordinator(impatient)
        assert await coordinator.add_run(spec, impatient)
        await coordinator.add_films(spec.key, [entry("a", tmp_path)])
        await asyncio.wait_for(coordinator.wait(spec.key), 20)
        store, keys = open_store(tmp_path), RunKeys(run_id="night")
        assert read_lease(store, "night").released
        assert not store.exists(keys.results) and not store.exists(keys.live)
        assert "a" not in load_run_state(store, "night").jobs, "nothing is known of a run that was not complete"
        with pytest.raises(KeyError):
            await coordinator.snapshot(spec.key)
        other = replace(impatient, dtype="bfloat16")
        assert await coordinator.add_run(spec, other), "workers of another kind are not refused any more"
        await coordinator.cancel_run(spec.key, "asked to")
        await asyncio.wait_for(coordinator.wait(spec.key), 20)

    asyncio.run(add())


def test_a_run_can_be_cancelled_before_all_of_its_films_are_there(tmp_path):
    spec = RunSpec(run_id="night", output=str(tmp_path), document=b"{}")

    async def add() -> None:
        coordinator = new_coordinator()
        assert await coordinator.add_run(spec, SHAPE)
        answer = coordinator._active._control.answer(
            coordinator._active.runs[spec.key], Request(verb=Verb.CANCEL, by="me")
        )
        assert answer.ok, answer.text
        await coordinator.add_films(spec.key, [entry(name, tmp_path) for name in "ab"])
        await coordinator.seal_run(spec.key)
        assert await asyncio.wait_for(coordinator.wait(spec.key), 20) == {"cancelled": 2}
        assert (await coordinator.snapshot(spec.key)).state == "cancelled"

    asyncio.run(add())


def test_a_worker_that_becomes_idle_after_the_last_run_ended_is_released(tmp_path):
    async def idle() -> None:
        coordinator = new_coordinator()
        coordinator._machine.apply(ev.WorkerUp(worker="w", host="h"), 0.0)
        coordinator._lifecycle.release_unneeded(time.monotonic())
        await asyncio.sleep(0.1)
        assert coordinator._machine.workers == ()

    asyncio.run(idle())


def test_a_kept_worker_that_becomes_idle_after_the_last_run_ended_drops_its_films_once(monkeypatch):
    dropped: list[str] = []

    async def drop_films(pool: WorkerPool, worker: str) -> None:
        dropped.append(worker)

    monkeypatch.setattr(WorkerPool, "drop_films", drop_films)

    async def idle() -> None:
        coordinator = new_coordinator(replace(SHAPE, timeouts=Timeouts(keep_workers_s=60.0)))
        for _ in range(2):
            await coordinator._lifecycle.on_idle()
            for worker in ("w", "late"):
                if worker not in coordinator._machine.workers:
                    coordinator._machine.apply(ev.WorkerUp(worker=worker, host="h"), 0.0)
                coordinator._lifecycle.release_unneeded(time.monotonic())
            await asyncio.sleep(0)
        assert coordinator._machine.workers == ("w", "late")

    asyncio.run(idle())
    assert dropped == ["w", "late"] * 2


def test_a_run_that_stands_still_says_for_what(tmp_path):
    spec = RunSpec(run_id="night", output=str(tmp_path))

    async def stand() -> None:
        coordinator = new_coordinator()
        await coordinator.add_run(spec, SHAPE)
        await coordinator.add_films(spec.key, [entry("a", tmp_path)])
        run, now = coordinator._active.runs[spec.key], time.monotonic()
        coordinator._lifecycle.pool.last_problem = "no space left on /tmp"
        for after_s in (30.0, 61.0, 70.0, 700.0):
            await coordinator._waiting._look(run, run.waits_since_s + after_s)
        said = [line.message for line in run.progress.log.after(0)]
        why = "no worker is up yet; 1 worker; the last start failed: no space left on /tmp"
        assert said == [f"nothing is rendered for {minutes} min: {why}" for minutes in (1, 12)]
        run.started = run.sealed = True
        view = coordinator._active._control.answer(run, Request(verb=Verb.EXPLAIN, jobs=("a",)))
        assert "no space left on /tmp" in view.text
        coordinator._machine.apply(ev.WorkerUp(worker="w", host="h"), now)
        await coordinator._waiting._look(run, now + 800.0)
        assert run.waits_for == "film a: its prompts are not encoded yet"
        await coordinator.cancel_run(spec.key, "asked to")

    asyncio.run(stand())


def test_films_are_rendered_while_others_are_still_prepared(tmp_path, monkeypatch):
    """What is told before the run has all of its films is at work at once, and counts from the start are of all."""
    order = ("a", "b", "bad", "c")
    spec = RunSpec(run_id="night", output=str(tmp_path), order=order, texts={"tiny": ("f", ("p",))})
    bad = Result(job_id="bad", state=State.FAILED, message="no such file")

    async def feed() -> None:
        coordinator = new_coordinator()
        encoded: list[str] = []

        async def encode_all(run) -> None:
            encoded.extend(run.texts["tiny"])
            coordinator._events.apply(ev.TextReady(run_id=run.key, model="tiny"))

        monkeypatch.setattr(coordinator._texts, "encode_all", encode_all)
        monkeypatch.setattr(coordinator._lifecycle, "start", lambda: None)
        assert await coordinator.add_run(spec, SHAPE)
        assert await coordinator.add_films(spec.key, [entry("a", tmp_path)])
        await coordinator.seal_run(spec.key, more=True)
        await asyncio.sleep(0)
        run, machine = coordinator._active.runs[spec.key], coordinator._machine
        assert "p" in encoded
        assert len(machine._dispatcher.queue) == 1, "a may start"
        snapshot = await coordinator.snapshot(spec.key)
        assert (snapshot.state, dict(snapshot.jobs)) == ("running", {"waiting": 4})
        run.progress.note = ""
        assert run.progress.snapshot().note == "3 rows are still being prepared"
        assert [row.job_id for row in run.progress.results()] == list(order)
        assert await coordinator.add_films(spec.key, [entry("b", tmp_path)], (bad,), {"bad": "k"})
        assert len(machine._dispatcher.queue) == 2
        await coordinator.add_films(spec.key, [], (bad,), {}), "told twice by a driver that came back"
        assert run.progress.counts == {"waiting": 3, "failed": 1}
        await run.write(run.progress.snapshot())
        assert load_run_state(open_store(tmp_path), "night").jobs["bad"].message == "no such file"
        assert await coordinator.add_films(spec.key, [entry("c", tmp_path)])
        await coordinator.seal_run(spec.key)
        assert not await coordinator.add_films(spec.key, [entry("d", tmp_path)])
        await coordinator.cancel_run(spec.key, "asked to")
        assert await asyncio.wait_for(coordinator.wait(spec.key), 20) == {"cancelled": 3, "failed": 1}

    asyncio.run(feed())


def test_a_run_that_is_stopped_while_rows_are_prepared_is_cancelled_with_all_of_them(tmp_path, monkeypatch):
    spec = RunSpec(run_id="night", output=str(tmp_path), order=("a", "b", "c"))

    async def stop() -> None:
        coordinator = new_coordinator()
        monkeypatch.setattr(coordinator._texts, "encode_all", lambda run: asyncio.sleep(0))
        monkeypatch.setattr(coordinator._lifecycle, "start", lambda: None)
        assert await coordinator.add_run(spec, SHAPE)
        await coordinator.add_films(spec.key, [entry("a", tmp_path)])
        await coordinator.seal_run(spec.key, more=True)
        run = coordinator._active.runs[spec.key]
        answer = coordinator._active._control.answer(run, Request(verb=Verb.CANCEL, by="me"))
        assert answer.ok, answer.text
        assert not await coordinator.add_films(spec.key, [entry("b", tmp_path)]), "no more are wanted"
        await coordinator.seal_run(spec.key)
        assert await asyncio.wait_for(coordinator.wait(spec.key), 20) == {"cancelled": 3}
        assert (await coordinator.snapshot(spec.key)).state == "cancelled"
        assert open_store(tmp_path).exists(RunKeys(run_id="night").results)
        assert set(load_run_state(open_store(tmp_path), "night").jobs) == {"a", "b"}, "c is prepared by the next start"

    asyncio.run(stop())


def test_a_run_whose_command_died_while_rows_were_prepared_ends_when_its_films_have(tmp_path, monkeypatch):
    impatient = replace(SHAPE, timeouts=Timeouts(lease_s=0.4))
    spec = RunSpec(run_id="night", output=str(tmp_path), order=("a", "b"))

    async def die() -> None:
        coordinator = new_coordinator(impatient)
        monkeypatch.setattr(coordinator._texts, "encode_all", lambda run: asyncio.sleep(0))
        monkeypatch.setattr(coordinator._lifecycle, "start", lambda: None)
        assert await coordinator.add_run(spec, impatient)
        await coordinator.add_films(spec.key, [entry("a", tmp_path)])
        await coordinator.seal_run(spec.key, more=True)
        run = coordinator._active.runs[spec.key]
        coordinator._active.drop_abandoned(time.monotonic() + 1.0, 0.4)
        assert not run.sealed, "a is still to be rendered"
        coordinator._events.apply(ev.CancelRun(run_id=spec.key, job_ids=("a",), reason="by name"))
        coordinator._active.drop_abandoned(time.monotonic() + 1.0, 0.4)
        assert await asyncio.wait_for(coordinator.wait(spec.key), 20) == {"cancelled": 2}
        assert open_store(tmp_path).exists(RunKeys(run_id="night").results)

    asyncio.run(die())
