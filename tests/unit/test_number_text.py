"""Numbers in texts."""

from __future__ import annotations

import pytest

from render_farm.number_text import read_number, shortest


@pytest.mark.parametrize(
    ("number", "text"),
    [(1.0, "1"), (0.25, "0.25"), (1e-7, "1e-07"), (0.1234567, "0.1234567"), (0.99999999, "0.99999999"), (0.0, "0")],
)
def test_numbers_are_written_short_and_exact(number, text):
    assert shortest(number) == text and read_number(text) == number


def test_digits_with_underscores_are_no_number():
    with pytest.raises(ValueError, match="'0_8' is not a number; write it without _"):
        read_number("0_8")
