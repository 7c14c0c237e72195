"""Which hosts get no more work: those whose workers keep failing, and those that a person set aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from render_farm.scheduling.events import Cause, JobKey
from render_farm.scheduling.retry import RetryPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    time_s: float
    error_class: str
    film: JobKey | None
    is_shared: bool
    """Of a kind that all hosts usually have together: it counts while the others are well."""


@dataclass
class _HostRecord:
    workers: set[str] = field(default_factory=set)
    faults: deque[_Fault] = field(default_factory=deque)
    """The oldest first."""
    well_s: float = float("-inf")
    """When work of its workers last succeeded."""
    quarantined_for: str = ""
    """The reason; empty when it is not."""
    cause: Cause = Cause.PERSON
    """Of its quarantine."""


@dataclass(frozen=True, kw_only=True)
class HostView:
    """One host, for people."""

    host: str
    num_workers: int
    recent_faults: int
    quarantined_for: str = ""


class HostRecords:
    """Hosts by name. The last host that is left is never set aside by itself: a farm without hosts helps nobody.

    A film that fails on two hosts is the suspect, not they: its faults are taken back from both.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._hosts: dict[str, _HostRecord] = {}
        self._suspects: set[JobKey] = set()

    def up(self, worker: str, host: str) -> None:
        """A worker started on a host."""
        self._hosts.setdefault(host, _HostRecord()).workers.add(worker)

    def lost(self, worker: str, host: str) -> None:
        """A worker's process ended."""
        if host in self._hosts:
            self._hosts[host].workers.discard(worker)

    def worked(self, host: str, now: float) -> None:
        """A worker of the host did what it was given."""
        if host in self._hosts:
            self._hosts[host].well_s = now

    def fault(self, host: str, error_class: str, now: float, *, film: JobKey | None, is_shared: bool) -> str:
        """A worker of the host failed, at `film` if it had one. Returns why the host is to be quarantined now, or "".
        It may clear other hosts of theirs: see `acquitted`."""
        found = self._hosts.setdefault(host, _HostRecord())
        if film in self._suspects:
            return ""
        if film is not None and not is_shared and self._failed_elsewhere(film, host):
            self._suspects.add(film)
            for record in self._hosts.values():
                record.faults = deque(fault for fault in record.faults if fault.film != film)
            return ""
        found.faults.append(_Fault(time_s=now, error_class=error_class, film=film, is_shared=is_shared))
        while found.faults[0].time_s < now - self._policy.host_window_s:
            found.faults.popleft()
        reason = self._reason(host)
        return "" if found.quarantined_for or not self._others_left(host) else reason

    def _failed_elsewhere(self, film: JobKey, host: str) -> bool:
        return any(
            fault.film == film and not fault.is_shared
            for name, record in self._hosts.items()
            if name != host
            for fault in record.faults
        )

    def _reason(self, host: str) -> str:
        """Why its faults are too many. Empty when they are not."""
        faults, most = self._hosts[host].faults, self._policy.host_faults
        own = [fault for fault in faults if not fault.is_shared]
        shared = [fault for fault in faults if fault.is_shared]
        if len(own) >= most:
            return self._told(own, "worker faults")
        if len(shared) >= most and self._are_others_well(host, shared[0].time_s):
            return self._told(shared, "faults that no other host has")
        return ""

    def _told(self, faults: list[_Fault], noun: str) -> str:
        classes = ", ".join(sorted({fault.error_class for fault in faults}))
        return f"{len(faults)} {noun} within {self._policy.host_window_s / 60:.0f} minutes ({classes})"

    def _are_others_well(self, host: str, since_s: float) -> bool:
        """Whether another host has worked since then, and none has had such a fault."""
        others = [record for name, record in self._hosts.items() if name != host and not record.quarantined_for]
        has_one = any(fault.is_shared and fault.time_s >= since_s for record in others for fault in record.faults)
        return not has_one and any(record.well_s >= since_s for record in others)

    def acquitted(self) -> tuple[str, ...]:
        """Hosts that were quarantined for faults which have been taken back since."""
        return tuple(
            name
            for name, record in self._hosts.items()
            if record.cause is Cause.FAULTS and record.quarantined_for and not self._reason(name)
        )

    def forget_films(self, films: Iterable[JobKey]) -> None:
        """Films that are over are suspects no more."""
        self._suspects.difference_update(films)

    def quarantine(self, host: str, reason: str, cause: Cause) -> tuple[str, ...]:
        """Set a host aside; returns its workers."""
        found = self._hosts.setdefault(host, _HostRecord())
        found.quarantined_for, found.cause = reason, cause
        return tuple(sorted(found.workers))

    def release(self, host: str) -> bool:
        """Give a host work again and forget its faults. False if it was not set aside."""
        found = self._hosts.get(host)
        if found is None or not found.quarantined_for:
            return False
        found.quarantined_for = ""
        found.faults.clear()
        return True

    def is_quarantined(self, host: str) -> bool:
        return host in self._hosts and bool(self._hosts[host].quarantined_for)

    @property
    def quarantined(self) -> dict[str, str]:
        """Reasons by host."""
        return {name: host.quarantined_for for name, host in self._hosts.items() if host.quarantined_for}

    @property
    def quarantined_by_faults(self) -> frozenset[str]:
        """Hosts that no person set aside."""
        return frozenset(name for name in self.quarantined if self._hosts[name].cause is not Cause.PERSON)

    def views(self) -> tuple[HostView, ...]:
        """Every host that has been seen, by name."""
        return tuple(
            HostView(
                host=name,
                num_workers=len(host.workers),
                recent_faults=len(host.faults),
                quarantined_for=host.quarantined_for,
            )
            for name, host in sorted(self._hosts.items())
        )

    def _others_left(self, host: str) -> bool:
        return any(found.workers and not found.quarantined_for for name, found in self._hosts.items() if name != host)
