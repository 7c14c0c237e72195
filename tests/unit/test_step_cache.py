"""The column `cache`: how it is written and what it refuses."""

from __future__ import annotations

import pytest

from render_farm import RenderJob
from render_farm.errors import InvalidJobError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("off", "off"),
        ("first_block", "first_block:0.05"),
        ("first_block:0.10", "first_block:0.1"),
        ("first_block: threshold=0", "first_block:0"),
        ("mag", "mag:0.06:max_skips=3:retain=0.2"),
        ("mag:0.1:retain=0:max_skips=5", "mag:0.1:max_skips=5:retain=0"),
        ("guidance:0.50", "guidance:0.5"),
        ("guidance:1", "guidance:1"),
        ("guidance : 0.5 + first_block", "first_block:0.05+guidance:0.5"),
        ("off+guidance:0.5", "guidance:0.5"),
        ("first_block:0.9999999+guidance:0.33333333", "first_block:0.9999999+guidance:0.33333333"),
        ("mag:0.1234567:retain=0.3333333", "mag:0.1234567:max_skips=3:retain=0.3333333"),
    ],
)
def test_a_step_cache_has_one_canonical_spelling(text: str, canonical: str) -> None:
    assert RenderJob(job_id="a", prompt="x", cache=text).cache == canonical
    assert RenderJob(job_id="a", prompt="x", cache=canonical).cache == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guidance", "share 'nothing' is not a number from 0 to 1"),
        ("guidance:2", "share '2' is not a number from 0 to 1"),
        ("guidence:0.5", "did you mean guidance?"),
        ("guidance:0.5+guidance:0.5", "guidance is given twice"),
        ("mag+first_block", "a step cache is given twice"),
        ("mag+", "a step cache is given twice"),
        ("firstblock:0.1", "is not a cache; did you mean first_block?"),
        ("taylor", "is not a cache; off, first_block:0.05, mag:0.06 and guidance:0.5 are examples"),
        ("off:1", "is not a cache"),
        ("first_block:-1", "threshold '-1' is not a number from 0 to 10"),
        ("first_block:0_1", "threshold '0_1' is not a number from 0 to 10"),
        ("first_block:much", "threshold 'much' is not a number from 0 to 10"),
        ("first_block:0.1:max_skips=3", "'max_skips=3' is not a parameter of first_block; it takes threshold"),
        ("mag:0.1:0.2", "'0.2' is not a parameter of mag"),
        ("mag:0.1:threshold=0.2", "threshold is given twice"),
        ("mag:max_skips=1.5", "max_skips '1.5' is not a whole number from 1 to 100"),
    ],
)
def test_refusals_name_what_would_work(text: str, message: str) -> None:
    with pytest.raises(InvalidJobError) as refused:
        RenderJob(job_id="a", prompt="x", cache=text)
    assert message in str(refused.value)
