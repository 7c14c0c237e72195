"""Kinds of findings."""

from __future__ import annotations

from render_farm.check_mode import kinds_of


def test_kinds_are_those_that_are_known() -> None:
    assert kinds_of(["frozen@97-160", "frozen@3-40", "cut@5", "unheard@1"]) == {"frozen", "cut"}
