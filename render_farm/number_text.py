"""Numbers as people write them in settings and columns, and as they are written back."""

from __future__ import annotations


def read_number(text: str) -> float:
    """As `float`, which also takes `0_8` for 8: whoever writes that most likely means 0.8. Raises ValueError."""
    if "_" in text:
        raise ValueError(f"{text!r} is not a number; write it without _")
    return float(text)


def shortest(number: float) -> str:
    """The shortest text that stands for `number` and no other: `1` for 1.0."""
    text = f"{number:g}"
    return text if float(text) == number else repr(number)
