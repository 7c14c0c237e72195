"""Shares of the farm."""

from __future__ import annotations

import pytest

from render_farm.scheduling.shares import ShareBook
from tests.helpers.farm import Farm, film


def test_shares_are_served_by_weight():
    films = [film(f"{share}{i}", share=share) for share in "ab" for i in range(40)]
    order = Farm(*films, shares={"a": 3.0}, share_slack_s=1.0).order()[:40]
    assert sum(name[0] == "a" for name in order) == pytest.approx(30, abs=1)


def test_a_share_that_comes_back_is_not_owed_what_it_did_not_use():
    book = ShareBook({}, slack_s=1.0)
    book.arrived("a")
    for _ in range(10):
        book.charge("a", 100.0)
    book.arrived("b")
    assert book.turn("b") >= book.turn("a") - 100
    assert book.used_s == {"a": 1000.0}


def test_a_failed_segment_is_not_charged_beyond_what_it_used():
    book = ShareBook({}, slack_s=1.0)
    book.arrived("a")
    book.charge("a", 100.0)
    book.charge("a", -90.0)
    assert book.turn("a") == 10
