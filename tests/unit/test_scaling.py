"""How many workers are asked for, and which ones go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from render_farm.scheduling.scaling import HOLD_S, STOP_S, Demand, Present, ScaleLimits, decide, leavers, packs


def test_as_many_as_films_can_use_up_to_the_limit():
    limits = ScaleLimits(max_workers=64)
    assert decide(Demand(num_films=500), limits).num_workers == 64
    assert decide(Demand(num_films=5), limits).num_workers == 5
    assert decide(Demand(num_films=5, group_size=8), limits).num_workers == 40
    assert decide(Demand(num_films=0), limits).num_workers == 0
    assert "--max-gpus 64" in decide(Demand(num_films=500), limits).reason


def test_groups_are_asked_for_whole():
    asked = decide(Demand(num_films=5, group_size=8), ScaleLimits(max_workers=20)).num_workers
    assert asked == 16
    assert packs(asked, 8) == [8, 8] and packs(3, 1) == [1, 1, 1] and packs(0, 8) == []


def test_the_tail_asks_for_less_and_less():
    limits = ScaleLimits(max_workers=8)
    assert [decide(Demand(num_films=n, num_there=8), limits).num_workers for n in (9, 6, 3, 1, 0)] == [8, 6, 3, 1, 0]


def test_no_more_than_a_budget_can_hold():
    limits = ScaleLimits(max_workers=64, max_cost=100.0, price_per_hour=3.0)
    assert decide(Demand(num_films=500), limits).num_workers == 64
    late = decide(Demand(num_films=500, num_there=8, spent=95.0), limits)
    assert late.num_workers == 10 and "--max-cost 100" in late.reason and not late.stop  # 5 left / 0.5 for ten minutes


def test_a_spent_budget_stops_the_run_before_it_is_exceeded():
    limits = ScaleLimits(max_workers=64, max_cost=100.0, price_per_hour=3.0)
    assert decide(Demand(num_films=5, num_there=40, spent=98.1), limits).stop  # a minute of 40 costs 2
    assert not decide(Demand(num_films=5, num_there=40, spent=97.9), limits).stop
    assert not decide(Demand(num_films=0, num_there=40, spent=100.0), limits).stop  # nothing is left to stop
    assert decide(Demand(num_films=5, num_there=0, spent=99.9), limits).stop  # not even one can be asked for


@given(
    num_films=st.integers(0, 1000),
    group_size=st.integers(1, 16),
    num_there=st.integers(0, 600),
    spent=st.floats(0, 2000),
    max_workers=st.integers(1, 512),
    max_cost=st.none() | st.floats(0.01, 1000),
    price=st.floats(0.01, 50),
)
def test_limits_hold_always(num_films, group_size, num_there, spent, max_workers, max_cost, price):
    limits = ScaleLimits(max_workers=max_workers, max_cost=max_cost, price_per_hour=price)
    demand = Demand(num_films=num_films, group_size=group_size, num_there=num_there, spent=spent)
    decision = decide(demand, limits)
    assert 0 <= decision.num_workers <= min(max_workers, num_films * group_size)
    assert decision.num_workers % group_size == 0
    if max_cost is not None:
        assert decision.num_workers * price * HOLD_S / 3600 <= max(max_cost - spent, 0) * 1.001
        if not decision.stop and num_films:
            assert spent + num_there * price * STOP_S / 3600 <= max_cost


def test_whole_machines_are_emptied_first():
    workers = [
        Present(name="a0", host="a", is_idle=True),
        Present(name="a1", host="a", is_idle=False),
        Present(name="b0", host="b", is_idle=True),
        Present(name="b1", host="b", is_idle=True),
        Present(name="c0", host="c", is_idle=False),
    ]
    assert leavers(workers, 3) == ["b0", "b1"]
    assert leavers(workers, 0) == ["b0", "b1", "a0"]  # who works stays
    assert leavers(workers, 5) == []
