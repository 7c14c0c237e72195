"""Where metrics go. Ray's sink is `farm/ray_cluster/ray_metrics.py`."""

from __future__ import annotations

from typing import Protocol

from render_farm.observability.metrics import Metric


class MetricSink(Protocol):
    """Takes values of metrics; every call returns at once. `labels` are all of the metric's."""

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """A counter grows. 0 is ignored."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """A gauge has a new value."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """A histogram gets one more value."""
