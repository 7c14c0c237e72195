"""The cost model: how long a segment takes, learned from the segments that were rendered.

A segment comes with a prior (seconds by arithmetic) and a class, coarse to fine: model, size, mode, group shape. For
every prefix of its class the model keeps the mean of log(measured / prior). A prediction starts from the prior and goes
down the prefixes, at each shrunk towards the coarser one by `_SHRINK` observations: one measurement of a model improves
all its sizes, many of one size make that size exact. What is old is forgotten exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

CostClass = tuple[str, ...]

_SHRINK = 1.0
_REMEMBERED = 30
"""Number of observations after which the weight of new ones stays constant."""
_SURE_AFTER = 5
"""Observations from which on one that is off by more than `_OUTLIER` counts as off by that."""
_OUTLIER = math.log(3)


class CostModel:
    """See the module. Pure: `to_dict` and `from_dict` are for whoever stores it."""

    def __init__(self) -> None:
        self._seen: dict[CostClass, tuple[int, float]] = {}
        self._load_s: dict[str, tuple[int, float]] = {}

    def observe(self, cost_class: CostClass, prior_s: float, measured_s: float) -> None:
        """A segment of that class took `measured_s`. Times that say nothing (0 or less) are ignored."""
        if not (prior_s > 0 and measured_s > 0):
            return
        off = math.log(measured_s / prior_s)
        for depth in range(len(cost_class) + 1):
            number, mean = self._seen.get(cost_class[:depth], (0, 0.0))
            if number >= _SURE_AFTER and depth == len(cost_class):
                off = min(max(off, mean - _OUTLIER), mean + _OUTLIER)
            number += 1
            self._seen[cost_class[:depth]] = (number, mean + (off - mean) / min(number, _REMEMBERED))

    def ratio(self, cost_class: CostClass) -> float:
        """What a prior of that class is multiplied by."""
        estimate = 0.0
        for depth in range(len(cost_class) + 1):
            known = self._seen.get(cost_class[:depth])
            if known is None:
                break
            weight = min(known[0], _REMEMBERED)
            estimate = (weight * known[1] + _SHRINK * estimate) / (weight + _SHRINK)
        return math.exp(estimate)

    def seconds(self, cost_class: CostClass, prior_s: float) -> float:
        """What a segment is expected to take."""
        return prior_s * self.ratio(cost_class)

    def num_observed(self, cost_class: CostClass = ()) -> int:
        """Segments of that class, or of all classes below it, that the model has learned from."""
        return self._seen.get(cost_class, (0, 0.0))[0]

    def observe_load(self, model: str, seconds: float) -> None:
        """Record how long loading a model took."""
        number, mean = self._load_s.get(model, (0, 0.0))
        self._load_s[model] = (number + 1, mean + (seconds - mean) / min(number + 1, _REMEMBERED))

    def load_s(self, model: str) -> float | None:
        """What loading a model is expected to take; None when it was never seen."""
        known = self._load_s.get(model)
        return known[1] if known else None

    def take(self, other: CostModel) -> None:
        """Replace what is known by what `other` knows."""
        self._seen, self._load_s = dict(other._seen), dict(other._load_s)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "classes": [[list(name), number, round(mean, 6)] for name, (number, mean) in sorted(self._seen.items())],
            "load_s": {model: [number, round(mean, 3)] for model, (number, mean) in sorted(self._load_s.items())},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> CostModel:
        """What `to_dict` gave. ValueError for anything else."""
        costs = cls()
        try:
            for name, number, mean in document["classes"]:
                costs._seen[tuple(map(str, name))] = (int(number), float(mean))
            for model, (number, mean) in document["load_s"].items():
                costs._load_s[str(model)] = (int(number), float(mean))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a cost model: {error!r}") from error
        return costs
