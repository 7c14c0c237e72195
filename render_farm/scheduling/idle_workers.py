"""Rule: a group gets one host, the one where it leaves the fewest other workers idle, so that no host is broken up.

Films that need one worker go to the hosts with the fewest idle workers, too. When no host has enough idle workers for a
group, one is held for it: no film of a lower level or with a smaller group starts there until the group has started.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from render_farm.scheduling.affinity import Match, Setting, match

_LOOKED_AT = 16
"""How many workers or hosts that suit equally well are compared."""


@dataclass(frozen=True, kw_only=True)
class IdleWorker:
    """A worker that could start a segment now."""

    worker: str
    host: str
    setting: Setting | None
    num_finishing: int


@dataclass
class _Host:
    idle: dict[str, IdleWorker] = field(default_factory=dict)
    workers: dict[str, None] = field(default_factory=dict)
    """Those that are up and may have work, busy ones included."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What a host is held for."""

    level: int
    size: int


class IdleWorkers:
    """The workers that are idle, by host and by what they have loaded. No operation looks at all of them."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._idle: dict[str, IdleWorker] = {}
        self._by_setting: dict[Setting | None, dict[str, None]] = {}
        self._by_model: dict[str, dict[Setting, None]] = {}
        self._by_num_idle: dict[int, dict[str, None]] = {}
        self._by_num_workers: dict[int, dict[str, None]] = {}
        self.held: dict[str, Hold] = {}
        self.num_workers = 0
        """Workers that are up and may have work."""
        self.changes = 0
        """Goes up whenever a worker enters or leaves."""

    # --- who is there ---

    def __len__(self) -> int:
        return len(self._idle)

    def __contains__(self, worker: str) -> bool:
        return worker in self._idle

    def __iter__(self) -> Iterator[str]:
        return iter(self._idle)

    def enter(self, worker: str, host: str) -> None:
        """A worker is up and may have work, now or when it is idle."""
        found = self._hosts.setdefault(host, _Host())
        _move(self._by_num_workers, host, len(found.workers), len(found.workers) + 1)
        found.workers[worker] = None
        self.num_workers += 1
        self.changes += 1

    def leave(self, worker: str, host: str) -> None:
        """A worker is gone, or may have no more work."""
        self.discard(worker)
        found = self._hosts[host]
        _move(self._by_num_workers, host, len(found.workers), len(found.workers) - 1)
        del found.workers[worker]
        self.num_workers -= 1
        self.changes += 1
        if not found.workers:
            del self._hosts[host]
            self.held.pop(host, None)

    def add(self, idle: IdleWorker) -> None:
        """A worker is idle now, or is so with something else loaded or fewer films to finish."""
        self.discard(idle.worker)
        host = self._hosts[idle.host]
        _move(self._by_num_idle, idle.host, len(host.idle), len(host.idle) + 1)
        host.idle[idle.worker] = idle
        self._idle[idle.worker] = idle
        self._by_setting.setdefault(idle.setting, {})[idle.worker] = None
        if idle.setting is not None:
            self._by_model.setdefault(idle.setting.model, {})[idle.setting] = None

    def discard(self, worker: str) -> None:
        """A worker is not idle any more; nothing happens when it was not."""
        idle = self._idle.pop(worker, None)
        if idle is None:
            return
        host = self._hosts[idle.host]
        _move(self._by_num_idle, idle.host, len(host.idle), len(host.idle) - 1)
        del host.idle[worker]
        alike = self._by_setting[idle.setting]
        del alike[worker]
        if not alike:
            del self._by_setting[idle.setting]
            if idle.setting is not None:
                del self._by_model[idle.setting.model][idle.setting]
                if not self._by_model[idle.setting.model]:
                    del self._by_model[idle.setting.model]

    def num_idle(self, host: str) -> int:
        return len(self._hosts[host].idle) if host in self._hosts else 0

    @property
    def hosts(self) -> Iterable[str]:
        """Hosts with workers that may have work."""
        return self._hosts

    @property
    def largest_host(self) -> int:
        """Workers of the largest host, busy ones included."""
        return max(self._by_num_workers, default=0)

    def settings_of(self, model: str) -> Iterable[Setting]:
        """What idle workers with that model have loaded; a few of them."""
        return islice(self._by_model.get(model, ()), _LOOKED_AT)

    def best_match(self, needed: Setting) -> Match:
        """How well the best idle worker suits."""
        if needed in self._by_setting:
            return Match.ALL_LOADED
        if needed.model in self._by_model:
            return Match.OTHER_ADAPTERS
        return Match.NOTHING_LOADED if None in self._by_setting else Match.OTHER_MODEL

    # --- placing ---

    def find_worker(
        self, needed: Setting, level: int, avoid: Collection[str], *, alone: bool = False
    ) -> tuple[str, ...] | None:
        """The idle worker that suits a film best, on a host with few idle ones. None when there is none. `alone`: one
        that finishes no other film."""
        for alike in self._from_best_match(needed):
            able = (
                self._idle[worker]
                for worker in alike
                if self._may(worker, level, 1, avoid) and not (alone and self._idle[worker].num_finishing)
            )
            found = min(
                islice(able, _LOOKED_AT),
                key=lambda idle: (idle.num_finishing, len(self._hosts[idle.host].idle)),
                default=None,
            )
            if found is not None:
                return (found.worker,)
        return None

    def _from_best_match(self, needed: Setting) -> Iterator[Iterable[str]]:
        yield self._by_setting.get(needed, ())
        for setting in list(self._by_model.get(needed.model, ())):
            if setting != needed:
                yield self._by_setting[setting]
        yield self._by_setting.get(None, ())
        for other in list(self._by_setting):
            if other is not None and other.model != needed.model:
                yield self._by_setting[other]

    def find_group(
        self, needed: Setting, size: int, level: int, avoid: Collection[str], *, alone: bool = False
    ) -> tuple[str, ...] | None:
        """Idle workers of one host for a group, the leader first. None when no host has as many."""
        for num_idle in sorted(number for number in self._by_num_idle if number >= size):
            for host in islice(self._by_num_idle[num_idle], _LOOKED_AT):
                found = self.on_host(host, needed, size, level, avoid, alone=alone)
                if found is not None:
                    return found
        return None

    def on_host(
        self, host: str, needed: Setting, size: int, level: int, avoid: Collection[str], *, alone: bool = False
    ) -> tuple[str, ...] | None:
        """The same on a given host."""
        if not self._is_open(host, level, size) or host not in self._hosts:
            return None
        able = [
            idle
            for worker, idle in self._hosts[host].idle.items()
            if worker not in avoid and not (alone and idle.num_finishing)
        ]
        if len(able) < size:
            return None
        able.sort(key=lambda idle: (match(idle.setting, needed), idle.num_finishing, idle.worker))
        return tuple(idle.worker for idle in able[:size])

    def _may(self, worker: str, level: int, size: int, avoid: Collection[str]) -> bool:
        return worker not in avoid and self._is_open(self._idle[worker].host, level, size)

    # --- holding ---

    def _is_open(self, host: str, level: int, size: int) -> bool:
        hold = self.held.get(host)
        return hold is None or level > hold.level or (level == hold.level and size >= hold.size)

    def is_held_from(self, host: str, level: int, size: int) -> bool:
        """Whether the host is held for a group, so that a film of that level and size may not start there."""
        return not self._is_open(host, level, size)

    def has_enough(self, host: str, size: int, avoid: Collection[str]) -> bool:
        """Whether a group could be formed on a host once its busy workers are free."""
        workers = self._hosts[host].workers if host in self._hosts else {}
        return len(workers) - sum(worker in workers for worker in avoid) >= size

    def may_hold(self, level: int, size: int) -> bool:
        """Whether another host may be held: one per level and group size, and about an eighth of all hosts at most."""
        if len(self.held) > len(self._hosts) // 8:
            return False
        return not any(hold.level == level and hold.size == size for hold in self.held.values())

    def hold(self, level: int, size: int, avoid: Collection[str]) -> None:
        """Hold a host for a group: of those that are large enough, the one with the most idle workers."""
        wanted = Hold(level=level, size=size)
        large = [name for name in self._hosts if name not in self.held and self.has_enough(name, size, avoid)]
        if large:
            self.held[max(large, key=lambda name: len(self._hosts[name].idle))] = wanted

    def release(self, host: str) -> None:
        """End the hold of a host, if there is one."""
        self.held.pop(host, None)


def _move(buckets: dict[int, dict[str, None]], name: str, before: int, after: int) -> None:
    if before > 0:
        del buckets[before][name]
        if not buckets[before]:
            del buckets[before]
    if after > 0:
        buckets.setdefault(after, {})[name] = None
