"""Which step is the last one that a worker of a draining node can make."""

from __future__ import annotations

import pytest

from render_farm.farm.worker.preemption import LastStep, Preemption


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("within_s", "left_s", "may"),
    [(None, 20.0, True), (None, 30.0, False), (60.0, 30.0, True), (5.0, 20.0, False), (0.0, 0.1, False)],
)
def test_a_segment_goes_on_while_there_is_time_for_it(within_s, left_s, may):
    preemption = Preemption(Clock())
    assert preemption.leaves_time_for(1e9, grace_s=0.0)
    preemption.ask(within_s)
    assert preemption.leaves_time_for(left_s, grace_s=25.0) is may


def test_the_last_step_goes_by_the_pace_of_the_steps_made_here():
    clock = Clock()
    preemption = Preemption(clock)
    is_last = LastStep(preemption, 30, grace_s=25.0)
    clock.now_s += 10
    assert not is_last(21)  # 20 of them were made elsewhere: 10 s a step, 90 s to go
    preemption.ask()
    assert not is_last(21)  # said is said: the state of step 21 has not been stored
    clock.now_s += 10
    assert is_last(22)


def test_there_is_time_for_the_last_few_steps():
    clock = Clock()
    preemption = Preemption(clock)
    is_last = LastStep(preemption, 4, grace_s=25.0)
    clock.now_s += 10
    preemption.ask()
    assert is_last(1)
    preemption.ask(30.0)
    clock.now_s += 10
    assert not is_last(2)


def test_the_usual_step_leaves_out_the_first_one():
    clock = Clock()
    is_last = LastStep(Preemption(clock), 30, grace_s=25.0)
    clock.now_s += 300  # it compiles
    is_last(11)
    assert is_last.usual_step_s == 0.0
    for step in (12, 13):
        clock.now_s += 10
        is_last(step)
        is_last(step)  # the checkpoints ask, too
    assert is_last.usual_step_s == 10.0
