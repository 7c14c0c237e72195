"""A quarantine ends when another machine has taken the host's name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from render_farm.farm.control.stored import apply_to_state
from render_farm.farm.coordinator import quarantines
from render_farm.farm.coordinator.actor import Coordinator
from render_farm.farm.coordinator.quarantines import ReplacedHosts
from render_farm.farm.run.spec import FarmConfig, RunSpec
from render_farm.storage.mailbox import Request, Verb
from render_farm.storage.open import open_store
from render_farm.storage.run_state import RunControl, RunStateWriter, StoredRun, load_run_state

CONFIG = FarmConfig(num_workers=1, device="cpu")
OLD, NEW = {"gpu-7": frozenset({"old"})}, {"gpu-7": frozenset({"new"})}


def test_a_machine_that_replaces_a_quarantined_one_is_found():
    hosts = ReplacedHosts()
    assert hosts.find({"gpu-7"}, OLD) == []
    assert hosts.find({"gpu-7"}, {}) == [], "it is only gone"
    assert hosts.find({"gpu-7"}, {"gpu-7": frozenset({"old", "new"})}) == [], "it is still there"
    assert hosts.find({"gpu-7"}, NEW) == ["gpu-7"]
    assert hosts.find(set(), NEW) == []
    assert hosts.find({"gpu-7"}, NEW) == [], "the new one was quarantined for its own faults"


def test_a_machine_that_was_replaced_between_two_coordinators_is_found():
    stored = {"gpu-7": frozenset({"old"})}
    assert ReplacedHosts().find({"gpu-7"}, NEW, stored=stored) == ["gpu-7"]
    assert ReplacedHosts().find({"gpu-7"}, OLD, stored=stored) == []
    assert ReplacedHosts().find({"gpu-7"}, {}, stored=stored) == []
    assert ReplacedHosts().find({"gpu-7"}, NEW) == [], "which machine it was is not known"


@pytest.mark.parametrize("by_a_person", [False, True])
def test_a_stored_quarantine_ends_with_its_machine_unless_a_person_asked_for_it(tmp_path, monkeypatch, by_a_person):
    store, spec = open_store(tmp_path), RunSpec(run_id="night", output=str(tmp_path))
    control = RunControl(quarantined=(("gpu-7", "why"),), machines={"gpu-7": ("old",)})
    if by_a_person:
        request = Request(verb=Verb.QUARANTINE, value="gpu-7", reason="ECC errors")
        control = apply_to_state(StoredRun(control=control), "night", request, set)[1]
    RunStateWriter(store, "night", load_run_state(store, "night")).write({}, control)
    monkeypatch.setattr(quarantines, "cluster_nodes", lambda: [{"NodeName": "gpu-7", "NodeID": "new"}])

    async def start() -> tuple[set[str], list[str]]:
        coordinator: Any = Coordinator.__ray_metadata__.modified_class(CONFIG, "local")  # type: ignore[attr-defined]
        coordinator._draining._looked_s = coordinator._quarantines._looked_s = float("inf")  # there is no Ray to ask
        assert await coordinator.add_run(spec, CONFIG)
        run, hosts = coordinator._active.runs[spec.key], coordinator._machine.hosts
        assert set(hosts.quarantined) == {"gpu-7"}
        await coordinator._quarantines._look()
        assert dict(run.control.quarantined) == hosts.quarantined
        assert not run.control.machines
        await coordinator.cancel_run(spec.key, "asked to")
        await asyncio.wait_for(coordinator.wait(spec.key), 20)
        return set(hosts.quarantined), [line.message for line in run.progress.log.after(0)]

    left, log = asyncio.run(start())
    assert left == ({"gpu-7"} if by_a_person else set())
    assert any("another machine has its name now" in line for line in log) is not by_a_person
