"""A sink of metrics that keeps what it is told."""

from __future__ import annotations

from collections import defaultdict

from render_farm.observability import metrics as m


class Remembered:
    """A sink that adds up, by exposed labels as Ray's would have them."""

    def __init__(self) -> None:
        self.values: dict[tuple, float] = defaultdict(float)
        self.observed: dict[tuple, list[float]] = defaultdict(list)

    def _key(self, metric: m.Metric, labels: dict[str, str]) -> tuple:
        return (metric.name, *metric.label_values(labels).values())

    def add(self, metric, value=1.0, **labels):
        assert metric.kind is m.MetricKind.COUNTER and value >= 0
        self.values[self._key(metric, labels)] += value

    def set(self, metric, value, **labels):
        assert metric.kind is m.MetricKind.GAUGE
        self.values[self._key(metric, labels)] = value

    def observe(self, metric, value, **labels):
        assert metric.kind is m.MetricKind.HISTOGRAM
        self.observed[self._key(metric, labels)].append(value)

    def of(self, metric: m.Metric, *labels: str) -> float:
        return self.values[(metric.name, *labels)]
