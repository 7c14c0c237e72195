"""Prompts that are longer than the text encoder reads."""

from __future__ import annotations

import pytest

from render_farm.job import RenderJob
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.prompt_length import MAX_TOKENS, TextLength, estimated_length, too_long


@pytest.mark.parametrize(
    ("text", "is_long"), [("a cat " * 50, False), ("word " * 700, True), ("猫が走る。" * 200, True)]
)
def test_estimates_tell_long_from_short(text, is_long):
    length = estimated_length(text)
    assert (length.num_tokens > MAX_TOKENS) == is_long == bool(length.unseen)
    assert not length.is_exact


def test_a_warning_says_how_many_and_from_where():
    long = TextLength(num_tokens=900, unseen="the end of\nit all", is_exact=True)
    lengths = {"p": TextLength(num_tokens=512), "q": long, "n": long}
    assert too_long(["p", "q", "n"], "n", lengths.__getitem__) == [
        'prompt has 900 tokens, and the model sees the first 512: it is cut before "the end of it all"',
        'negative_prompt has 900 tokens, and the model sees the first 512: it is cut before "the end of it all"',
    ]


def test_a_plan_carries_the_warning():
    plan = plan_film(RenderJob(job_id="a", prompt="word " * 700), spec_of_preset("tiny"))
    assert "about" in plan.warnings[0] and "an estimate" in plan.warnings[0]
