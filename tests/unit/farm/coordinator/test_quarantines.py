"""A quarantine ends when another machine has taken the host's name."""

from __future__ import annotations

from render_farm.farm.coordinator.quarantines import ReplacedHosts

OLD, NEW = {"gpu-7": frozenset({"old"})}, {"gpu-7": frozenset({"new"})}


def test_a_machine_that_replaces_a_quarantined_one_is_found():
    hosts = ReplacedHosts()
    assert hosts.find({"gpu-7"}, OLD) == []
    assert hosts.find({"gpu-7"}, {}) == [], "it is only gone"
    assert hosts.find({"gpu-7"}, {"gpu-7": frozenset({"old", "new"})}) == [], "it is still there"
    assert hosts.find({"gpu-7"}, NEW) == ["gpu-7"]
    assert hosts.find(set(), NEW) == []
    assert hosts.find({"gpu-7"}, NEW) == [], "the new one was quarantined for its own faults"
