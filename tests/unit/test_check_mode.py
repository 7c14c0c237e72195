"""The column `checks`: one spelling for each value, and errors that say what would work."""

from __future__ import annotations

import pytest

from render_farm.check_mode import CheckAction, canonical_checks, kinds_of, parse_checks


def test_values_have_one_spelling() -> None:
    assert [canonical_checks(text) for text in ("Mark", " fail", "off", "retry:03")] == [
        "mark",
        "fail",
        "off",
        "retry:3",
    ]
    mode = parse_checks("retry:3")
    assert (mode.action, mode.num_retries) == (CheckAction.RETRY, 3)


@pytest.mark.parametrize("text", ["", "retry", "retry:0", "retry:21", "retry:x", "retry:-1", "on", "mark:1"])
def test_what_cannot_be_is_refused_with_what_would_work(text: str) -> None:
    with pytest.raises(ValueError, match="retry:3"):
        parse_checks(text)


def test_kinds_are_those_that_are_known() -> None:
    assert kinds_of(["frozen@97-160", "frozen@3-40", "cut@5", "unheard@1"]) == {"frozen", "cut"}
