"""Steering a run that nobody renders, and speaking to one that somebody does, without Ray."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from render_farm.cli.main import app
from render_farm.errors import NotFoundError, RenderFarmError
from render_farm.farm.control.client import ask
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest
from render_farm.storage import open_store
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import LeaseTiming, acquire, this_holder
from render_farm.storage.mailbox import Answer, Request, Verb, give_answer, post, take_requests, wait_answer
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state

TIMING = LeaseTiming(renew_every_s=0.1, gone_after_s=0.5, poll_every_s=0.05)
KEYS = RunKeys(run_id="night")


@pytest.fixture
def store(tmp_path):
    """The output of a run of jobs a, b and c that nobody renders any more."""
    write_manifest(str(tmp_path / "m.parquet"), [RenderJob(job_id=name, prompt="p") for name in "abc"])
    store = open_store(tmp_path / "out")
    store.put_file(tmp_path / "m.parquet", KEYS.manifest)
    store.write_bytes(KEYS.run, b"{}")
    state = RunStateWriter(store, "night", load_run_state(store, "night"))
    state.write(
        {
            "a": JobRow(state="done", segments=2, segments_done=2),
            "b": JobRow(state="failed", segments=3, segments_done=1, message="no memory", error_class="X"),
        }
    )
    return store


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
    assert stored(store, "retry").facts == {"jobs": ["b"]}
    assert load_run_state(store, "night").jobs["b"] == JobRow(state="waiting", segments=3, segments_done=1)


def test_a_priority_is_kept_for_the_jobs_that_are_left(store):
    assert stored(store, "priority", value="90").facts == {"jobs": ["c"]}
    assert load_run_state(store, "night").jobs["c"].priority == 90
    assert not stored(store, "priority", value="101").ok


@pytest.mark.parametrize("value", ["²", "101", "-1", "", "9" * 5000, "1e1"])
def test_what_is_no_priority_is_refused_wherever_it_comes_from(store, value):
    request = Request(verb=Verb.PRIORITY, value=value)
    assert request.priority is None
    assert not ask(store, "night", request).answer.ok


def test_hosts_are_quarantined_and_released(store):
    assert stored(store, "quarantine", value="gpu-7", reason="ECC").ok
    assert stored(store, "hosts").facts == {"hosts": [{"host": "gpu-7", "quarantined_for": "ECC"}]}
    assert stored(store, "release", value="gpu-7").ok
    assert not stored(store, "release", value="gpu-7").ok


def test_explaining_jobs_of_a_run_that_nobody_renders(store):
    text = stored(store, "explain", "a", "b", "c").text
    assert "a: done" in text
    assert "b: failed: no memory; 1 of 3 segments are stored; the same command tries it again" in text
    assert "c: nothing is stored; nobody renders run night" in text


def test_unknown_jobs_and_runs_are_not_found(store):
    answer = stored(store, "cancel", "nobody")
    assert (answer.ok, answer.facts) == (False, {"not_found": True})
    with pytest.raises(NotFoundError):
        ask(store, "other", Request(verb=Verb.PAUSE))


def test_a_live_coordinator_answers_and_nothing_is_left_in_the_mailbox(store):
    handle = acquire(store, "night", this_holder("elsewhere"), TIMING)

    def answer() -> None:
        while not (requests := take_requests(store, "night")):
            time.sleep(0.01)
        [(request_id, request)] = requests
        give_answer(store, "night", request_id, Answer(ok=True, text=f"did {request.verb}", facts={"n": 1}))

    thread = threading.Thread(target=answer)
    thread.start()
    outcome = ask(store, "night", Request(verb=Verb.PAUSE), timing=TIMING)
    thread.join()
    assert (outcome.live, outcome.answer) == (True, Answer(ok=True, text="did pause", facts={"n": 1}))
    assert store.list(KEYS.control) == []
    handle.release()


def died_holding(store, address: str) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    holder = this_holder(address)
    acquire(store, "night", replace(holder, process=replace(holder.process, pid=dead.pid)), TIMING)


def test_a_run_whose_coordinator_is_being_started_anew_is_cancelled_by_the_next(store):
    died_holding(store, "10.0.0.1:6379")

    def start_anew() -> None:
        while not (requests := take_requests(store, "night")):
            time.sleep(0.01)
        handle = acquire(store, "night", this_holder("10.0.0.1:6379"), TIMING)
        give_answer(store, "night", requests[0][0], Answer(ok=True, text="it stops", facts={}))
        handle.release()

    thread = threading.Thread(target=start_anew)
    thread.start()
    outcome = ask(store, "night", Request(verb=Verb.CANCEL, by="me"), timing=TIMING)
    thread.join()
    assert (outcome.live, outcome.answer.text) == (True, "it stops")
    assert store.list(KEYS.control) == []


def test_who_stops_waiting_for_the_next_coordinator_leaves_no_request_for_it(store, monkeypatch):
    died_holding(store, "10.0.0.1:6379")

    def interrupted(*_: object) -> None:
        assert len(take_requests(store, "night")) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("render_farm.storage.mailbox.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(store, "night", Request(verb=Verb.CANCEL, by="me"), timing=TIMING)
    assert store.list(KEYS.control) == []


def test_cancelling_a_run_whose_coordinator_died_says_so(store):
    died_holding(store, "local")
    assert "Its coordinator died" in stored(store, "cancel").text
    assert "died" not in stored(store, "cancel").text  # the lease was given back
    assert store.list(KEYS.control) == []


def test_a_holder_that_lives_and_does_not_answer_is_said_so_and_the_request_withdrawn(store):
    handle = acquire(store, "night", this_holder("elsewhere"), TIMING)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.1):
            handle.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(RenderFarmError, match="does not answer; the request was withdrawn"):
            ask(store, "night", Request(verb=Verb.PAUSE), timing=LeaseTiming(gone_after_s=0.5), wait_s=0.6)
    finally:
        stop.set()
        thread.join()
    assert store.list(KEYS.control) == []


def test_requests_are_taken_in_order_and_garbage_is_removed(store):
    first = post(store, "night", Request(verb=Verb.PAUSE, by="x"))
    store.write_bytes(f"{KEYS.control}/evil.request.json", b"\x80\x04pickle")
    store.write_bytes(f"{KEYS.control}/{'0' * 8}.request.json", store.read_bytes(KEYS.request(first))[:-20])
    assert [request for _, request in take_requests(store, "night")] == [Request(verb=Verb.PAUSE, by="x")]
    assert store.list(KEYS.control) == [KEYS.request(first)]
    assert wait_answer(store, "night", first, 0.0) is None
    assert store.list(KEYS.control) == []


def invoke(*arguments: str):
    return CliRunner().invoke(app, [*arguments])


def test_the_verbs_read_a_run_by_its_uri_or_by_its_id_and_output(store, monkeypatch):
    done = invoke("pause", f"{store.root_uri}/_runs/night", "--json")
    assert json.loads(done.stdout)["applied"] == "stored"
    monkeypatch.setenv("RENDER_FARM_OUTPUT", store.root_uri)
    assert invoke("resume", "night").exit_code == 0
    assert invoke("cancel", "night", "c").exit_code == 2  # nobody is there to confirm
    assert invoke("cancel", "night", "c", "--yes").exit_code == 0
    assert invoke("explain", "night", "c").stdout.startswith("c: cancelled by name")
    assert invoke("explain", "night", "nobody").exit_code == 14
    assert invoke("pause", "nights").exit_code == 14
    assert invoke("retry", "night").exit_code == 2
    assert invoke("hosts", "list", "night").exit_code == 0


def test_a_run_without_an_output_is_a_usage_error(monkeypatch, tmp_path):
    monkeypatch.delenv("RENDER_FARM_OUTPUT", raising=False)
    monkeypatch.setenv("RENDER_FARM_CONFIG", "")
    assert invoke("pause", "night").exit_code == 2
    assert invoke("pause", "../x", "--output", str(tmp_path)).exit_code == 2
