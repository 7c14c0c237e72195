"""Which idle workers a film or a group gets."""

from __future__ import annotations

from render_farm.scheduling.affinity import Setting
from render_farm.scheduling.idle_workers import IdleWorker, IdleWorkers
from tests.helpers.farm import Farm, film, renders

M, N = Setting(model="m"), Setting(model="n")


def idle_workers_of(hosts: dict[str, int], num_idle: dict[str, int]) -> IdleWorkers:
    idle = IdleWorkers()
    for host, number in hosts.items():
        for i in range(number):
            idle.enter(f"{host}{i}", host)
            if i < num_idle[host]:
                idle.add(IdleWorker(worker=f"{host}{i}", host=host, setting=None, num_finishing=0))
    return idle


def test_a_group_goes_to_the_host_where_it_leaves_the_fewest_idle():
    idle = idle_workers_of({"a": 8, "b": 8, "c": 8}, {"a": 8, "b": 5, "c": 3})
    assert idle.find_group(M, 4, 50, ()) == ("b0", "b1", "b2", "b3")
    assert idle.find_group(M, 2, 50, ()) == ("c0", "c1")
    assert idle.find_group(M, 9, 50, ()) is None


def test_a_film_alone_breaks_up_no_whole_host():
    idle = idle_workers_of({"a": 8, "b": 8}, {"a": 8, "b": 2})
    assert idle.find_worker(M, 50, ()) == ("b0",)
    assert idle.find_worker(M, 50, ("b0", "b1")) == ("a0",)


def test_a_host_is_held_for_a_group_until_it_has_room():
    """All have the same standing: without the hold the films' segments would follow each other to the end."""
    farm = Farm(*(film(f"f{i}", 9, segments_s=(60.0 + i,) * 9) for i in range(4)), hosts="aabb")
    works = {work.film[1]: work for work in renders(farm.first)}
    farm.add(film("gang", 1, group_size=2))
    ended = []
    while "gang" not in works:
        name = next(iter(works))
        ended.append(name)
        farm.now += 15.0
        works.update({work.film[1]: work for work in renders(farm.done(works.pop(name)))})
    assert len(works["gang"].helpers) == 1
    assert len(ended) <= 4
