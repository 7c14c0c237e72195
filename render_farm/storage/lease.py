"""Who owns a run: a series of numbered create-only objects, the newest of which names the holder.

Taking, renewing and releasing are the same act: create the next number. Clocks are not compared: an observer counts on
its own monotonic clock since it last saw a new number. A holder is gone when that was `gone_after_s` ago, or at once
when it is a dead process of this host, or when it said so. The lease is for efficiency only, because a store checks no
token. `publish.py` decides what is published exactly once.

`Lease` is one object of the series, `LeaseHandle` a held lease, `LeaseKeeper` renews one in the background, and
`HolderWatch` says whether others' runs are held. Whoever holds a lease calls `confirm` before each write that is its
holder's alone: a process that was frozen sees there that the run is another's now.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from render_farm.errors import LeaseHeldError, NotFoundError, StorageError
from render_farm.storage import checked_json
from render_farm.storage.layout import RunKeys, number_of
from render_farm.storage.process import ProcessId, is_dead, this_process
from render_farm.storage.store import Store

log = logging.getLogger(__name__)
SCHEMA = "render_farm.lease/1"


@dataclass(frozen=True, kw_only=True)
class LeaseTiming:
    """Time-outs. `gone_after_s` is several times `renew_every_s`, so that a slow store loses no lease."""

    renew_every_s: float = 8.0
    gone_after_s: float = 30.0
    poll_every_s: float = 1.0
    give_up_after_s: float = 600.0
    """A holder that cannot renew because the store fails gives up after so long; more than `gone_after_s`. Its next
    renewal shows whether somebody took the lease in the meantime."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lease."""

    address: str
    """Of the Ray cluster; `local` for a private one."""
    process: ProcessId
    token: str
    """Unique to one taking of the lease."""

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host.partition('/')[0]} (Ray at {self.address})"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One object of the series."""

    number: int
    holder: Holder
    released: bool = False


def this_holder(address: str = "local") -> Holder:
    """This process, with a fresh token."""
    return Holder(address=address, process=this_process(), token=secrets.token_hex(8))


def read_lease(store: Store, run_id: str) -> Lease | None:
    """The newest lease object of a run, released or not, or None when there is none. StorageError passes."""
    keys = RunKeys(run_id=run_id)
    while True:
        numbers = _numbers(store, keys)
        if not numbers:
            return None
        try:
            return _parse(store.read_bytes(keys.lease(numbers[-1])), numbers[-1])
        except NotFoundError:  # renewed and cleaned up between the listing and the reading
            continue


def acquire(
    store: Store,
    run_id: str,
    holder: Holder,
    timing: LeaseTiming | None = None,
    *,
    wait_s: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> LeaseHandle:
    """Take the lease of a run for `holder`, as soon as nobody else holds it.

    Free, released and dead-on-this-host leases are taken at once. A silent holder is watched until it is gone, at
    most `timing.gone_after_s`; one that renews meanwhile is alive: LeaseHeldError names it, after `wait_s` of further
    waiting. StorageError passes.
    """
    timing = timing or LeaseTiming()
    keys = RunKeys(run_id=run_id)
    started = clock()
    seen, num_signs = read_lease(store, run_id), 0
    seen_at = clock()  # after the reading, which may take long: the holder is watched from here on
    while True:
        if seen is None or seen.released or is_dead(seen.holder.process) or clock() - seen_at >= timing.gone_after_s:
            number = 1 if seen is None else seen.number + 1
            if seen is not None and not seen.released:
                log.warning("run %s: taking over from %s, which is gone", run_id, seen.holder)
            asked_s = _now_s()
            if _put(store, keys, Lease(number=number, holder=holder)):
                is_taken_over = seen is not None and not seen.released
                return LeaseHandle(store, run_id, holder, number, timing, asked_s, is_taken_over=is_taken_over)
        elif num_signs > 0 and clock() - started >= wait_s:
            raise LeaseHeldError(
                f"run {run_id} is held by {seen.holder}",
                advice="watch that one (render-farm status), stop it, or give another run id",
            )
        else:
            sleep(timing.poll_every_s)
        now_seen = read_lease(store, run_id)
        if now_seen != seen:
            seen_at, seen, num_signs = clock(), now_seen, num_signs + 1


class LeaseHandle:
    """A held lease. Not shared between threads (`LeaseKeeper` guards it)."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        holder: Holder,
        number: int,
        timing: LeaseTiming,
        renewed_s: float,
        *,
        is_taken_over: bool = False,
    ) -> None:
        """`renewed_s` is the time just before the lease was taken."""
        self.run_id = run_id
        self.holder = holder
        self.timing = timing
        self.is_taken_over = is_taken_over
        """From a holder that fell silent or died, and did not give it back."""
        self._store = store
        self._keys = RunKeys(run_id=run_id)
        self._number = number
        self._held = True
        self._renewed_s = renewed_s

    def renew(self) -> None:
        """Show that the holder lives; call every `timing.renew_every_s`. LeaseHeldError when someone else has taken
        the lease, and from then on always. StorageError passes, and the renewal may be tried again."""
        started_s = _now_s()
        self._next(released=False)
        self._renewed_s = started_s

    def confirm(self) -> None:
        """Make sure that the lease is held at this moment: nobody takes it within `gone_after_s` of a renewal, so one
        is made only when the last is older than half of that. Raises as `renew`."""
        if not self._held or _now_s() - self._renewed_s > self.timing.gone_after_s / 2:
            self.renew()

    def release(self) -> None:
        """Give the lease back, so that the next one need not wait. Fine when it was lost or released before."""
        if not self._held:
            return
        try:
            self._next(released=True)
        except LeaseHeldError:
            return
        self._held = False

    def _next(self, *, released: bool) -> None:
        while self._held:
            lease = Lease(number=self._number + 1, holder=self.holder, released=released)
            if _put(self._store, self._keys, lease):
                self._number = lease.number
                return
            newest = read_lease(self._store, self.run_id)
            if newest is None or newest.holder != self.holder or newest.number <= self._number:
                self._held = False
            else:  # of a call that failed after it had created it
                self._number = newest.number
        newest = read_lease(self._store, self.run_id)
        taker = newest.holder if newest is not None else "someone who removed it"
        raise LeaseHeldError(f"run {self.run_id} was taken over by {taker}; this process has given it up")


class LeaseKeeper:
    """Renews a lease in a thread until `stop`, and calls `on_lost(error)` once, in that thread, when it is lost: taken
    by someone else, or not renewed for `give_up_after_s` because the store failed."""

    def __init__(self, handle: LeaseHandle, on_lost: Callable[[Exception], None]) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{handle.run_id}", daemon=True)
        self._thread.start()

    @property
    def is_taken_over(self) -> bool:
        """As of `LeaseHandle`."""
        return self._handle.is_taken_over

    @property
    def holder(self) -> Holder:
        """As of `LeaseHandle`."""
        return self._handle.holder

    @property
    def timing(self) -> LeaseTiming:
        """As of `LeaseHandle`."""
        return self._handle.timing

    def confirm(self) -> None:
        """As of `LeaseHandle`; from any thread."""
        with self._lock:
            self._handle.confirm()

    def stop(self, *, release: bool = True) -> None:
        """End the renewals and, with `release`, give the lease back. StorageError from the release passes."""
        self._stop.set()
        self._thread.join()
        if release:
            with self._lock:
                self._handle.release()

    def _keep(self) -> None:
        timing = self._handle.timing
        renewed_at = time.monotonic()
        while not self._stop.wait(timing.renew_every_s):
            try:
                with self._lock:
                    self._handle.renew()
                renewed_at = time.monotonic()
            except LeaseHeldError as error:
                self._on_lost(error)
                return
            except StorageError as error:
                log.warning("run %s: the lease is not renewed: %s", self._handle.run_id, error)
                if time.monotonic() - renewed_at > timing.give_up_after_s:
                    self._on_lost(error)
                    return


class HolderWatch:
    """Whether runs are held by a live process. A holder that shows no sign of life is watched for `gone_after_s`, once.
    That nobody holds the run is then remembered for every film that asks. Shared between threads."""

    def __init__(self, gone_after_s: float = 30.0, *, poll_every_s: float = 0.5) -> None:
        self._gone_after_s = gone_after_s
        self._poll_every_s = poll_every_s
        self._gone: dict[tuple[str, str], Lease] = {}
        """The last sign of holders that have left, by output and run."""

    def held(self, store: Store, run_ids: Iterable[str]) -> set[str]:
        """Those of `run_ids` that somebody holds. All silent holders are watched at the same time. StorageError
        passes."""
        silent = {run_id: lease for run_id in run_ids if (lease := self._sign(store, run_id)) is not None}
        alive: set[str] = set()
        stop_s = time.monotonic() + self._gone_after_s
        while silent and time.monotonic() < stop_s:
            time.sleep(self._poll_every_s)
            for run_id, before in list(silent.items()):
                now = self._sign(store, run_id)
                if now is not None and now.number != before.number:
                    alive.add(run_id)
                if now is None or run_id in alive:
                    del silent[run_id]
        self._gone.update({(store.root_uri, run_id): lease for run_id, lease in silent.items()})
        return alive

    def _sign(self, store: Store, run_id: str) -> Lease | None:
        """The newest sign of a holder that may live."""
        try:
            lease = read_lease(store, run_id)
        except ValueError:  # no run id at all
            return None
        if lease is None or lease.released or is_dead(lease.holder.process):
            return None
        return None if lease == self._gone.get((store.root_uri, run_id)) else lease


def _now_s() -> float:
    """Seconds on a clock that keeps running while this process, or the machine, is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _put(store: Store, keys: RunKeys, lease: Lease) -> bool:
    """Create the next object of the series; True when it is the newest and ours. Removes what lies before it."""
    key = keys.lease(lease.number)
    if not store.create(key, _dump(lease)):
        return False
    # One that was frozen may create a number that was used and cleaned up long ago; and a store that does not honour
    # create-only writes lets two create one number. Both show when looking again.
    numbers = _numbers(store, keys)
    if not numbers or numbers[-1] != lease.number:
        store.delete(key)
        return False
    try:
        if _parse(store.read_bytes(key), lease.number).holder != lease.holder:
            return False
    except NotFoundError:
        return False
    for number in numbers[:-2]:  # the one before stays, for whoever has just listed it
        store.delete(keys.lease(number))
    return True


def _numbers(store: Store, keys: RunKeys) -> list[int]:
    return sorted(number for number in map(number_of, store.list(keys.leases)) if number is not None)


def _dump(lease: Lease) -> bytes:
    return checked_json.dump({"released": lease.released, "holder": asdict(lease.holder)}, schema=SCHEMA)


def _parse(data: bytes, number: int) -> Lease:
    """A damaged object counts as a lease of nobody known: it is waited for like any silent holder."""
    unknown = Lease(number=number, holder=Holder(address="?", process=ProcessId(host="?", pid=0, started=0), token=""))
    try:
        content: dict[str, Any] = checked_json.load(data, schema=SCHEMA)
        holder = content["holder"]
        process = ProcessId(**holder["process"])
        if not (isinstance(process.host, str) and _is_count(process.pid, 31) and _is_count(process.started, 63)):
            raise TypeError(f"no process: {holder['process']!r:.120}")
        found = Holder(address=str(holder["address"]), process=process, token=str(holder["token"]))
        return replace(unknown, holder=found, released=bool(content["released"]))
    except (checked_json.DamagedDocument, KeyError, TypeError) as error:
        log.warning("lease object %d is damaged: %s", number, error)
        return unknown


def _is_count(value: Any, num_bits: int) -> bool:
    return isinstance(value, int) and 0 <= value < 2**num_bits
