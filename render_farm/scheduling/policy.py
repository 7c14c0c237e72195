"""`SchedulingPolicy`: every number that the rules of the queue go by, and `[scheduling]`, the settings for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from render_farm.config import Table, setting

UNKNOWN_SEGMENT_S = 60.0
"""The assumed time of a segment of which nothing is known."""


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


_Number = TypeVar("_Number", int, float)
_LEAST_WEIGHT, _MOST = 1e-6, 1e6  # far beyond these, clocks would overflow, or stand still


def _named_number(entry: str, number: Callable[[str], _Number]) -> tuple[str, _Number]:
    """`NAME=NUMBER`. Raises `ValueError` for anything else."""
    name, _, text = entry.rpartition("=")
    least = 1 if number is int else _LEAST_WEIGHT
    try:
        value = number("0" if "_" in text else text)
    except ValueError:
        value = number("0")
    if not name or not least <= value <= _MOST:
        kind = "whole number" if number is int else "number"
        raise ValueError(f"{entry!r} is not NAME=NUMBER with a {kind} from {least:.7g} to {_MOST:.7g}")
    return name, value


def _share(entry: str) -> str:
    _named_number(entry, float)
    return entry


def _quota(entry: str) -> str:
    _named_number(entry, int)
    return entry


def _name_of(entry: str) -> str:
    return entry.rpartition("=")[0]


@dataclass(frozen=True, kw_only=True)
class SchedulingSettings(Table):
    """Who gets workers when not all can have them. A farm keeps the settings of the run that started it."""

    variables: ClassVar[str] = "RENDER_FARM_SCHEDULING_"

    aging_s: float = setting(
        360.0,
        "Waiting this long is worth one point of priority. 0: waiting is worth nothing.",
        unit="seconds",
        limits={"ge": 0},
    )
    share_by: str = setting(
        "owner",
        "How films of equal priority share the workers: by owner, by the value of a tag, or not at all.",
        limits={"pattern": "^(owner|none|tag:.+)$"},
        expected="owner, none or tag:NAME",
    )
    shares: tuple[str, ...] = setting(
        (),
        "`NAME=WEIGHT` for owners (or values of the tag) that get more or less than the others, which weigh 1.",
        canonical=_share,
        name_of=_name_of,
        expected="a list of NAME=WEIGHT",
    )
    quotas: tuple[str, ...] = setting(
        (),
        "`NAME=WORKERS`: the most workers that films of such an owner render on at a time.",
        canonical=_quota,
        name_of=_name_of,
        expected="a list of NAME=WORKERS",
    )

    @property
    def policy(self) -> SchedulingPolicy:
        """For the scheduler."""
        return SchedulingPolicy(
            aging_s=self.aging_s,
            shares=dict(_named_number(entry, float) for entry in self.shares),
            quotas=dict(_named_number(entry, int) for entry in self.quotas),
        )
