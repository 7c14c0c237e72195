"""Transitions of the scheduling machine, each named by what it proves."""

from __future__ import annotations

import time

import pytest

from render_farm.errors import Fault
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.queue import MOST_PASSED_OVER
from render_farm.scheduling.retry import POLICY, Failure, RetryPolicy, judge, rule_for
from render_farm.scheduling.states import State, exit_code
from tests.helpers.farm import Farm, none, only

WORKER_FAULT = Failure(fault=Fault.WORKER, error_class="MediaError", message="broken")
JOB_FAULT = Failure(fault=Fault.JOB, error_class="OutOfMemoryError", message="too large")
CLUSTER_FAULT = Failure(fault=Fault.CLUSTER, error_class="StorageError", message="503")


def film(job_id: str = "a", segments: int = 2, **values) -> ev.QueuedFilm:
    return ev.QueuedFilm(run_id="r", job_id=job_id, num_segments=segments, **values)


def test_segments_in_order_then_finish_then_done():
    farm = Farm(film(segments=2))
    first = only(farm.first, ev.RenderSegment)
    assert first.segment == 0
    second = only(farm.done(first), ev.RenderSegment)
    assert (second.segment, second.worker) == (1, first.worker)
    finish = only(farm.done(second), ev.FinishFilm)
    actions = farm.published(finish)
    assert only(actions, ev.FilmEnded).state is State.DONE
    assert only(actions, ev.FilmEnded).attempts == 1
    assert only(actions, ev.RunEnded).state is State.DONE


def test_a_worker_renders_the_next_film_while_it_finishes_the_last():
    farm = Farm(film("a", 1), film("b", 1))
    actions = farm.done(only(farm.first, ev.RenderSegment))
    assert only(actions, ev.FinishFilm).film == ("r", "a")
    assert only(actions, ev.RenderSegment).film == ("r", "b")


def test_films_wait_for_their_prompts():
    machine = FarmMachine()
    machine.apply(ev.FilmsAdded(films=(film(model="m"),)), 0)
    machine.apply(ev.RunSealed(run_id="r"), 0)
    none(machine.apply(ev.WorkerUp(worker="w"), 0), ev.RenderSegment)
    only(machine.apply(ev.TextReady(run_id="r", model="m"), 0), ev.RenderSegment)


def test_a_film_with_all_segments_stored_is_finished_without_prompts():
    machine = FarmMachine()
    machine.apply(ev.FilmsAdded(films=(film(segments=2, segments_done=2, model="m"),)), 0)
    only(machine.apply(ev.WorkerUp(worker="w"), 0), ev.FinishFilm)


def test_prompts_that_cannot_be_encoded_fail_their_films_only():
    machine = FarmMachine()
    machine.apply(ev.FilmsAdded(films=(film("a", model="m"), film("b", model="n"))), 0)
    machine.apply(ev.RunSealed(run_id="r"), 0)
    actions = machine.apply(ev.TextFailed(run_id="r", model="m", failure=JOB_FAULT), 0)
    assert only(actions, ev.FilmEnded).film == ("r", "a")
    none(actions, ev.RunEnded)


def test_a_begun_film_goes_on_from_its_last_segment():
    assert only(Farm(film(segments=3, segments_done=2)).first, ev.RenderSegment).segment == 2


def test_higher_priority_then_earlier_deadline_then_first_come():
    farm = Farm(
        film("late", 1),
        film("urgent", 1, priority=90),
        film("soon", 1, deadline_s=5.0),
        film("sooner", 1, deadline_s=4.0),
    )
    order, actions = [], farm.first
    while any(isinstance(action, ev.RenderSegment) for action in actions):
        work = only(actions, ev.RenderSegment)
        order.append(work.film[1])
        actions = farm.done(work)
        farm.published(only(actions, ev.FinishFilm))
    assert order == ["urgent", "sooner", "soon", "late"]


def test_a_film_stays_on_its_worker_unless_a_higher_priority_waits():
    farm = Farm(film("a", 3), film("b", 3))
    second = only(farm.done(only(farm.first, ev.RenderSegment)), ev.RenderSegment)
    assert second.film == ("r", "a")
    farm.machine.apply(
        ev.FilmsAdded(films=(ev.QueuedFilm(run_id="q", job_id="c", num_segments=1, priority=80),)), farm.now
    )
    farm.machine.apply(ev.TextReady(run_id="q", model=""), farm.now)
    assert only(farm.done(second), ev.RenderSegment).film == ("q", "c")
    assert farm.machine.state_of(("r", "a")) is State.WAITING


def test_a_loaded_model_is_kept_among_equals_but_not_over_priority():
    farm = Farm(film("a", 1, model="m"), film("b", 1, model="n"), film("c", 1, model="m"))
    actions = farm.done(only(farm.first, ev.RenderSegment))
    assert only(actions, ev.RenderSegment).film[1] == "c"
    farm = Farm(film("a", 1, model="m", priority=60), film("b", 1, model="n", priority=55), film("c", 1, model="m"))
    actions = farm.done(only(farm.first, ev.RenderSegment))
    assert only(actions, ev.RenderSegment).film[1] == "b"


def test_the_jobs_fault_fails_it_at_once_and_the_worker_goes_on():
    farm = Farm(film("a", 1), film("b", 1))
    actions = farm.failed(only(farm.first, ev.RenderSegment), JOB_FAULT)
    ended = only(actions, ev.FilmEnded)
    assert (ended.state, ended.error_class, ended.message) == (State.FAILED, "OutOfMemoryError", "too large")
    assert only(actions, ev.RenderSegment).film == ("r", "b")


def test_the_workers_fault_is_tried_on_another_worker_and_counted():
    farm = Farm(film(), workers=2, attempts=3)
    first = only(farm.first, ev.RenderSegment)
    farm.failed(first, WORKER_FAULT)
    again = only(farm.tick(1.0), ev.RenderSegment)
    assert (again.attempt, again.worker != first.worker) == (2, True)
    farm.failed(again, WORKER_FAULT)
    replaced = only(farm.tick(2.0), ev.ReplaceWorker)
    third = only(farm.apply(ev.WorkerUp(worker=replaced.worker + "'")), ev.RenderSegment)
    ended = only(farm.failed(third, WORKER_FAULT), ev.FilmEnded)
    assert (ended.state, ended.attempts) == (State.FAILED, 3)


def test_the_only_worker_is_replaced_rather_than_given_the_film_again():
    farm = Farm(film())
    farm.failed(only(farm.first, ev.RenderSegment), WORKER_FAULT)
    actions = farm.tick(1.0)
    none(actions, ev.RenderSegment)
    assert only(actions, ev.ReplaceWorker).worker == "w0"


def test_the_clusters_fault_is_waited_out_uncounted_with_growing_delays():
    farm = Farm(film(), attempts=1, patience_s=100)
    work, delays = only(farm.first, ev.RenderSegment), []
    for _ in range(5):
        delays.append(only(farm.failed(work, CLUSTER_FAULT), ev.FilmDelayed).delay_s)
        none(farm.tick(delays[-1] / 2), ev.RenderSegment)
        work = only(farm.tick(delays[-1] / 2), ev.RenderSegment)
    assert delays == [1, 2, 4, 8, 16]
    farm.now += 100
    assert only(farm.failed(work, CLUSTER_FAULT), ev.FilmEnded).state is State.FAILED


def test_a_lost_workers_segment_goes_to_another_and_its_late_answer_is_ignored():
    farm = Farm(film(), workers=2)
    first = only(farm.first, ev.RenderSegment)
    farm.apply(ev.WorkerLost(worker=first.worker, failure=WORKER_FAULT))
    again = only(farm.tick(1.0), ev.RenderSegment)
    assert again.worker != first.worker
    assert farm.done(first) == []
    assert only(farm.done(again), ev.RenderSegment).segment == 1


def test_a_worker_lost_while_finishing_has_the_film_finished_elsewhere():
    farm = Farm(film(segments=1), workers=2)
    finish = only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm)
    farm.apply(ev.WorkerLost(worker=finish.worker, failure=WORKER_FAULT))
    again = only(farm.tick(1.0), ev.FinishFilm)
    assert again.worker != finish.worker
    assert only(farm.published(again), ev.RunEnded).state is State.DONE


def test_a_poisoned_process_is_replaced():
    farm = Farm(film("a"), film("b"))
    poison = Failure(fault=Fault.WORKER, error_class="DeviceError", message="ECC", poisons_process=True)
    actions = farm.failed(only(farm.first, ev.RenderSegment), poison)
    assert only(actions, ev.ReplaceWorker).worker == "w0"
    assert farm.machine.workers == ()


NOT_FINITE = Failure(fault=Fault.WORKER, error_class="NotFiniteError", message="NaN")
DIED = Failure(fault=Fault.WORKER, error_class="WorkerDiedError", message="segmentation fault")


def test_a_film_that_was_finished_beside_one_with_nan_is_not_blamed_for_it():
    farm = Farm(film("a", 1), film("b", 1))
    finish = only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm)
    for worker in ("w1", "w2"):
        actions = farm.apply(ev.WorkFailed(worker=finish.worker, film=ev.JobKey("r", "b"), failure=NOT_FINITE))
        ended = [action.film for action in actions if isinstance(action, ev.FilmEnded)]
        assert ended == ([] if worker == "w1" else [("r", "b")])
        delayed = [action for action in actions if isinstance(action, ev.FilmDelayed) and action.film == finish.film]
        assert "beside it" in only(delayed, ev.FilmDelayed).message
        farm.tick(1.0)
        finish = only(farm.apply(ev.WorkerUp(worker=worker)), ev.FinishFilm)
        assert (finish.film, finish.attempt) == (("r", "a"), 1)
    assert only(farm.published(finish), ev.FilmEnded).state is State.DONE


@pytest.mark.parametrize("attempts", [2, 3])
def test_a_film_that_kills_its_process_takes_no_other_one_along_for_good(attempts: int):
    """Both are tried together until the last try, which has a process for itself. That tells who it was."""
    farm = Farm(film("a", 1), film("b", 1), film("c", 1), attempts=attempts)
    finish = only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm)
    for worker in ("w1", "w2")[-attempts + 1 :]:
        farm.apply(ev.WorkerLost(worker=finish.worker, failure=DIED))
        farm.tick(60.0)
        actions = farm.apply(ev.WorkerUp(worker=worker))
        finish = only(actions, ev.FinishFilm)
        assert finish.film == ("r", "a")
    none(actions, ev.RenderSegment)
    actions = farm.published(finish)
    assert only(actions, ev.FilmEnded).state is State.DONE
    lethal = only(actions, ev.RenderSegment)
    assert lethal.film == ("r", "b")
    assert only(farm.apply(ev.WorkerLost(worker="w2", failure=DIED)), ev.FilmEnded).film == ("r", "b")
    assert only(farm.apply(ev.WorkerUp(worker="w3")), ev.RenderSegment).film == ("r", "c")


def test_a_film_in_its_last_try_begins_on_no_worker_that_finishes_another_one():
    farm = Farm(film("a", 1), seal=False)
    for worker in ("w0", "w1"):
        farm.apply(ev.WorkerLost(worker=worker, failure=DIED))
        if worker == "w0":
            farm.tick(1.0)
            only(farm.apply(ev.WorkerUp(worker="w1")), ev.RenderSegment)
    farm.add(film("b", 1))
    other = only(farm.apply(ev.WorkerUp(worker="w2")), ev.RenderSegment)
    assert other.film == ("r", "b")
    farm.tick(3.0)
    actions = farm.done(other)
    none(actions, ev.RenderSegment)
    assert only(farm.published(only(actions, ev.FinishFilm)), ev.RenderSegment).film == ("r", "a")


def test_a_death_before_does_not_make_the_first_nan_the_last():
    farm = Farm(film("a", 1))
    farm.apply(ev.WorkerLost(worker="w0", failure=DIED))
    farm.tick(1.0)
    work = only(farm.apply(ev.WorkerUp(worker="w1")), ev.RenderSegment)
    none(farm.failed(work, NOT_FINITE), ev.FilmEnded)
    farm.tick(2.0)
    work = only(farm.apply(ev.WorkerUp(worker="w2")), ev.RenderSegment)
    assert only(farm.failed(work, NOT_FINITE), ev.FilmEnded).state is State.FAILED


def test_a_damaged_checkpoint_sets_the_film_back():
    farm = Farm(film(segments=3, segments_done=2))
    farm.failed(only(farm.first, ev.RenderSegment), CLUSTER_FAULT, segments_done=1)
    assert only(farm.tick(1.0), ev.RenderSegment).segment == 1


def test_cancelling_stops_what_runs_and_ends_the_run():
    farm = Farm(film("a"), film("b"))
    work = only(farm.first, ev.RenderSegment)
    actions = farm.apply(ev.CancelRun(run_id="r", reason="enough"))
    assert only(actions, ev.StopWork).film == work.film
    assert only(actions, ev.RunEnded).state is State.CANCELLED
    assert farm.machine.counts("r") == {"cancelled": 2}
    assert farm.failed(work, Failure(fault=Fault.CLUSTER, error_class="Cancelled", message="")) == []
    assert farm.machine.idle_workers == ("w0",)


def test_cancelling_one_job_leaves_the_others():
    farm = Farm(film("a"), film("b", 1))
    work = only(farm.first, ev.RenderSegment)
    none(farm.apply(ev.CancelRun(run_id="r", reason="no", job_ids=("a",))), ev.RunEnded)
    assert only(farm.failed(work, CLUSTER_FAULT), ev.RenderSegment).film == ("r", "b")


def test_too_many_failed_jobs_stop_the_run_and_leave_the_rest_resumable():
    farm = Farm(*(film(name) for name in "abcd"), max_failed=1)
    work = only(farm.failed(only(farm.first, ev.RenderSegment), JOB_FAULT), ev.RenderSegment)
    actions = farm.failed(work, JOB_FAULT)
    assert only(actions, ev.RunEnded).state is State.FAILED
    assert farm.machine.counts("r") == {"failed": 2, "cancelled": 2}


def test_a_run_is_over_only_when_sealed():
    farm = Farm(film(segments=1), seal=False)
    none(farm.published(only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm)), ev.RunEnded)
    assert only(farm.apply(ev.RunSealed(run_id="r")), ev.RunEnded).state is State.DONE


@pytest.mark.parametrize(
    ("counts", "stopped", "code"),
    [
        ({"done": 3}, False, 0),
        ({"failed": 3}, False, 10),
        ({"failed": 1, "done": 2}, False, 11),
        ({"failed": 1, "cancelled": 2}, True, 11),
        ({"cancelled": 1, "done": 2}, True, 12),
        ({"cancelled": 1, "done": 2}, False, 0),
        ({"cancelled": 3}, False, 0),
    ],
)
def test_the_exit_code_follows_from_the_counts_of_jobs_and_whether_the_run_was_stopped(counts, stopped, code):
    assert exit_code(counts, stopped=stopped) == code


def test_a_job_that_is_cancelled_by_name_cancels_no_run():
    farm = Farm(film("a", 1), film("b", 1))
    actions = farm.apply(ev.CancelRun(run_id="r", reason="not wanted", job_ids=("b",)))
    assert not [action for action in actions if isinstance(action, ev.StopWork)]
    ended = farm.published(only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm))
    assert only(ended, ev.RunEnded).state is State.DONE
    assert farm.machine.counts("r") == {"done": 1, "cancelled": 1}


def test_the_steps_of_a_run_that_is_stopped_are_kept_and_those_of_one_job_are_not():
    farm = Farm(film("a"), film("b"), workers=2)
    named = farm.apply(ev.CancelRun(run_id="r", reason="not wanted", job_ids=("a",)))
    assert not only(named, ev.StopWork).keep_steps
    assert only(farm.apply(ev.CancelRun(run_id="r", reason="Ctrl-C")), ev.StopWork).keep_steps


def test_a_worker_that_finishes_two_films_is_given_nothing_new_until_one_is_published():
    farm = Farm(*(film(name, 1) for name in "abc"))
    actions, finishing = farm.first, []
    for _ in range(2):
        actions = farm.done(only(actions, ev.RenderSegment))
        finishing.append(only(actions, ev.FinishFilm))
    none(actions, ev.RenderSegment)
    none(actions, ev.ReplaceWorker)
    assert only(farm.published(finishing[0]), ev.RenderSegment).film == ("r", "c")


def test_films_that_only_have_to_be_finished_are_spread_over_the_workers():
    farm = Farm(*(film(name, 1, segments_done=1) for name in "abcdefgh"), workers=2)
    handed_out = [action.worker for action in farm.first if isinstance(action, ev.FinishFilm)]
    assert sorted(handed_out) == ["w0", "w0", "w1", "w1"]


def test_a_run_that_is_cancelled_before_it_is_sealed_ends_when_it_is():
    farm = Farm(film("a"), seal=False)
    none(farm.apply(ev.CancelRun(run_id="r", reason="interrupted")), ev.RunEnded)
    assert only(farm.apply(ev.RunSealed(run_id="r")), ev.RunEnded).state is State.CANCELLED


def test_a_run_that_is_stopped_before_any_of_its_films_came_is_not_done():
    actions = FarmMachine().apply(ev.RunSealed(run_id="r", cut_short=True), 0)
    assert only(actions, ev.RunEnded).state is State.CANCELLED


def test_rows_that_were_bad_before_the_run_count_towards_the_limit_of_failures():
    machine = FarmMachine()
    machine.apply(ev.FilmsAdded(films=(film("a"),)), 0)
    actions = machine.apply(ev.RunSealed(run_id="r", max_failed=1, failed_before=2), 0)
    assert "2 jobs failed, more than the 1" in only(actions, ev.FilmEnded).message
    assert only(actions, ev.RunEnded).state is State.CANCELLED


RED, BLUE = (("red", 1.0),), (("blue", 1.0),)


def order_on_one_worker(*films: ev.QueuedFilm) -> list[str]:
    farm, order = Farm(*films), []
    actions = farm.first
    while work := next((action for action in actions if isinstance(action, ev.RenderSegment)), None):
        order.append(work.film[1])
        actions = farm.done(work)
        for finish in [action for action in actions if isinstance(action, ev.FinishFilm)]:
            actions += farm.published(finish)
    return order


def test_among_equals_films_for_the_loaded_adapters_go_first():
    films = [film(name, 1, adapters=RED if name[0] == "r" else BLUE) for name in ("r1", "b1", "r2", "b2", "r3")]
    assert order_on_one_worker(*films) == ["r1", "r2", "r3", "b1", "b2"]


def test_adapters_overrule_neither_priority_nor_deadline():
    films = [
        film("r1", 1, adapters=RED, priority=60),
        film("r2", 1, adapters=RED),
        film("b1", 1, adapters=BLUE, priority=55),
        film("b2", 1, adapters=BLUE, deadline_s=5.0),
    ]
    assert order_on_one_worker(*films) == ["r1", "b1", "b2", "r2"]


def test_another_weight_of_the_same_lora_is_another_setting():
    films = [film(f"f{i}", 1, adapters=(("red", weight),)) for i, weight in enumerate((1.0, 0.5, 1.0))]
    assert order_on_one_worker(*films) == ["f0", "f2", "f1"]


def test_a_film_that_needs_other_adapters_is_not_passed_over_for_ever():
    """New films for the loaded adapters keep coming; the one that waits has its turn after a while, and so has each."""
    farm = Farm(film("first", 1, adapters=RED), film("b1", 1, adapters=BLUE), film("b2", 1, adapters=BLUE), seal=False)
    actions, order = farm.first, []
    for number in range(60):
        work = only(actions, ev.RenderSegment)
        order.append(work.film[1])
        farm.apply(ev.FilmsAdded(films=(film(f"r{number}", 1, adapters=RED),)))
        actions = farm.done(work)
        for finish in [action for action in actions if isinstance(action, ev.FinishFilm)]:
            actions += farm.published(finish)
    assert order.index("b1") == MOST_PASSED_OVER + 1
    assert order.index("b2") == order.index("b1") + 1


def test_each_worker_goes_on_with_its_own_adapters():
    farm = Farm(*(film(f"f{i}", 1, adapters=(RED, BLUE)[i % 2]) for i in range(8)), workers=2)
    queue, adapters = list(farm.first), {}
    while queue:
        action = queue.pop(0)
        if isinstance(action, ev.RenderSegment):
            adapters.setdefault(action.worker, []).append(int(action.film[1][1]) % 2)
            queue += farm.done(action)
        elif isinstance(action, ev.FinishFilm):
            queue += farm.published(action)
    assert adapters == {"w0": [0] * 4, "w1": [1] * 4}


@pytest.mark.slow
def test_adapters_of_their_own_cost_films_little():
    def seconds(*films: ev.QueuedFilm) -> float:
        started = time.process_time()
        assert len(order_on_one_worker(*films)) == len(films)
        return time.process_time() - started

    without = seconds(*(film(f"f{i}", 1) for i in range(2000)))
    assert seconds(*(film(f"f{i}", 1, adapters=((f"lora{i}", 1.0),)) for i in range(2000))) < 3 * without + 0.5


def test_a_paused_run_gets_no_new_segments_until_it_is_resumed():
    farm = Farm(film("a", 2), film("b", 1))
    first = only(farm.first, ev.RenderSegment)
    farm.apply(ev.PauseRun(run_id="r"))
    none(farm.done(first), ev.RenderSegment)
    assert farm.machine.counts("r") == {"waiting": 2}
    assert farm.why("a") == farm.why("b") == "its run is paused"
    assert only(farm.apply(ev.ResumeRun(run_id="r")), ev.RenderSegment).film[1] in "ab"


def test_a_paused_run_still_finishes_films_whose_segments_are_done():
    farm = Farm(film("a", 1))
    farm.apply(ev.PauseRun(run_id="r"))
    finish = only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm)
    assert only(farm.published(finish), ev.RunEnded).state is State.DONE


def test_a_cancelled_film_of_a_paused_run_stays_cancelled():
    farm = Farm(film("a"), film("b"))
    farm.apply(ev.PauseRun(run_id="r"))
    farm.apply(ev.CancelRun(run_id="r", reason="no", job_ids=("b",)))
    farm.apply(ev.ResumeRun(run_id="r"))
    assert farm.machine.state_of(("r", "b")) is State.CANCELLED


def test_failed_and_cancelled_films_can_be_retried_while_the_run_goes_on():
    farm = Farm(film("a", 1), film("b", 1), film("c", 1))
    work = only(farm.failed(only(farm.first, ev.RenderSegment), JOB_FAULT), ev.RenderSegment)
    farm.apply(ev.CancelRun(run_id="r", reason="no", job_ids=("c",)))
    farm.apply(ev.RetryFilms(run_id="r", job_ids=("a", "b", "c", "unknown")))
    assert farm.machine.counts("r") == {"waiting": 2, "running": 1}
    done = farm.done(work)
    assert only(done, ev.RenderSegment).film == ("r", "a")
    assert only(done, ev.RenderSegment).attempt == 1


def test_a_film_cancelled_and_retried_while_its_worker_still_stops_begins_again():
    farm = Farm(film("a", 2), film("b", 2), workers=2)
    first = next(action for action in farm.first if action.film == ("r", "a"))
    farm.apply(ev.CancelRun(run_id="r", reason="no", job_ids=("a",)))
    none(farm.apply(ev.RetryFilms(run_id="r", job_ids=("a",))), ev.RenderSegment)
    cancelled = Failure(fault=Fault.CLUSTER, error_class="Cancelled", message="stopped")
    again = only(farm.failed(first, cancelled), ev.RenderSegment)
    assert again.film == ("r", "a")
    assert only(farm.done(again), ev.RenderSegment).segment == 1


def test_another_priority_counts_from_the_next_segment_on():
    farm = Farm(film("a", 2), film("b", 2), film("c", 2))
    farm.apply(ev.SetPriority(run_id="r", job_ids=("c",), priority=90))
    assert only(farm.done(only(farm.first, ev.RenderSegment)), ev.RenderSegment).film == ("r", "c")
    assert "2 films are ahead of it" not in farm.why("a")
    assert "1 films are ahead of it" in farm.why("b")


def test_out_of_memory_steps_down_the_memory_modes_and_then_fails():
    farm = Farm(film("a", 2, num_memory_modes=3))
    work = only(farm.first, ev.RenderSegment)
    for step in (1, 2):
        work = only(farm.failed(work, JOB_FAULT), ev.RenderSegment)
        assert (work.fallback_level, work.segment) == (step, 0)
    second = only(farm.done(work), ev.RenderSegment)
    assert second.fallback_level == 2
    assert only(farm.failed(second, JOB_FAULT), ev.FilmEnded).error_class == "OutOfMemoryError"


def test_a_worker_that_failed_a_film_once_never_gets_it_again():
    farm = Farm(film("a", 3), workers=2)
    first = only(farm.first, ev.RenderSegment)
    farm.failed(first, WORKER_FAULT)
    other = only(farm.tick(1.5), ev.RenderSegment)
    assert other.worker != first.worker
    farm.apply(ev.PauseRun(run_id="r"))
    farm.done(other)
    farm.machine.apply(
        ev.FilmsAdded(films=(ev.QueuedFilm(run_id="q", job_id="x", num_segments=1, priority=99),)), farm.now
    )
    farm.machine.apply(ev.TextReady(run_id="q", model=""), farm.now)
    # whoever took the urgent film, the failed worker is not given `a` back
    assert farm.machine._state.films["r", "a"].avoid == (first.worker,)


def test_of_the_workers_that_failed_a_film_the_first_one_is_replaced_first():
    """Not one that depends on Python's hash seed: the same events give the same actions in every process."""
    farm = Farm(film("a", 1), workers=6, attempts=99)
    work = only(farm.first, ev.RenderSegment)
    failed = [work.worker]
    for _ in range(5):
        farm.failed(work, WORKER_FAULT)
        work = only(farm.tick(70.0), ev.RenderSegment)
        failed.append(work.worker)
    farm.failed(work, WORKER_FAULT)
    assert only(farm.tick(70.0), ev.ReplaceWorker).worker == failed[0]


TWELVE = [film(f"f{i}", 1) for i in range(12)]


def test_a_host_whose_workers_keep_failing_is_quarantined_and_released():
    farm = Farm(*TWELVE, hosts=("bad", "good"), host_faults=2, attempts=99)
    work = next(a for a in farm.first if isinstance(a, ev.RenderSegment) and a.worker == "w0")
    work = only(farm.failed(work, WORKER_FAULT), ev.RenderSegment)
    assert work.worker == "w0"
    actions = farm.failed(work, WORKER_FAULT)
    assert only(actions, ev.HostQuarantined).host == "bad"
    assert only(actions, ev.ReplaceWorker).worker == "w0"
    none(actions, ev.RenderSegment)
    none(farm.apply(ev.WorkerUp(worker="w2", host="bad")), ev.RenderSegment)
    farm.apply(ev.ReleaseHost(host="bad"))
    only(farm.apply(ev.WorkerUp(worker="w3", host="bad")), ev.RenderSegment)


def test_the_last_host_is_never_quarantined_by_itself_but_by_a_person():
    farm = Farm(*TWELVE, hosts=("only",), host_faults=1, attempts=99)
    work = only(farm.first, ev.RenderSegment)
    none(farm.failed(work, WORKER_FAULT), ev.HostQuarantined)
    farm.apply(ev.QuarantineHost(host="only", reason="by hand"))
    assert farm.machine.hosts.quarantined == {"only": "by hand"}


def test_faults_of_jobs_and_of_the_cluster_are_not_held_against_a_host():
    farm = Farm(*TWELVE, hosts=("a", "b"), host_faults=1)
    work = next(a for a in farm.first if isinstance(a, ev.RenderSegment))
    work = next(a for a in farm.failed(work, CLUSTER_FAULT) if isinstance(a, ev.RenderSegment))
    none(farm.failed(work, JOB_FAULT), ev.HostQuarantined)


def test_preemption_costs_no_attempt_no_delay_and_never_gives_up():
    farm, preempted = (
        Farm(film("a", 1), attempts=1, patience_s=0.0),
        Failure(fault=Fault.CLUSTER, error_class="PreemptedError", message="SIGTERM"),
    )
    work = only(farm.first, ev.RenderSegment)
    for number in range(5):
        farm.now += 1000
        actions = farm.failed(work, preempted)
        assert only(actions, ev.ReplaceWorker).worker == work.worker
        work = only(farm.apply(ev.WorkerUp(worker=f"fresh{number}")), ev.RenderSegment)
        assert work.attempt == 1
    ended = only(farm.published(only(farm.done(work), ev.FinishFilm)), ev.FilmEnded)
    assert (ended.state, ended.attempts) == (State.DONE, 1)


def test_a_lost_machine_does_not_use_up_the_patience_with_the_store():
    farm = Farm(film(), attempts=1, patience_s=100)
    lost = Failure(fault=Fault.CLUSTER, error_class="NodeLostError", message="spot")
    farm.failed(only(farm.first, ev.RenderSegment), lost)
    work = only(farm.apply(ev.WorkerUp(worker="fresh")), ev.RenderSegment)
    farm.now += 1000
    assert only(farm.failed(work, CLUSTER_FAULT), ev.FilmDelayed).delay_s == 1


def test_delays_are_jittered_by_a_quarter_at_most_and_the_same_for_the_same_film():
    def delays(seed: str) -> list[float]:
        return [
            judge(
                CLUSTER_FAULT, faults_before=(), waits_before=n, waiting_for_s=0, policy=RetryPolicy(), seed=seed
            ).delay_s
            for n in range(8)
        ]

    assert delays("a") == delays("a") != delays("b")
    for delay, plain in zip(delays("a"), [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert 0.75 * plain <= delay <= 1.25 * plain


@pytest.mark.parametrize("fault", list(Fault))
def test_every_failure_has_a_row_in_the_policy(fault):
    assert rule_for(Failure(fault=fault, error_class="NeverHeardOf", message="")) in POLICY


def test_numbers_that_are_not_finite_fail_a_film_at_the_second_worker_and_blame_no_host():
    first, second = (
        judge(NOT_FINITE, faults_before=before, waits_before=0, waiting_for_s=0.0, policy=RetryPolicy(attempts=9))
        for before in ((), ("NotFiniteError",))
    )
    assert first.retry and first.avoid_worker and not second.retry
    rule = rule_for(NOT_FINITE)
    assert rule.ends_process and not rule.blames_host


def finishing(farm: Farm) -> ev.FinishFilm:
    return only(farm.done(only(farm.first, ev.RenderSegment)), ev.FinishFilm)


def cancel(farm: Farm) -> list[ev.Action]:
    return farm.apply(ev.CancelRun(run_id="r", reason="asked to", job_ids=("a",)))


STOPPED = Failure(fault=Fault.CLUSTER, error_class="Cancelled", message="stopped at a frame")


def test_a_film_that_is_cancelled_while_it_is_finished_ends_as_its_worker_says():
    for answer, state in ((Farm.published, State.DONE), (lambda f, w: f.failed(w, STOPPED), State.CANCELLED)):
        farm = Farm(film("a", 1))
        work = finishing(farm)
        actions = cancel(farm)
        assert only(actions, ev.StopWork).worker == work.worker
        none(actions, ev.FilmEnded)
        assert farm.machine.state_of(work.film) is State.CANCELLED
        actions = answer(farm, work)
        assert only(actions, ev.FilmEnded).state is state
        assert only(actions, ev.RunEnded).state is State.DONE, "a job that is cancelled by name cancels no run"


def test_ten_cancels_and_retries_of_a_film_never_finish_it_twice_at_a_time():
    farm = Farm(film("a", 1), workers=2)
    work = finishing(farm)
    for _ in range(10):
        cancel(farm)
        none(farm.apply(ev.RetryFilms(run_id="r", job_ids=("a",))), ev.FinishFilm)
    none(farm.failed(work, STOPPED), ev.FilmEnded)
    again = only(farm.tick(1.5), ev.FinishFilm)
    assert only(farm.published(again), ev.FilmEnded).state is State.DONE


def test_a_worker_that_dies_with_a_cancelled_film_does_not_bring_it_back():
    farm = Farm(film("a", 1))
    work = finishing(farm)
    cancel(farm)
    assert only(farm.apply(ev.WorkerLost(worker=work.worker, failure=WORKER_FAULT)), ev.FilmEnded).state == "cancelled"
