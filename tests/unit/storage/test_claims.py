"""Two runs, one output, one job id, two films: one publishes, the other says who holds it, and no files are mixed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from render_farm.storage import open_store
from render_farm.storage import publish as publishing
from render_farm.storage.claims import ClaimLostError, JobHeldError, claim_job, is_current, read_claim
from render_farm.storage.done import read_done, verify_done
from render_farm.storage.layout import ClaimKeys, film_key
from render_farm.storage.lease import HolderWatch, LeaseTiming, acquire, this_holder
from render_farm.storage.process import ProcessId

A, B = film_key("job", "a" * 12), film_key("job", "b" * 12)
TIMING = LeaseTiming(gone_after_s=0.6, poll_every_s=0.05)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "out")


def held(store, run_id: str, *, elsewhere: bool = False):
    holder = this_holder()
    if elsewhere:
        process = ProcessId(host="another", pid=1, started=1)
        holder = type(holder)(address="x", process=process, token="t")
    return acquire(store, run_id, holder, TIMING)


def publish(store, tmp_path, film: str, claim=None):
    for name in ("video.mp4", "poster.jpg"):
        (tmp_path / name).write_bytes(f"{film} {name}".encode())
    files = {name: tmp_path / name for name in ("video.mp4", "poster.jpg")}
    return publishing.publish(store, film, f"attempt-of-{film[-3:]}", files, {}, claim=claim)


class Renewing:
    """A lease that is renewed whenever somebody looks a while."""

    def __init__(self, monkeypatch, handle):
        monkeypatch.setattr("render_farm.storage.lease.time.sleep", lambda s: handle.renew())


def test_a_claim_is_made_once_and_kept_without_renewals(store):
    first = claim_job(store, "night", A)
    assert claim_job(store, "night", A) == first == read_claim(store, "job")
    assert is_current(store, first)


def test_another_film_under_a_held_run_is_refused_and_told_who_holds_it(store, monkeypatch):
    Renewing(monkeypatch, held(store, "night"))
    first = claim_job(store, "night", A)
    with pytest.raises(JobHeldError, match="run night, which is being rendered"):
        claim_job(store, "other", B)
    assert claim_job(store, "other", A).run_id == "other"  # the same pixels: both may go on
    assert is_current(store, first)


@pytest.mark.slow
def test_a_run_that_has_ended_or_gone_silent_holds_nothing(store):
    handle = held(store, "night")
    claim_job(store, "night", A)
    handle.release()
    assert claim_job(store, "other", B).number == 2
    held(store, "other", elsewhere=True)  # and never renewed
    assert claim_job(store, "third", A, HolderWatch(0.6)).number == 3


def test_nobody_waits_for_a_run_that_died_elsewhere_and_rendered_the_same_pixels(store):
    held(store, "night", elsewhere=True)
    claim_job(store, "night", A)
    started = time.monotonic()
    assert claim_job(store, "tonight", A).run_id == "tonight"
    assert time.monotonic() - started < 1.0


@pytest.mark.slow
def test_a_run_that_died_elsewhere_is_watched_once_for_all_its_films(store):
    held(store, "night", elsewhere=True)
    jobs = [f"job{number}" for number in range(20)]
    for job in jobs:
        claim_job(store, "night", film_key(job, "a" * 12))
    watch, waited = HolderWatch(1.0, poll_every_s=0.1), []
    for job in jobs:
        started = time.monotonic()
        claim_job(store, "tonight", film_key(job, "b" * 12), watch)
        waited.append(time.monotonic() - started)
    assert waited[0] >= 1.0 and max(waited[1:]) < 0.5


@pytest.mark.slow
def test_a_holder_that_returns_after_it_was_given_up_is_seen(store):
    holder = held(store, "night", elsewhere=True)
    claim_job(store, "night", A)
    watch = HolderWatch(0.5, poll_every_s=0.1)
    assert watch.held(store, ["night"]) == set()
    holder.renew()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: [holder.renew() or time.sleep(0.1) for _ in range(10)])
        assert watch.held(store, ["night"]) == {"night"}


def test_a_claim_with_a_number_that_was_used_and_removed_long_ago_is_none(store, monkeypatch):
    """Of a process that was frozen between looking and claiming."""
    claim_job(store, "night", A)
    create = store.create

    def frozen(key: str, data: bytes, kind=None) -> bool:
        monkeypatch.setattr(store, "create", create)
        for run_id in ("night2", "night3", "night4"):
            claim_job(store, run_id, A)
        assert not store.exists(key)
        return create(key, data, kind)

    monkeypatch.setattr(store, "create", frozen)
    claim = claim_job(store, "other", A)
    assert (claim.number, read_claim(store, "job")) == (5, claim)
    assert store.list(ClaimKeys(job_id="job").folder) == [ClaimKeys(job_id="job").claim(5)]


def test_a_run_may_render_a_changed_job_after_itself(store, monkeypatch):
    Renewing(monkeypatch, held(store, "night"))
    claim_job(store, "night", A)
    assert claim_job(store, "night", B).film == B


def test_a_damaged_claim_is_nobodys(store):
    claim_job(store, "night", A)
    store.write_bytes(ClaimKeys(job_id="job").claim(1), b"torn")
    assert claim_job(store, "other", B).number == 2


def test_who_lost_the_claim_before_publishing_writes_nothing(store, tmp_path):
    mine = claim_job(store, "night", A)
    theirs = claim_job(store, "other", B)
    publish(store, tmp_path, B, theirs)
    with pytest.raises(ClaimLostError):
        publish(store, tmp_path, A, mine)
    assert read_done(store, "job")["render_key"] == "b" * 12
    assert verify_done(store, "job") == ()


@pytest.mark.parametrize("frozen_after", ["video.mp4", "poster.jpg", "job.json"])
def test_who_is_frozen_in_the_middle_of_copying_repairs_what_it_mixed(store, tmp_path, monkeypatch, frozen_after):
    mine = claim_job(store, "night", A)
    copy = store.copy

    def freezing(source: str, target: str, kind=None) -> None:
        if target == f"job/{frozen_after}" and store.copy is not copy:
            store.copy = copy
            publish(store, tmp_path, B, claim_job(store, "other", B))
        copy(source, target, kind)

    store.copy = freezing
    with pytest.raises(ClaimLostError):
        publish(store, tmp_path, A, mine)
    assert read_done(store, "job")["render_key"] == "b" * 12
    assert verify_done(store, "job") == ()
