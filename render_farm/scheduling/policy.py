"""`SchedulingPolicy`: every number that the rules of the queue go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

UNKNOWN_SEGMENT_S = 60.0
"""What a segment is thought to take as long as nothing is known of it."""


@dataclass(frozen=True, kw_only=True)
class SchedulingPolicy:
    """See the file of each rule."""

    aging_s: float = 360.0
    """Waiting this long is worth one point of priority (`aging.py`); 0: waiting is worth nothing."""
    deadline_margin: float = 1.25
    """By how much the time left to a deadline is thought too short (`deadlines.py`)."""
    share_slack_s: float = 1800.0
    """Worker-seconds by which one share may be ahead of another before that overrules loaded models (`shares.py`)."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Weights by share; one that is not named weighs 1."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    """The most workers that films of a share render on at a time; one that is not named has no limit (`quotas.py`)."""
    elastic: bool = True
    """Whether films that may have larger groups get them when workers are to spare (`elastic.py`)."""
