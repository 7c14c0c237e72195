"""The farm's metrics at Ray's Prometheus endpoints, one per node, and so in Ray's dashboard."""

from __future__ import annotations

from typing import Any

from ray.util import metrics as ray_metrics

from render_farm.observability.metrics import METRICS, Metric, MetricKind


class RayMetrics:
    """A `MetricSink`; made once in an actor. Values leave the process every `RAY_metrics_report_interval_ms` (10 s)."""

    def __init__(self) -> None:
        self._made = {metric.name: _make(metric) for metric in METRICS}

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        if value > 0:
            self._made[metric.name].inc(float(value), tags=metric.label_values(labels))

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._made[metric.name].set(float(value), tags=metric.label_values(labels))

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self._made[metric.name].observe(float(value), tags=metric.label_values(labels))


def _make(metric: Metric) -> Any:
    keys = tuple(label.name for label in metric.labels)
    if metric.kind is MetricKind.HISTOGRAM:
        return ray_metrics.Histogram(
            metric.name, description=metric.help, boundaries=list(metric.buckets), tag_keys=keys
        )
    made = ray_metrics.Counter if metric.kind is MetricKind.COUNTER else ray_metrics.Gauge
    return made(metric.name, description=metric.help, tag_keys=keys)
