"""Why a film in the queue is not being rendered, in a sentence: the first rule that keeps it waiting."""

from __future__ import annotations

from collections.abc import Collection

from render_farm.scheduling.affinity import Match, better_waits
from render_farm.scheduling.dispatch import Dispatcher
from render_farm.scheduling.events import JobKey
from render_farm.scheduling.farm_state import FarmState
from render_farm.scheduling.hosts import HostRecords
from render_farm.scheduling.queue import FINISHING


def why_waiting(key: JobKey, now: float, *, state: FarmState, dispatcher: Dispatcher, hosts: HostRecords) -> str:
    """See the module. Looks at everything: for a person's question, not for every event."""
    film, queue, idle = state.films[key], dispatcher.queue, dispatcher.idle_workers
    entry = queue.entry(key)
    if not state.workers:
        return "no worker is up yet"
    if all(hosts.is_quarantined(worker.host) for worker in state.workers.values()):
        return "every host with workers is quarantined"
    if all(worker in film.avoid for worker in state.workers):
        return "every worker that is up has failed it once; it waits for a fresh one"
    size = film.spec.group_size if entry.queue_key.size != FINISHING else 1
    if _most_beside(state, hosts, film.avoid) < size:
        return f"it needs {size} workers on one host, and no host has as many"
    quota = dispatcher.quotas.why(film.spec.run_id, film.spec.share, size) if entry.queue_key.size != FINISHING else ""
    if quota:
        return quota
    if len(idle):
        if size > 1:
            host = max(idle.hosts, key=lambda name: (name in idle.held, idle.num_idle(name)))
            return f"it needs {size} idle workers on one host; {host} has {idle.num_idle(host)}"
        if all(idle.is_held_from(state.workers[worker].host, entry.level, size) for worker in idle):
            return "the idle workers are held for a larger group that is ahead of it"
    load_s, free_s = state.costs.load_s(film.spec.model), dispatcher.ends.first(film.spec.model)
    if len(idle) and idle.best_match(film.setting) >= Match.NOTHING_LOADED and better_waits(free_s, load_s, now):
        assert free_s is not None
        return (
            f"a worker that has its model loaded should be free in {free_s - now:.0f} s, before another could load it"
        )
    busy = f"all {len(state.workers)} workers are at work"
    ahead = queue.num_before(key)
    if not ahead:
        return busy
    aged = film.level - film.priority - max(record.level - record.priority for record in state.films.values())
    by = "by priority and waiting time" if aged else "by priority"
    return f"{busy}; {ahead} films are ahead of it ({by}, deadline, share, length, then order)"


def _most_beside(state: FarmState, hosts: HostRecords, avoid: Collection[str]) -> int:
    """Workers of the host that has most of those that a film may have."""
    beside: dict[str, int] = {}
    for worker, record in state.workers.items():
        if worker not in avoid and not hosts.is_quarantined(record.host):
            beside[record.host] = beside.get(record.host, 0) + 1
    return max(beside.values(), default=0)
