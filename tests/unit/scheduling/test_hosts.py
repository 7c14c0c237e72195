"""Whose fault it is when work fails: the host's, the film's, or everybody's."""

from __future__ import annotations

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.retry import Failure
from tests.helpers.farm import Farm, film, none, only, renders

BROKEN = Failure(fault=Fault.WORKER, error_class="RuntimeError", message="it broke")
FULL = Failure(fault=Fault.CLUSTER, error_class="StorageFullError", message="no space left on /tmp")


def night(
    farm: Farm, *, fails_on: str = "", films: set[str] = frozenset(), failure: Failure = BROKEN
) -> list[ev.Action]:
    """Every film to its end; work fails on a host, or at some films. All actions."""
    todo, seen = list(farm.first), []
    hosts = {f"w{number}": host for number, host in enumerate(farm.hosts)}
    while todo or any(not farm.machine.state_of(key).ended for key in farm.keys):
        if not todo:
            todo = farm.tick(5.0)
            assert farm.now < 50_000, "something starved"
            continue
        action = todo.pop(0)
        seen.append(action)
        farm.now += 1.0
        match action:
            case ev.RenderSegment() | ev.FinishFilm():
                if hosts[action.worker] == fails_on or action.film.job_id in films:
                    todo += farm.failed(action, failure)
                elif isinstance(action, ev.RenderSegment):
                    todo += farm.done(action)
                else:
                    todo += farm.published(action)
            case ev.ReplaceWorker():
                host = hosts[action.worker]
                if farm.machine.hosts.is_quarantined(host):
                    host = next(name for name in farm.hosts if not farm.machine.hosts.is_quarantined(name))
                hosts[f"w{len(hosts)}"] = host
                todo += farm.apply(ev.WorkerUp(worker=f"w{len(hosts) - 1}", host=host))
    return seen


def farm_of(num_films: int, hosts: str, **policy: object) -> Farm:
    films = [film(f"f{i:02}", 1) for i in range(num_films)]
    farm = Farm(*films, hosts=hosts, seal=False, **policy)
    farm.hosts, farm.keys = hosts, [one.key for one in films]
    return farm


def states(farm: Farm) -> set[str]:
    return {str(farm.machine.state_of(key)) for key in farm.keys}


def test_a_host_with_a_full_disk_is_quarantined_and_no_film_is_lost():
    farm = farm_of(30, "ab", patience_s=60.0)
    seen = night(farm, fails_on="a", failure=FULL)
    assert states(farm) == {"done"}
    quarantined = only(seen, ev.HostQuarantined)
    assert quarantined.host == "a"
    assert "3 faults that no other host has" in quarantined.reason
    assert "no space left on /tmp" in quarantined.reason


def test_a_store_that_fails_everywhere_is_nobodys_fault():
    farm = farm_of(8, "ab")
    for work in renders(farm.first) * 4:
        farm.now += 1.0
        farm.failed(work, FULL)
        for again in renders(farm.tick(120.0)):
            farm.failed(again, FULL)
    assert farm.machine.hosts.quarantined == {}


def test_films_that_fail_everywhere_take_no_host_out():
    """Twelve of forty rows are broken in a way that shows only on a worker."""
    farm = farm_of(40, "abcdefgh")
    night(farm, films={f"f{i:02}" for i in range(12)})
    assert farm.machine.hosts.quarantined == {}
    assert sum(farm.machine.state_of(key) == "failed" for key in farm.keys) == 12


def test_a_host_that_was_blamed_for_films_is_acquitted_when_they_fail_elsewhere():
    farm = farm_of(6, "ab", attempts=9)
    first, other = sorted(renders(farm.first), key=lambda work: work.worker)
    bad, actions = [first], []
    while not farm.machine.hosts.quarantined:
        actions = farm.failed(bad[-1], BROKEN)
        bad += [work for work in renders(actions) if work.worker == first.worker]
    assert only(actions, ev.HostQuarantined).host == "a"
    farm.tick(100.0)
    released = []
    work = other
    for _ in range(6):
        actions = farm.failed(work, BROKEN) if work.film in {one.film for one in bad} else farm.done(work)
        released += [action for action in actions if isinstance(action, ev.HostReleased)]
        for finish in [action for action in actions if isinstance(action, ev.FinishFilm)]:
            farm.published(finish)
        if released or not renders(actions):
            break
        work = renders(actions)[0]
    assert [action.host for action in released] == ["a"]
    assert farm.machine.hosts.quarantined == {}


def test_faults_of_an_earlier_coordinator_cannot_be_taken_back():
    """Its faults are not known any more, so that a film which fails elsewhere says nothing of them."""
    farm = farm_of(6, "abc", attempts=9)
    farm.apply(ev.QuarantineHost(host="c", reason="3 worker faults", cause=ev.Cause.EARLIER_FAULTS))
    for work in renders(farm.first)[:2]:
        farm.failed(work, BROKEN)
    assert set(farm.machine.hosts.quarantined) == {"c"}
    assert farm.machine.hosts.quarantined_by_faults == {"c"}


def test_one_bad_host_among_good_ones_is_found():
    farm = farm_of(30, "abc")
    assert only(night(farm, fails_on="b"), ev.HostQuarantined).host == "b"
    assert states(farm) == {"done"}


def test_a_host_on_which_no_worker_starts_is_quarantined_though_others_are_up():
    farm = farm_of(3, "a")
    for _ in range(2):
        none(farm.apply(ev.StartFailed(host="b", failure=BROKEN)), ev.HostQuarantined)
    assert only(farm.apply(ev.StartFailed(host="b", failure=BROKEN)), ev.HostQuarantined).host == "b"
