"""Durations and numbers of things in words."""

from __future__ import annotations

from render_farm.cli.terminal import duration, plural


def test_durations_and_plurals():
    assert [duration(value) for value in (0, 59.6, 3661, 90_000)] == ["0:00:00", "0:01:00", "1:01:01", "1 d 1:00:00"]
    assert [plural(value, "job") for value in (0, 1, 2000)] == ["0 jobs", "1 job", "2,000 jobs"]
