"""PromQL over the farm's metrics, written from `render_farm.observability.metrics` so that no name can be wrong."""

from __future__ import annotations

from render_farm.observability.metrics import Metric, MetricKind

RATE = "$__rate_interval"
"""Grafana's: a range that holds at least four scrapes."""


def series(metric: Metric, *, suffix: str = "", **labels: str) -> str:
    """A metric's series whose labels match the regular expressions `labels`."""
    known = {label.name for label in metric.labels}
    assert labels.keys() <= known, f"{metric.name} has the labels {sorted(known)}, not {sorted(labels)}"
    selected = ",".join(f'{name}=~"{value}"' for name, value in labels.items())
    return f"{metric.exposed}{suffix}" + (f"{{{selected}}}" if selected else "")


def total(metric: Metric, *, by: str = "", **labels: str) -> str:
    """Added up over the cluster."""
    return f"sum{_by(by)}({series(metric, **labels)})"


def rate(metric: Metric, *, by: str = "", over: str = RATE, **labels: str) -> str:
    """How fast a counter grows, a second."""
    assert metric.kind is MetricKind.COUNTER
    return f"sum{_by(by)}(rate({series(metric, **labels)}[{over}]))"


def grown(metric: Metric, *, over: str, by: str = "", **labels: str) -> str:
    """By how much a counter of rare events grew. `increase` would miss the first event of each kind, with which its
    series begins."""
    assert metric.kind is MetricKind.COUNTER
    now = f"sum{_by(by)}({series(metric, **labels)})"
    before = f"sum{_by(by)}({series(metric, **labels)} offset {over})"
    return f"clamp_min({now} - ({before} or {now} * 0), 0)"


def quantile(share: float, metric: Metric, *, by: str = "", over: str = RATE, **labels: str) -> str:
    """A quantile of a histogram."""
    assert metric.kind is MetricKind.HISTOGRAM
    kept = ", ".join(name for name in (by, "le") if name)
    buckets = series(metric, suffix="_bucket", **labels)
    return f"histogram_quantile({share:g}, sum by ({kept}) (rate({buckets}[{over}])))"


def or_zero(expression: str) -> str:
    """0 where there is nothing yet."""
    return f"({expression}) or vector(0)"


def _by(label: str) -> str:
    return f" by ({label}) " if label else ""
