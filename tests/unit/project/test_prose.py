"""What `make lint` says of the Markdown's sentences is counted as it claims."""

from __future__ import annotations

import pytest

from tests.helpers.prose import num_words, read_prose


@pytest.mark.parametrize(
    ("markdown", "sentences", "num_semicolons"),
    [
        ("One idea. And one more; here.", ["One idea.", "And one more; here."], 1),
        ("A line\nand the next.\n\nAnother paragraph.", ["A line and the next.", "Another paragraph."], 0),
        ("- an item\n- **Bold.** And more", ["an item", "**Bold.", "And more"], 0),
        ("# A heading\n\n| a; b | c |\n|---|---|\n", [], 1),
        ("```\ncode; more. Code.\n```\nText with `a; b` in it.", ["Text with code in it."], 0),
        ("See [the guide](a.md; b) &amp; ![a; picture](b.png) more.", ["See the guide    more."], 0),
    ],
)
def test_sentences_and_semicolons(markdown, sentences, num_semicolons):
    prose = read_prose(markdown)
    assert list(prose.sentences) == sentences
    assert prose.num_semicolons == num_semicolons


def test_words_of_a_sentence():
    assert num_words("It takes 25 GPU-hours, at `code` or 3.5 %.") == 8
