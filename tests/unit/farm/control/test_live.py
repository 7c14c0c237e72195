"""What is asked of a run that is being rendered, of the machine and the book that its coordinator has; no Ray."""

from __future__ import annotations

import pytest

from render_farm.errors import Fault
from render_farm.farm.control.live import LiveControl
from render_farm.farm.run.film_task import FilmTask
from render_farm.farm.run.owned_run import acquire_run
from render_farm.farm.run.scheduled_film import scheduled
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.scheduling import events as ev
from render_farm.scheduling.machine import FarmMachine
from render_farm.scheduling.retry import Failure
from render_farm.scheduling.states import State
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.mailbox import Request, Verb

BAD = Failure(fault=Fault.JOB, error_class="InputError", message="no such file")


@pytest.fixture
def run(tmp_path):
    """Run `night` with the films a and b, of which a has failed, and a row that is still being prepared."""
    spec = RunSpec(run_id="night", output=str(tmp_path), order=("a", "b", "coming"))
    held = acquire_run(spec, this_holder(), LeaseTiming(), on_lost=lambda error: None)
    held.machine = FarmMachine()
    for name in "ab":
        job = RenderJob(job_id=name, prompt="p", num_frames=9, height=32, width=32, base_num_frames=9)
        plan = plan_film(job, spec_of_preset("tiny", fingerprint="f"))
        task = FilmTask(run_id="night", output=str(tmp_path), model="tiny", plan=plan)
        held.progress.add(FilmEntry(task=task, costs=(1,)))
        film = scheduled(held.key, held.progress.films[name].entry, "cpu", clock_ahead_s=0.0)
        held.machine.apply(ev.FilmsAdded(films=(film,)), 0.0)
    held.started = held.sealed = True
    held.machine.apply(ev.TextReady(run_id=held.key, model="tiny"), 0.0)
    held.machine.apply(ev.RunSealed(run_id=held.key), 0.0)
    held.machine.apply(ev.WorkerUp(worker="w", host="h"), 0.0)
    for action in held.machine.apply(ev.WorkFailed(worker="w", film=(held.key, "a"), failure=BAD), 0.0):
        if isinstance(action, ev.FilmEnded):
            held.progress.ended("a", action.state, error_class="InputError", message="no such file", attempts=1)
    yield held
    held.lease.stop()


def ask(run, verb: str, *jobs: str, value: str = ""):
    control = LiveControl(run.machine, lambda event: run.machine.apply(event, 1.0))
    return control.answer(run, Request(verb=Verb(verb), jobs=jobs, value=value, by="me"))


def test_what_failed_waits_again(run):
    assert ask(run, "retry").data == {"jobs": ["a"]}
    assert run.progress.films["a"].result.state == run.machine.state_of((run.key, "a")) == State.WAITING


def test_a_row_that_is_still_being_prepared_is_said_to_be_one(run):
    for verb in ("cancel", "retry", "priority"):
        answer = ask(run, verb, "b", "coming", value="90")
        assert not answer.ok and not answer.not_found and "'coming' is still being prepared" in answer.text
    assert run.machine.state_of((run.key, "b")) != State.CANCELLED
    assert "still being prepared" in ask(run, "explain", "coming").text
    assert ask(run, "cancel", "unknown").not_found


def test_without_a_job_what_waits_and_what_failed_is_explained(run):
    answer = ask(run, "explain")
    assert [job["job_id"] for job in answer.data["jobs"] if job["state"] == "failed"] == ["a"]
    assert answer.text.endswith("a: failed after 1 attempts: no such file; 0 of 1 segments are stored")


def test_a_job_that_is_named_twice_is_retried_once(run):
    before = run.progress.pace.work_left
    assert ask(run, "retry", "a", "a").data == {"jobs": ["a"]}
    assert run.progress.pace.work_left == before + 1


def test_pausing_and_quarantining_outlive_the_coordinator(run):
    assert ask(run, "pause").data == {"state": "paused"}
    assert ask(run, "quarantine", value="h").data == {"host": "h"}
    assert (run.control.paused, run.control.quarantined) == (True, (("h", "by me"),))
    assert ask(run, "quarantine", value="elsewhere").not_found
    assert ask(run, "release", value="h").ok
    assert run.control.quarantined == ()


def test_what_is_asked_of_jobs_outlives_the_coordinator(run):
    assert ask(run, "priority", "b", value="90").text == "1 job is now of priority 90"
    assert run.durable.state.jobs["b"].priority == 90
    answer = ask(run, "cancel", "a", "b")
    assert answer.data == {"jobs": ["b"]} and answer.text == "1 job is cancelled (a is failed)"
    assert run.durable.state.jobs["b"].taken_out
    assert run.machine.state_of((run.key, "b")) == State.CANCELLED


def test_nothing_is_promised_of_a_run_that_is_ending(run):
    assert ask(run, "cancel").ok
    answer = ask(run, "retry", "a")
    assert not answer.ok
    assert "just ending" in answer.text
    assert run.progress.films["a"].result.state == run.machine.state_of((run.key, "a")) == State.FAILED
