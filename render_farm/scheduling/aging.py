"""Rule: priority first; waiting makes up for it, so that nothing starves.

A film's level is its priority less the time it was added, counted in steps of `aging_s`. All that wait age alike, so a
level never changes while a film waits, and films of one level are equals. Whatever is added more than
`(100 - priority) * aging_s` later than a film comes after it, of whatever priority it is.
"""

from __future__ import annotations

import math

GIVE_WAY = 10
"""Points of level by which a waiting film of the same priority must be ahead before a started film leaves its
worker."""


def level_of(priority: int, added_s: float, aging_s: float) -> int:
    """Higher goes first."""
    return priority - (math.floor(added_s / aging_s) if aging_s > 0 else 0)


def takes_over(waiting: tuple[int, int], begun: tuple[int, int]) -> bool:
    """Whether a waiting film takes the worker of a started one at its next segment. Each is (priority, level)."""
    ahead = waiting[1] - begun[1]
    return ahead >= GIVE_WAY or (ahead > 0 and waiting[0] > begun[0])
