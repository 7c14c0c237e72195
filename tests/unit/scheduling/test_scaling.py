"""How many workers are asked for, and which ones go."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from render_farm.scheduling.scaling import HOLD_S, STOP_S, Demand, Present, ScaleLimits, decide, to_release


def demand(films: int | dict[tuple[int, int], int], *, num_slots: int = 1000, **more: Any) -> Demand:
    """Films by (smallest group, largest group), or so many of one worker."""
    return Demand(films=films if isinstance(films, dict) else {(1, 1): films}, num_slots=num_slots, **more)


def test_as_many_as_films_can_use_up_to_the_limit():
    limits = ScaleLimits(max_workers=64)
    assert decide(demand(500), limits).num_workers == 64
    assert decide(demand(5), limits).num_workers == 5
    assert decide(demand({(8, 8): 5}), limits).num_workers == 40
    assert decide(demand(0), limits).num_workers == 0
    assert decide(demand({}), limits).num_workers == 0
    assert "--max-gpus 64" in decide(demand(500), limits).reason
    few = decide(demand(500, num_slots=4), limits)
    assert few.num_workers == 4 and few.reason == "this farm has 4 workers at most"


def test_films_of_several_sizes_ask_for_what_they_can_use():
    limits = ScaleLimits(max_workers=64)
    mixed = {(8, 8): 1, (1, 1): 3}
    assert decide(demand(mixed, num_slots=11, bundle_size=8), limits).bundles == (8, 3)
    assert decide(demand(mixed, num_slots=28, bundle_size=8), limits).bundles == (8, 8), "its places come by eights"
    assert decide(demand(mixed, num_slots=11, bundle_size=8), ScaleLimits(max_workers=10)).bundles == (8,)
    assert decide(demand({(8, 8): 2}, num_slots=12, bundle_size=8), ScaleLimits(max_workers=12)).bundles == (8,)
    assert decide(demand({(1, 1): 3}, num_slots=28, bundle_size=8), limits).bundles == (8,)


def test_groups_are_asked_for_whole():
    decision = decide(demand({(8, 8): 5}), ScaleLimits(max_workers=20))
    assert decision.num_workers == 16 and decision.bundles == (8, 8)
    assert decide(demand(3), ScaleLimits(max_workers=20)).bundles == (1, 1, 1)


def test_machines_for_larger_groups_are_asked_for_where_they_are_known_to_come():
    films = {(1, 8): 2, (1, 1): 3}
    assert decide(demand(films), ScaleLimits(max_workers=64)).bundles == (1,) * 19
    assert decide(demand(films), ScaleLimits(max_workers=64, gpus_per_node=8)).bundles == (8, 8, 1, 1, 1)
    assert decide(demand(films), ScaleLimits(max_workers=10, gpus_per_node=8)).bundles == (8, 1, 1)
    assert decide(demand(films), ScaleLimits(max_workers=64, gpus_per_node=4)).bundles[:3] == (4, 4, 1)
    assert decide(demand({(2, 8): 1}), ScaleLimits(max_workers=64, gpus_per_node=8)).bundles == (8,)
    assert decide(demand({(8, 8): 1}), ScaleLimits(max_workers=64, gpus_per_node=4)).bundles == (8,)


def test_the_tail_asks_for_less_and_less():
    limits = ScaleLimits(max_workers=8)
    assert [decide(demand(n, num_there=8), limits).num_workers for n in (9, 6, 3, 1, 0)] == [8, 6, 3, 1, 0]


def test_no_more_than_a_budget_can_hold():
    limits = ScaleLimits(max_workers=64, max_cost=100.0, price_per_hour=3.0)
    assert decide(demand(500), limits).num_workers == 64
    late = decide(demand(500, num_there=8, spent=95.0), limits)
    assert late.num_workers == 10 and "--max-cost 100" in late.reason and not late.stop  # 5 left / 0.5 for ten minutes


def test_a_spent_budget_stops_the_run_before_it_is_exceeded():
    limits = ScaleLimits(max_workers=64, max_cost=100.0, price_per_hour=3.0)
    assert decide(demand(5, num_there=40, spent=98.1), limits).stop  # a minute of 40 costs 2
    assert not decide(demand(5, num_there=40, spent=97.9), limits).stop
    assert not decide(demand(0, num_there=40, spent=100.0), limits).stop  # nothing is left to stop
    assert decide(demand(5, num_there=0, spent=99.9), limits).stop  # not even one can be asked for


SIZES = st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=2, max_size=2).map(lambda two: (min(two), max(two)))


@given(
    films=st.dictionaries(SIZES, st.integers(0, 200), max_size=6),
    num_slots=st.integers(1, 1000),
    bundle_size=st.sampled_from([1, 2, 4, 8, 16]),
    num_there=st.integers(0, 600),
    spent=st.floats(0, 2000),
    max_workers=st.integers(1, 512),
    max_cost=st.none() | st.floats(0.01, 1000),
    price=st.floats(0.01, 50),
    gpus_per_node=st.none() | st.integers(1, 16),
)
def test_scaling_limits_hold_for_any_demand(
    films, num_slots, bundle_size, num_there, spent, max_workers, max_cost, price, gpus_per_node
):
    limits = ScaleLimits(max_workers=max_workers, max_cost=max_cost, price_per_hour=price, gpus_per_node=gpus_per_node)
    asked = demand(films, num_slots=num_slots, bundle_size=bundle_size, num_there=num_there, spent=spent)
    decision = decide(asked, limits)
    pack = max(bundle_size, *(group for (group, _), number in films.items() if number), 0)
    assert 0 <= decision.num_workers <= min(max_workers, num_slots)
    assert decision.num_workers < asked.useful + pack, "no more than is of use, but for the pack of the last one"
    assert sum(decision.bundles) == decision.num_workers
    assert all(size % pack == 0 for size in decision.bundles[:-1])
    if decision.bundles and decision.bundles[-1] % pack:
        assert decision.bundles[-1] == num_slots % pack, "only the farm's last pack is smaller"
    if max_cost is not None:
        assert decision.num_workers * price * HOLD_S / 3600 <= max(max_cost - spent, 0) * 1.001
        if not decision.stop and asked.useful:
            assert spent + num_there * price * STOP_S / 3600 <= max_cost
    elif num_slots <= max_workers and asked.useful <= num_slots:
        assert decision.num_workers >= asked.useful
        assert all_fit([group for (group, _), number in films.items() for _ in range(number)], decision.bundles)


def all_fit(groups: list[int], machines: tuple[int, ...]) -> bool:
    """Whether each group lies on one machine, all at the same time."""
    free = list(machines)
    for group in sorted(groups, reverse=True):
        place = next((index for index, room in enumerate(free) if room >= group), None)
        if place is None:
            return False
        free[place] -= group
    return True


def test_whole_machines_are_emptied_first():
    workers = [
        Present(name="a0", host="a", is_idle=True),
        Present(name="a1", host="a", is_idle=False),
        Present(name="b0", host="b", is_idle=True),
        Present(name="b1", host="b", is_idle=True),
        Present(name="c0", host="c", is_idle=False),
    ]
    assert to_release(workers, 3) == ["b0", "b1"]
    assert to_release(workers, 0) == ["b0", "b1", "a0"]  # who works stays
    assert to_release(workers, 5) == []
