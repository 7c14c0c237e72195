"""The farm's metrics: their list, their names and their bounded labels."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import render_farm
from render_farm.observability import metrics as m

PACKAGE = Path(render_farm.__file__).parent


def test_every_metric_is_complete_and_named_as_prometheus_asks():
    assert len({metric.name for metric in m.METRICS}) == len(m.METRICS)
    assert set(m.METRICS) == {value for value in vars(m).values() if isinstance(value, m.Metric)}
    for metric in m.METRICS:
        assert re.fullmatch(r"render_farm_[a-z_]+", metric.name)
        assert metric.help.endswith(".") and metric.unit
        assert metric.name.endswith("_total") == (metric.kind is m.MetricKind.COUNTER)
        assert bool(metric.buckets) == (metric.kind is m.MetricKind.HISTOGRAM)
        assert list(metric.buckets) == sorted(metric.buckets)
        if metric.unit != "1":
            assert metric.unit in metric.name


def test_labels_are_bounded():
    """Whatever is recorded, a metric has a known number of series; nothing of a job or message becomes a label."""
    for metric in m.METRICS:
        labels = {label.name for label in metric.labels}
        assert not labels & {"job", "job_id", "run_id", "prompt", "message", "segment", "host"}
        assert "run" not in labels or metric is m.RUN_AT_WORK
        assert math.prod(len(label.values) for label in metric.labels if isinstance(label.values, frozenset)) < 300
        odd = metric.label_values(dict.fromkeys(labels, "shot-0001 of ada"))
        assert set(odd.values()) <= {m.OTHER}
    assert m.JOBS.label_values({"state": "done"}) == {"state": "done"}
    assert m.WORKER.bounded(m.place_of("worker-12.7")) == "worker-12"
    assert m.WORKER.bounded("worker-12.7") == m.OTHER
    with pytest.raises(AssertionError):
        m.JOBS.label_values({"state": "done", "job_id": "a"})


def test_no_other_file_names_a_metric():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "metrics.py":
            continue
        text = path.read_text()
        named = [metric.name for metric in m.METRICS if f'{metric.name}"' in text]
        assert named == [], path
