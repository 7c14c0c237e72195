"""Rule: among equals, films whose deadline is at risk go first, and of those the one that must start earliest.

A film must start at its deadline less the time that is left of it. With segments as units of preemption that order is
optimal for chains of equal segments on equal workers (least laxity, Dertouzos and Mok, 1989). The order by deadline
alone is not. Among films of equal length both are the same. Where the order fails, `deadline_search.py` searches.

A film is at risk when it might end too late if all dated films before it were done first. That is Graham's bound for
any order that leaves no worker idle: the waiting work divided by the workers, plus the film itself, plus a margin.
"""

from __future__ import annotations


def latest_begin_s(deadline_s: float, left_s: float) -> float:
    """The latest time at which a film with `left_s` seconds left must continue."""
    return deadline_s - left_s


def risky_from_s(deadline_s: float, left_s: float, segment_s: float, margin: float) -> float:
    """When a film becomes at risk, if no other film had a deadline. `segment_s` is the longest segment of the
    farm: so long it may have to wait for a worker."""
    return deadline_s - margin * (left_s + segment_s)


def is_at_risk(risky_s: float, dated_left_s: float, num_workers: int, now: float, margin: float) -> bool:
    """Whether a film with `risky_from_s` is at risk now; `dated_left_s` is left of all dated films that wait."""
    return now + margin * dated_left_s / max(1, num_workers) >= risky_s
