"""Which hosts get no more work: those whose workers keep failing, and those that a person set aside."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from render_farm.scheduling.retry import RetryPolicy


@dataclass
class _HostRecord:
    workers: set[str] = field(default_factory=set)
    faults: deque[tuple[float, str]] = field(default_factory=deque)
    """(when, error class), oldest first."""
    quarantined_for: str = ""
    """The reason; empty when it is not."""


@dataclass(frozen=True, kw_only=True)
class HostView:
    """One host, for people."""

    host: str
    num_workers: int
    recent_faults: int
    quarantined_for: str = ""


class HostRecords:
    """Hosts by name. The last host that is left is never set aside by itself: a farm without hosts helps nobody."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._hosts: dict[str, _HostRecord] = {}

    def up(self, worker: str, host: str) -> None:
        """A worker started on a host."""
        self._hosts.setdefault(host, _HostRecord()).workers.add(worker)

    def lost(self, worker: str, host: str) -> None:
        """A worker's process ended."""
        if host in self._hosts:
            self._hosts[host].workers.discard(worker)

    def fault(self, host: str, error_class: str, now: float) -> str:
        """A worker of the host failed by its own fault. Returns why the host is to be quarantined now, or ""."""
        found = self._hosts.get(host)
        if found is None or found.quarantined_for:
            return ""
        found.faults.append((now, error_class))
        while found.faults and found.faults[0][0] < now - self._policy.host_window_s:
            found.faults.popleft()
        if len(found.faults) < self._policy.host_faults or not self._others_left(host):
            return ""
        classes = ", ".join(sorted({name for _, name in found.faults}))
        return f"{len(found.faults)} worker faults within {self._policy.host_window_s / 60:.0f} minutes ({classes})"

    def quarantine(self, host: str, reason: str) -> tuple[str, ...]:
        """Set a host aside; returns its workers."""
        found = self._hosts.setdefault(host, _HostRecord())
        found.quarantined_for = reason
        return tuple(sorted(found.workers))

    def release(self, host: str) -> bool:
        """Let a host have work again, its faults forgotten; False when it was not set aside."""
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
