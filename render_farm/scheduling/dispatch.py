"""Chooses who renders what next, by the rules in their order. It reads indexes only, and changes only its own.

1. level: priority with aging (`aging.py`)
2. films whose deadline is at risk (`deadlines.py`, `deadline_search.py`)
3. the share that has had least (`shares.py`)
4. larger groups before smaller ones, on hosts that fit (`idle_workers.py`)
5. what an idle worker has loaded (`affinity.py`)
6. films that have started, then the longest, then the first to arrive (`queue.py`)

Films over a quota (`quotas.py`) are skipped, and `elastic.py` says how large a group becomes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from render_farm.scheduling.affinity import Match, better_waits
from render_farm.scheduling.aging import takes_over
from render_farm.scheduling.deadline_search import DeadlinePlans
from render_farm.scheduling.deadlines import is_at_risk, latest_begin_s, risky_from_s
from render_farm.scheduling.elastic import (
    MOVE_GAIN,
    Options,
    sizes_at_tail,
    sizes_for_deadline,
    speed_of,
    tail_share,
)
from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState, FilmState
from render_farm.scheduling.idle_workers import IdleWorkers
from render_farm.scheduling.model_ends import ModelEnds
from render_farm.scheduling.policy import SchedulingPolicy
from render_farm.scheduling.queue import FINISHING, QueueEntry, QueueKey, ReadyQueue
from render_farm.scheduling.quotas import QuotaBook
from render_farm.scheduling.shares import ShareBook

_FIRST = -1
"""Turn of films that only have to be finished."""
_TRIED = 4
"""Films of a queue, or urgent ones, that are tried when the first ones cannot be placed."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A film's next work and who does it."""

    film: JobKey
    workers: tuple[str, ...]
    """The leader first."""


@dataclass
class _Blocked:
    """What cannot be placed any more in this round."""

    size: int = 1 << 30
    """Groups of this size or more find no room at the levels that are left."""
    wake_s: float = field(default=float("inf"))


class Dispatcher:
    """See the module."""

    def __init__(self, state: FarmState, policy: SchedulingPolicy) -> None:
        self.policy = policy
        self.queue = ReadyQueue()
        self.idle_workers = IdleWorkers()
        self.shares = ShareBook(policy.shares, policy.share_slack_s)
        self.quotas = QuotaBook(policy.quotas)
        self.ends = ModelEnds(state)
        self._state = state
        self.plans = DeadlinePlans(state, self.idle_workers)
        self._held_for: tuple[int, int, int | None] | None = None
        """The changes that the held hosts were last chosen after. None: they must be chosen again."""
        self.wake_s = float("inf")
        """When a decision to wait should be reconsidered."""

    # --- in ---

    def entry(self, key: JobKey) -> QueueEntry:
        """A film's place in the queue, as things are now."""
        film, margin = self._state.films[key], self.policy.deadline_margin
        spec = film.spec
        size = FINISHING if film.is_rendered else spec.group_size
        left_s = self._state.left_s(film)
        deadline_s = spec.deadline_s
        if deadline_s is None:
            begin = risky = None
        else:
            begin = latest_begin_s(deadline_s, left_s)
            risky = risky_from_s(deadline_s, left_s, self._state.longest_segment_s, margin)
        return QueueEntry(
            level=film.level,
            queue_key=QueueKey(spec.run_id, spec.share, spec.model, size),
            setting=film.setting,
            number=film.number,
            is_begun=film.segments_done > 0,
            left_s=left_s,
            latest_begin_s=begin,
            risky_s=risky,
        )

    # --- the next choice ---

    def next_choice(self, now: float) -> Choice | None:
        """The best thing to do for an idle worker, or None. The film is still in the queue."""
        self.wake_s = float("inf")
        self._hold_hosts()
        if not len(self.idle_workers) or not len(self.queue):
            return None
        blocked = _Blocked()
        for level in self.queue.levels():
            choice = self._urgent(level, now) or self._in_turn(level, now, blocked)
            if choice is not None:
                return choice
            if blocked.size <= 1:
                break
        self.wake_s = blocked.wake_s
        return None

    def _urgent(self, level: int, now: float) -> Choice | None:
        """The film at risk that must continue first, and has room."""
        if not self._is_risky(level, now):
            return None
        for key in self._in_order_of_risk(level, now):
            film = self._state.films[key]
            if self._has_quota(self.queue.entry(key).queue_key):
                workers = self._place(film, now)
                if workers is not None:
                    return Choice(film=key, workers=workers)
        return None

    def _is_risky(self, level: int, now: float) -> bool:
        first = self.queue.first_risky(level) if self.queue.num_dated(level) else None
        if first is None or first.risky_s is None:
            return False
        margin = self.policy.deadline_margin
        return is_at_risk(first.risky_s, self.queue.dated_left_s(level), self.idle_workers.num_workers, now, margin)

    def _in_order_of_risk(self, level: int, now: float) -> list[JobKey]:
        picks = self.plans.of(level, now)
        if not picks:
            return self.queue.dated(level, _TRIED)
        return list(dict.fromkeys(key for key in picks if key in self.queue))[:_TRIED]

    def _in_turn(self, level: int, now: float, blocked: _Blocked) -> Choice | None:
        """The best film of a level by share, group size, loaded models and length."""
        for queue_key in self._keys_in_order(level, blocked):
            for key in self._films_to_try(level, queue_key):
                film = self._state.films[key]
                if self._should_wait_for_model(film, queue_key, now, blocked):
                    break
                workers = self._place(film, now)
                if workers is not None:
                    return Choice(film=key, workers=workers)
                if queue_key.size > self.idle_workers.largest_host:
                    break
                if not film.avoid:
                    blocked.size = min(blocked.size, max(queue_key.size, 1))
                    break
        return None

    def _keys_in_order(self, level: int, blocked: _Blocked) -> Iterator[QueueKey]:
        """Lanes that have quota, the best first. Those of a share whose turn comes later are not read earlier."""
        turns: dict[int, list[QueueKey]] = {}
        turn_of: dict[str, int] = {}
        for queue_key in self.queue.keys(level):
            if max(queue_key.size, 1) < blocked.size:
                if queue_key.share not in turn_of:
                    turn_of[queue_key.share] = self.shares.turn(queue_key.share)
                turn = _FIRST if queue_key.size == FINISHING else turn_of[queue_key.share]
                turns.setdefault(turn, []).append(queue_key)
        for turn in sorted(turns):
            ranked = [
                (-queue_key.size, self._best_match(queue_key), *self.queue.first_order(level, queue_key), queue_key)
                for queue_key in turns[turn]
                if self._has_quota(queue_key)
            ]
            if len(ranked) > 1:
                ranked.sort()
            yield from (entry[-1] for entry in ranked)

    def _best_match(self, queue_key: QueueKey) -> Match:
        """Whether some idle worker has the queue's model."""
        if next(iter(self.idle_workers.settings_of(queue_key.model)), None) is not None:
            return Match.ALL_LOADED
        return Match.OTHER_MODEL

    def _films_to_try(self, level: int, queue_key: QueueKey) -> Iterator[JobKey]:
        """Films of a queue to try: for what idle workers have loaded, then the first ones."""
        if queue_key.size == 1:
            for setting in self.idle_workers.settings_of(queue_key.model):
                found = self.queue.for_setting(level, queue_key, setting)
                if found is not None:
                    yield found
                    break
        first = self.queue.first(level, queue_key)
        if first is not None:
            yield first
            yield from self.queue.first_films(level, queue_key, _TRIED)[1:]

    def _has_quota(self, queue_key: QueueKey) -> bool:
        return queue_key.size == FINISHING or self.quotas.room(queue_key.run_id, queue_key.share) >= queue_key.size

    def _should_wait_for_model(self, film: FilmState, queue_key: QueueKey, now: float, blocked: _Blocked) -> bool:
        load_s = self._state.costs.load_s(queue_key.model)
        if queue_key.size != 1 or load_s is None or self.idle_workers.best_match(film.setting) < Match.NOTHING_LOADED:
            return False
        free_s = self.ends.first(queue_key.model)
        if not better_waits(free_s, load_s, now):
            return False
        assert free_s is not None
        blocked.wake_s = min(blocked.wake_s, free_s)
        return True

    # --- groups ---

    def _place(self, film: FilmState, now: float) -> tuple[str, ...] | None:
        """Idle workers for a film's next work, in the best group there is room for."""
        for size in [1] if film.is_rendered else self._sizes(film, now):
            if size == 1:
                workers = self.idle_workers.find_worker(film.setting, film.level, film.avoid, alone=film.is_suspect)
            else:
                workers = self.idle_workers.find_group(
                    film.setting, size, film.level, film.avoid, alone=film.is_suspect
                )
            if workers is not None:
                return workers
        return None

    def _sizes(self, film: FilmState, now: float) -> list[int]:
        """The groups to try, the best first."""
        smallest = film.spec.group_size
        if not film.spec.joined_sizes or not self.policy.elastic or film.is_suspect:
            return [smallest]
        spec, left_s = film.spec, self._state.left_s(film)
        is_its_turn = film.worker is not None  # then it is neither in the queue nor at work
        if self.num_wanted + is_its_turn * smallest <= self.idle_workers.num_workers:
            num_films = len(self.queue) + self._state.num_rendering + is_its_turn
            share = tail_share(left_s, self._state.left_of_all_s(), self.idle_workers.num_workers, num_films)
            return sizes_at_tail(self._options(film), share)
        if spec.deadline_s is not None:
            time_s = spec.deadline_s - now
            if left_s * self.policy.deadline_margin > time_s > 0:
                return sizes_for_deadline(self._options(film), left_s, time_s)
        return [smallest]

    def _options(self, film: FilmState) -> Options:
        """The groups that it may have within its quotas."""
        room = max(self.quotas.room(film.spec.run_id, film.spec.share), film.spec.group_size)
        return [option for option in self._state.groups(film) if option[0] <= room]

    @property
    def num_wanted(self) -> int:
        """Workers that all films which could be rendered now need, were all groups as small as may be."""
        return self.queue.num_workers_wanted + self._state.num_wanted

    def next_workers(self, key: JobKey, worker: str, now: float) -> tuple[str, ...] | None:
        """The workers for the next segment of a film whose last one `worker` led. It is idle now, and so are its
        helpers. None when the film has to wait its turn. The leader stays if possible."""
        film = self._state.films[key]
        if self._gives_way(key, film, worker, now):
            return None
        host = self._state.workers[worker].host
        here: tuple[str, ...] | None = None
        sizes = self._sizes(film, now)
        for size in sizes:
            workers = self._with_leader(worker, host, film, size)
            if workers is not None:
                here = workers
                break
        for size in sizes:
            if here is not None and (size <= len(here) or self._gain(film, len(here), size) < MOVE_GAIN):
                break
            elsewhere = self.idle_workers.find_group(film.setting, size, film.level, film.avoid)
            if elsewhere is not None:
                return elsewhere
        return here

    def _with_leader(self, worker: str, host: str, film: FilmState, size: int) -> tuple[str, ...] | None:
        if size == 1:
            return (worker,)
        found = self.idle_workers.on_host(host, film.setting, size, film.level, film.avoid)
        if found is None:
            return None
        others = [other for other in found if other != worker]
        return (worker, *others[: size - 1])

    def _gain(self, film: FilmState, size: int, larger: int) -> float:
        """How many times as fast a larger group is."""
        groups = self._state.groups(film)
        return speed_of(groups, larger) / speed_of(groups, size)

    def _gives_way(self, key: JobKey, film: FilmState, worker: str, now: float) -> bool:
        """Whether a started film gives its worker to another one."""
        if self.idle_workers.is_held_from(self._state.workers[worker].host, film.level, film.spec.group_size):
            return True
        if self.quotas.room(film.spec.run_id, film.spec.share) < film.spec.group_size:
            return True
        top = self.queue.top_level
        if top is None:
            return False
        if top > film.level:
            best = self._state.films[self._first_of(top)]
            if takes_over((best.priority, best.level), (film.priority, film.level)):
                return True
        if not self.queue.num_dated(film.level) or not self._is_risky(film.level, now):
            return False
        picks = self.plans.of(film.level, now)
        if picks:
            return next((pick for pick in picks if pick == key or pick in self.queue), key) != key
        rival = self.queue.entry(self.queue.dated(film.level, 1)[0])
        own = self.entry(key)
        assert rival.latest_begin_s is not None
        if own.latest_begin_s is not None and own.urgency < rival.urgency:
            return False
        return rival.latest_begin_s < now + film.prior_of(film.segments_done) * self._state.ratio(film)

    def _first_of(self, level: int) -> JobKey:
        found = self.queue.first(level, next(self.queue.keys(level)))
        assert found is not None
        return found

    def _hold_hosts(self) -> None:
        """Release hosts that no group needs any more, and hold hosts for groups of the top level that find no room."""
        level = self.queue.top_level
        changes = (self.queue.group_changes, self.idle_workers.changes, level)
        as_before = None if len(self.idle_workers) or self.quotas.has_limits else changes
        if as_before is not None and as_before == self._held_for:
            return
        self._held_for = as_before
        for host, hold in list(self.idle_workers.held.items()):
            if not any(
                self.idle_workers.has_enough(host, hold.size, film.avoid)
                for film in self._groups(hold.level, hold.size)
            ):
                self.idle_workers.release(host)
        if level is None:
            return
        for size in list(self.queue.group_sizes(level)):
            if self.idle_workers.may_hold(level, size):
                for film in self._groups(level, size):
                    if self.idle_workers.find_group(film.setting, size, level, film.avoid) is None:
                        self.idle_workers.hold(level, size, film.avoid)
                        break

    def _groups(self, level: int, size: int) -> Iterator[FilmState]:
        """The first film of each queue that waits for a group of that size and has quota for it."""
        for queue_key in list(self.queue.group_keys(level, size)):
            if self._has_quota(queue_key):
                first = self.queue.first(level, queue_key)
                if first is not None:
                    yield self._state.films[first]
