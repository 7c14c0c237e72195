"""The lease of a run: one holder at a time, no clock compared, the dead found at once, the silent after a while."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from render_farm.errors import LeaseHeldError, StorageError
from render_farm.storage import lease, open_store
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import Lease, LeaseKeeper, LeaseTiming, _put, acquire, read_lease, this_holder
from render_farm.storage.process import ProcessId, host_id, is_dead, this_process

TIMING = LeaseTiming(renew_every_s=1.0, gone_after_s=30.0, poll_every_s=1.0)
KEYS = RunKeys(run_id="night")


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


class Clock:
    """Time passes only in `sleep`; `during` runs in each."""

    def __init__(self, during=lambda: None):
        self.now_s = 1000.0
        self.during = during

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.during()


def take(store, holder=None, clock=None, **options):
    clock = clock or Clock()
    return acquire(store, "night", holder or this_holder(), TIMING, clock=clock, sleep=clock.sleep, **options)


def test_a_free_lease_is_taken_at_once_and_names_its_holder(store):
    clock = Clock()
    holder = this_holder("10.0.0.1:6379")
    take(store, holder, clock)
    assert clock.now_s == 1000.0
    lease = read_lease(store, "night")
    assert (lease.number, lease.holder, lease.released) == (1, holder, False)
    assert lease.holder.process.pid == os.getpid()


def test_renewals_count_up_and_old_numbers_are_cleaned_up(store):
    handle = take(store)
    for _ in range(10):
        handle.renew()
    assert store.list(KEYS.leases) == [KEYS.lease(10), KEYS.lease(11)]


def test_a_released_lease_is_taken_at_once(store):
    handle = take(store)
    handle.release()
    handle.release()
    clock = Clock()
    take(store, clock=clock).renew()
    assert clock.now_s == 1000.0


def test_a_confirmation_renews_a_lease_that_is_not_fresh_and_finds_a_lost_one(store, monkeypatch):
    handle = take(store)
    handle.confirm()
    assert read_lease(store, "night").number == 1, "nobody can have taken it since"
    now_s = lease._now_s()
    monkeypatch.setattr(lease, "_now_s", lambda: now_s + 16.0)
    handle.confirm()
    handle.confirm()
    assert read_lease(store, "night").number == 2
    thief = take(store)  # which saw no sign for 30 s
    monkeypatch.setattr(lease, "_now_s", lambda: now_s + 60.0)
    for _ in range(2):
        with pytest.raises(LeaseHeldError):
            handle.confirm()
    thief.renew()


@pytest.mark.parametrize("call", ["renew", "release"])
def test_a_renewal_that_failed_after_it_was_written_is_nobody_elses(store, monkeypatch, call):
    lease = take(store)
    read = type(store).read_bytes

    def fail(*_):
        raise StorageError("503")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "read_bytes", fail)
        with pytest.raises(StorageError):
            lease.renew()
    assert type(store).read_bytes is read and read_lease(store, "night").number == 2
    getattr(lease, call)()
    seen = read_lease(store, "night")
    assert (seen.number, seen.holder, seen.released) == (3, lease.holder, call == "release")


def test_a_renewing_holder_is_named_after_its_first_renewal(store):
    handle = take(store, this_holder("head:6379"))
    clock = Clock(during=handle.renew)
    with pytest.raises(LeaseHeldError, match=rf"process {os.getpid()} .*head:6379"):
        take(store, clock=clock)
    assert clock.now_s < 1003
    handle.renew()


def test_one_may_wait_for_a_renewing_holder(store):
    handle = take(store)
    renewals = iter([handle.renew] * 5 + [handle.release])
    clock = Clock(during=lambda: next(renewals, lambda: None)())
    take(store, clock=clock, wait_s=60)
    assert 1005 <= clock.now_s <= 1010


def test_a_silent_holder_is_gone_after_the_observers_own_30_s_and_gives_up_when_it_returns(store):
    frozen = take(store)
    clock = Clock()
    new = take(store, clock=clock)
    assert 1030 <= clock.now_s <= 1032
    with pytest.raises(LeaseHeldError, match="taken over"):
        frozen.renew()
    with pytest.raises(LeaseHeldError):
        frozen.renew()
    frozen.release()
    new.renew()
    assert read_lease(store, "night").holder == new.holder


def test_a_slow_first_look_is_no_silence_of_the_holder(store, monkeypatch):
    first = take(store)
    clock, listing = Clock(during=first.renew), store.list

    def slow(prefix):
        clock.now_s += 60.0 if clock.now_s == 1000.0 else 0.0
        return listing(prefix)

    monkeypatch.setattr(store, "list", slow)
    with pytest.raises(LeaseHeldError):
        take(store, clock=clock)
    first.renew()


def test_one_frozen_for_long_does_not_take_a_number_that_was_cleaned_up(store):
    frozen = take(store)
    new = take(store)
    for _ in range(5):
        new.renew()
    assert not store.exists(KEYS.lease(2))
    with pytest.raises(LeaseHeldError):
        frozen.renew()
    assert not store.exists(KEYS.lease(2))
    new.renew()


def test_of_two_who_wait_for_the_same_dead_one_takes_it(store):
    take(store)
    rival = []

    def steal():
        if clock.now_s >= 1029 and not rival:
            rival.append(take(store))

    clock = Clock(during=steal)
    with pytest.raises(LeaseHeldError):
        take(store, clock=clock)
    rival[0].renew()


def test_a_dead_process_of_this_host_is_gone_at_once(store):
    program = (
        "import sys; from render_farm.storage import open_store; "
        "from render_farm.storage.lease import acquire, this_holder; "
        "acquire(open_store(sys.argv[1]), 'night', this_holder()); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, store.root_uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert child.stdout.readline() == b"held\n"
    process = read_lease(store, "night").holder.process
    child.send_signal(signal.SIGSTOP)
    assert not is_dead(process)  # frozen is not dead
    child.kill()
    child.wait()
    clock = Clock()
    take(store, clock=clock)
    assert clock.now_s == 1000.0


def test_dead_is_said_only_when_certain():
    me = this_process()
    assert not is_dead(me)
    assert not is_dead(ProcessId(host="elsewhere/00000000", pid=me.pid, started=1))
    assert is_dead(ProcessId(host=host_id(), pid=me.pid, started=me.started - 1))  # the id was used before
    assert not is_dead(ProcessId(host=host_id(), pid=0, started=0))


def test_a_damaged_lease_object_is_waited_for_and_replaced(store):
    take(store)
    store.write_bytes(KEYS.lease(1), b'{"holder"')
    clock = Clock()
    take(store, clock=clock).renew()
    assert 1030 <= clock.now_s <= 1032


FAST = LeaseTiming(renew_every_s=0.1, gone_after_s=2.0, poll_every_s=0.05)


@pytest.mark.slow
def test_a_keeper_renews_until_it_is_stopped(store):
    lost = []
    keeper = LeaseKeeper(acquire(store, "night", this_holder(), FAST), lost.append)
    with pytest.raises(LeaseHeldError):
        acquire(store, "night", this_holder(), FAST)
    time.sleep(2.2)
    with pytest.raises(LeaseHeldError):
        acquire(store, "night", this_holder(), FAST)
    keeper.stop()
    assert lost == []
    started = time.monotonic()
    acquire(store, "night", this_holder(), FAST)
    assert time.monotonic() - started < 1.5


def test_a_keeper_reports_a_lost_lease_once(store):
    lost, told = [], threading.Event()
    handle = acquire(store, "night", this_holder(), FAST)
    number = read_lease(store, "night").number
    thief = this_holder("thief")
    assert _put(store, KEYS, Lease(number=number + 1, holder=thief))
    keeper = LeaseKeeper(handle, lambda error: (lost.append(error), told.set()))
    assert told.wait(5)
    keeper.stop()
    assert len(lost) == 1
    assert "thief" in str(lost[0])
    assert read_lease(store, "night").holder == thief


@pytest.mark.slow
def test_a_keeper_waits_for_its_store_and_gives_up_when_it_stays_away(store, monkeypatch):
    timing = LeaseTiming(renew_every_s=0.05, gone_after_s=0.2, poll_every_s=0.05, give_up_after_s=1.5)
    handle = acquire(store, "night", this_holder(), timing)
    create, number = store.create, read_lease(store, "night").number

    def unreachable(*_):
        raise StorageError("no answer")

    monkeypatch.setattr(store, "create", unreachable)
    told = threading.Event()
    keeper = LeaseKeeper(handle, lambda _: told.set())
    assert not told.wait(0.6), "others may take it, and nobody did"
    monkeypatch.setattr(store, "create", create)
    while read_lease(store, "night").number == number:
        time.sleep(0.05)
    monkeypatch.setattr(store, "create", unreachable)
    started = time.monotonic()
    assert told.wait(20)
    assert time.monotonic() - started >= 1.3
    keeper.stop(release=False)
