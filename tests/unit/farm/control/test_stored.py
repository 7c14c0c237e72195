"""Steering a run that nobody renders, and speaking to one that somebody does, without Ray."""

from __future__ import annotations

import pytest

from render_farm.errors import NotFoundError
from render_farm.farm.control import verbs
from render_farm.farm.control.client import ask
from render_farm.storage.lease import LeaseTiming
from render_farm.storage.mailbox import Request, Verb
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state
from tests.helpers.stored_run import KEYS, stored_run

TIMING = LeaseTiming(renew_every_s=0.1, gone_after_s=0.5, poll_every_s=0.05)


@pytest.fixture
def store(tmp_path):
    return stored_run(tmp_path)


def stored(store, verb: str, *jobs: str, **more):
    outcome = ask(store, "night", Request(verb=Verb(verb), jobs=jobs, by="me", **more), timing=TIMING)
    assert not outcome.live
    return outcome.answer


def test_pausing_and_resuming_a_run_that_nobody_renders_is_kept_for_its_next_start(store):
    assert stored(store, "pause").ok
    assert load_run_state(store, "night").control.paused
    assert stored(store, "resume").ok
    assert not load_run_state(store, "night").control.paused


def test_what_changes_nothing_writes_nothing(store):
    before = store.list(KEYS.folder)
    for verb in ("hosts", "cancel", "resume"):
        outcome = ask(store, "night", Request(verb=Verb(verb), by="me"), timing=TIMING)
        assert outcome.answer.ok and not outcome.is_kept
    assert [key for key in store.list(KEYS.folder) if "lease" not in key] == before


def test_a_job_cancelled_by_name_is_left_out_until_it_is_retried(store):
    assert stored(store, "cancel", "a", "c", reason="ugly").ok
    rows = load_run_state(store, "night").jobs
    assert rows["a"].state == "done"
    assert (rows["c"].state, rows["c"].taken_out, rows["c"].message) == ("cancelled", True, "cancelled by me: ugly")
    assert stored(store, "retry", "c").ok
    assert load_run_state(store, "night").jobs["c"] == JobRow()


def test_retrying_all_that_failed(store):
    assert stored(store, "retry").data == {"jobs": ["b"]}
    assert load_run_state(store, "night").jobs["b"] == JobRow(state="waiting", segments=3, segments_done=1)
    assert stored(store, "retry").text == "no jobs are waiting again"


def test_a_priority_is_kept_for_the_jobs_that_are_left(store):
    assert stored(store, "priority", value="90").data == {"jobs": ["c"]}
    assert load_run_state(store, "night").jobs["c"].priority == 90
    assert not stored(store, "priority", value="101").ok


@pytest.mark.parametrize("value", ["²", "101", "-1", "", "9" * 5000, "1e1"])
def test_what_is_no_priority_is_refused_wherever_it_comes_from(store, value):
    request = Request(verb=Verb.PRIORITY, value=value)
    assert request.priority is None
    assert not ask(store, "night", request).answer.ok


def test_hosts_are_quarantined_and_released(store):
    assert stored(store, "quarantine", value="gpu-7", reason="ECC").ok
    assert stored(store, "hosts").data == {"hosts": [{"host": "gpu-7", "quarantined_for": "ECC"}]}
    assert stored(store, "release", value="gpu-7").ok
    assert not stored(store, "release", value="gpu-7").ok


def test_explaining_jobs_of_a_run_that_nobody_renders(store):
    text = stored(store, "explain", "a", "b", "c").text
    assert "a: done" in text
    assert "b: failed: no memory; 1 of 3 segments are stored; `render-farm continue night --output " in text
    assert "c: nothing is stored; nobody renders run night" in text


def test_without_a_job_all_that_wait_and_then_all_that_failed_are_explained(store, monkeypatch):
    answer = stored(store, "explain")
    assert [job["job_id"] for job in answer.data["jobs"]] == ["c", "b"]
    assert "b: failed: no memory" in answer.text
    monkeypatch.setattr(verbs, "MOST_EXPLAINED", 1)
    assert stored(store, "explain").text.endswith("\n... and 1 more")
    assert len(stored(store, "explain", "a", "b", "c").data["jobs"]) == 3, "whoever names jobs gets them all"
    stored(store, "cancel", "c")
    stored(store, "retry", "b")
    stored(store, "cancel", "b")
    assert stored(store, "explain").text == "no job of run night waits or has failed"


def test_jobs_of_a_run_that_was_cancelled_as_a_whole_wait_for_its_next_start(store):
    state = RunStateWriter(store, "night", load_run_state(store, "night"))
    state.write({"c": JobRow(state="cancelled", message="interrupted", segments=3, segments_done=2)})
    assert [job["job_id"] for job in stored(store, "explain").data["jobs"]] == ["c", "b"]
    text = stored(store, "explain", "c").text
    assert text.startswith("c: 2 of 3 segments are stored; nobody renders run night")


def test_a_row_that_is_wrong_is_to_be_corrected(store):
    state = RunStateWriter(store, "night", load_run_state(store, "night"))
    state.write({"c": JobRow(state="failed", message="height: 48 is not", error_class="InvalidJobError")})
    text = stored(store, "explain", "c").text
    assert text == "c: failed: height: 48 is not; correct the row, and start the run with the corrected manifest"


def test_resuming_a_run_that_nobody_renders_promises_nothing(store):
    assert stored(store, "resume").text == "nobody renders run night; it was not paused"
    stored(store, "pause")
    assert stored(store, "resume").text == "nobody renders run night; its pause has ended"
    assert stored(store, "resume").data["jobs_left"] == 2  # one waits, and one that failed would be tried again
    stored(store, "retry", "b")
    stored(store, "cancel", "b", "c")
    over = stored(store, "resume")
    assert over.text == "nobody renders run night; it was not paused, and no job of it is left to render"
    assert over.data["jobs_left"] == 0


def test_unknown_jobs_and_runs_are_not_found(store):
    answer = stored(store, "cancel", "nobody")
    assert (answer.ok, answer.data) == (False, {"not_found": True})
    with pytest.raises(NotFoundError):
        ask(store, "other", Request(verb=Verb.PAUSE))
