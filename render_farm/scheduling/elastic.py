"""Rule: when workers are to spare, films that may have larger groups get them, in proportion to what is left of each.

Workers are to spare at the tail of a night, when all unfinished films together need fewer than there are. A film's part
is then `workers * left / left of all`, with which all would end at the same time, or `workers / films` if that is more
(for parts are rounded down to groups that a film may have). Group shapes change between segments only. Before the tail
a film has a larger group only when its deadline needs it. How fast groups are is learned from this farm's own segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MOVE_GAIN = 1.5
"""How many times as fast a film must become for moving to another host: what it decoded is decoded there again."""

_SURE_AFTER = 3
"""Segments of a size from which on it is believed to be no faster than a smaller one."""

Options = Sequence[tuple[int, float]]
"""(workers, times as fast as the smallest), the smallest first."""


def as_learned(options: Options, ratio: Callable[[int], float], num_seen: Callable[[int], int]) -> Options:
    """The options with the speeds that were seen: `ratio(size)` is measured by expected time, `num_seen(size)` how many
    segments that is known from. Without those that proved to be no faster than a smaller one."""
    smallest = options[0][0]
    found = [options[0]]
    for size, speed in options[1:]:
        learned = speed * ratio(smallest) / ratio(size)
        if learned > found[-1][1] or num_seen(size) < _SURE_AFTER:
            found.append((size, learned))
    return found


def tail_share(left_s: float, left_of_all_s: float, num_workers: int, num_films: int) -> float:
    """Workers that a film may have at the tail."""
    by_work = num_workers * left_s / left_of_all_s if left_of_all_s > 0 else 0.0
    return max(by_work, num_workers / max(1, num_films))


def sizes_at_tail(options: Options, share: float) -> list[int]:
    """The groups to try for a film with that share, the best first; the smallest is always among them."""
    fitting = [size for size, _ in options if size <= share + 1e-9]
    return [*reversed(fitting)] or [options[0][0]]


def sizes_for_deadline(options: Options, left_s: float, time_s: float) -> list[int]:
    """The groups to try for a film with `left_s` to render, in the smallest one, and `time_s` until its deadline: the
    smallest one that makes it and those below, the best first."""
    tried: list[int] = []
    for size, speed in options:
        tried.insert(0, size)
        if left_s / speed <= time_s:
            return tried
    return [options[0][0]]


def speed_of(options: Options, size: int) -> float:
    """Times as fast as the smallest."""
    return next(speed for known, speed in options if known == size)
