"""Rule: among equals, films whose deadline is at risk go first, the one that must begin earliest before the others.

A film must begin at its deadline less all that is left of it. With segments as units of preemption that order is
optimal for chains of equal segments on equal workers (least laxity; Dertouzos and Mok, 1989), where the order by
deadline alone is not; among films of equal length it is the order by deadline. Where it fails, `rescue.py` searches.

A film is at risk when it might end too late if all dated films before it were done first, by Graham's bound for any
order that leaves no worker idle: the work that waits divided by the workers, and the film itself, and a margin.
"""

from __future__ import annotations


def latest_begin_s(deadline_s: float, left_s: float) -> float:
    """When a film of which `left_s` seconds are left must go on at the latest."""
    return deadline_s - left_s


def risky_from_s(deadline_s: float, left_s: float, segment_s: float, margin: float) -> float:
    """When a film becomes at risk, if no other film had a deadline. `segment_s` is the longest segment of the
    farm: so long it may have to wait for a worker."""
    return deadline_s - margin * (left_s + segment_s)


def is_at_risk(risky_s: float, dated_left_s: float, num_workers: int, now: float, margin: float) -> bool:
    """Whether a film with `risky_from_s` is at risk now; `dated_left_s` is left of all dated films that wait."""
    return now + margin * dated_left_s / max(1, num_workers) >= risky_s
