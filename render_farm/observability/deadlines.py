"""Which films will miss their deadlines at the present pace. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def will_be_late(deadlines: Mapping[str, float], *, now_s: float, eta_s: float | None, num_left: int) -> list[str]:
    """Jobs of `deadlines` (those that have not ended, in Unix time) that will miss theirs, the earliest first.

    `eta_s` is when the run's `num_left` jobs will all have ended; they are taken to end evenly until then, in the order
    of their deadlines. Without it, those whose time has passed.
    """
    late = []
    for place, (job_id, due_s) in enumerate(sorted(deadlines.items(), key=lambda item: item[1]), start=1):
        left_s = 0.0 if eta_s is None or not num_left else eta_s * min(1.0, place / num_left)
        if now_s + left_s > due_s:
            late.append(job_id)
    return late
