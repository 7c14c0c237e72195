"""When a worker counts as hanging: every phase of its work has a rule of its own."""

from render_farm.farm.coordinator.hang_watch import HangWatch, TextWatch
from render_farm.farm.run.timeouts import Timeouts

FILM = ("r", "a")
TIMEOUTS = Timeouts(hang_floor_s=60, first_step_floor_s=600, store_floor_s=300, finish_floor_s=1800)


def silent_at(watch: HangWatch, *times: float) -> list[bool]:
    return [bool(watch.silent(now)) for now in times]


def test_the_first_step_may_take_long():
    watch = HangWatch(TIMEOUTS)
    watch.begin("w", FILM, 0, 0.0)
    assert silent_at(watch, 599, 601) == [False, True]


def test_the_first_step_of_a_costly_segment_may_take_longer_by_what_steps_took_before():
    watch = HangWatch(TIMEOUTS)
    first = watch.begin("w", FILM, 0, 0.0, model="m", step_cost=10.0)
    watch.stepped(first, 1, 5, 1.0)
    watch.stepped(first, 3, 5, 41.0)  # 20 s a step, 2 s for each unit of cost
    watch.end(first)
    watch.begin("w", FILM, 1, 100.0, model="m", step_cost=50.0)
    assert silent_at(watch, 100 + 999, 100 + 1001) == [False, True]
    watch = HangWatch(TIMEOUTS)
    watch.begin("w", FILM, 1, 100.0, model="n", step_cost=50.0)
    assert silent_at(watch, 100 + 601) == [True]


def test_a_step_may_take_ten_times_the_usual_and_never_less_than_the_floor():
    watch = HangWatch(TIMEOUTS)
    number = watch.begin("w", FILM, 0, 0.0)
    watch.stepped(number, 1, 9, 10.0)
    watch.stepped(number, 2, 9, 11.0)
    assert silent_at(watch, 11 + 59, 11 + 61) == [False, True]
    watch.stepped(number, 3, 9, 31.0)
    assert silent_at(watch, 31 + 199, 31 + 201) == [False, True]


def test_storing_after_the_last_step_is_no_hang_until_its_own_limit():
    watch = HangWatch(TIMEOUTS)
    number = watch.begin("w", FILM, 0, 0.0)
    for step in (1, 2):
        watch.stepped(number, step, 2, float(step))
    assert silent_at(watch, 2 + 100, 2 + 299, 2 + 301) == [False, False, True]
    assert "did not store" in watch.silent(400.0)[0][1]


def test_finishing_is_watched_by_what_it_writes():
    watch = HangWatch(TIMEOUTS)
    number = watch.begin("w", FILM, None, 0.0)
    watch.alive(number, 1700.0)
    assert silent_at(watch, 1801, 1700 + 1801) == [False, True]


def test_work_that_is_over_is_not_watched():
    watch = HangWatch(TIMEOUTS)
    number = watch.begin("w", FILM, 0, 0.0)
    assert watch.calls_of("w", FILM) == [number]
    watch.end(number)
    assert silent_at(watch, 10_000) == [False]
    assert watch.stepped(number, 1, 2, 1.0) is None
    assert watch.calls_of("w", FILM) == []


def test_a_segment_is_prepared_until_its_first_step():
    watch = HangWatch(TIMEOUTS)
    numbers = [watch.begin("w", FILM, 0, 0.0), watch.begin("v", FILM, None, 0.0), watch.begin("u", FILM, 1, 0.0)]
    assert watch.num_preparing == 2
    watch.stepped(numbers[0], 1, 2, 1.0)
    assert watch.num_preparing == 1
    watch.end(numbers[2])
    assert watch.num_preparing == 0


def test_the_process_that_encodes_prompts_is_watched_too():
    watch, timeouts = TextWatch(), Timeouts()
    watch.begin(1000.0)
    assert not watch.silent(1000.0 + timeouts.first_step_floor_s, timeouts), "it may load its model"
    assert "encoded no prompt for 600 s" in watch.silent(1001.0 + timeouts.first_step_floor_s, timeouts)
    watch.sign(1500.0)
    watch.sign(1520.0)
    assert not watch.silent(1520.0 + 200.0, timeouts), "ten times as long as usual"
    assert "encoded no prompt for 200 s" in watch.silent(1520.0 + 201.0, timeouts)
