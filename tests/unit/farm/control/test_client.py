"""Requests to a run: a live coordinator answers them, and what happens without one."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from render_farm.errors import RenderFarmError
from render_farm.farm.control.client import ask
from render_farm.storage.lease import LeaseTiming, acquire, this_holder
from render_farm.storage.mailbox import Answer, Request, Verb, give_answer, take_requests
from tests.helpers.stored_run import KEYS, stored_run

TIMING = LeaseTiming(renew_every_s=0.1, gone_after_s=0.5, poll_every_s=0.05)


@pytest.fixture
def store(tmp_path):
    return stored_run(tmp_path)


def stored(store, verb: str, *jobs: str, **more):
    outcome = ask(store, "night", Request(verb=Verb(verb), jobs=jobs, by="me", **more), timing=TIMING)
    assert not outcome.live
    return outcome.answer


def test_a_live_coordinator_answers_and_nothing_is_left_in_the_mailbox(store):
    handle = acquire(store, "night", this_holder("elsewhere"), TIMING)

    def answer() -> None:
        while not (requests := take_requests(store, "night")):
            time.sleep(0.01)
        [(request_id, request)] = requests
        give_answer(store, "night", request_id, Answer(ok=True, text=f"did {request.verb}", data={"n": 1}))

    thread = threading.Thread(target=answer)
    thread.start()
    outcome = ask(store, "night", Request(verb=Verb.PAUSE), timing=TIMING)
    thread.join()
    assert (outcome.live, outcome.answer) == (True, Answer(ok=True, text="did pause", data={"n": 1}))
    assert store.list(KEYS.control) == []
    handle.release()


def test_an_answer_keeps_its_key_in_the_store(store):
    give_answer(store, "night", "20200101T000000-00", Answer(ok=True, text="t", data={"n": 1}))
    assert json.loads(store.read_bytes(KEYS.answer("20200101T000000-00")))["facts"] == {"n": 1}


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
        give_answer(store, "night", requests[0][0], Answer(ok=True, text="it stops", data={}))
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


@pytest.mark.slow
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
