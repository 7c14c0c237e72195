"""The column `drift`: one spelling for each value, and errors that say what would work."""

from __future__ import annotations

import pytest

from render_farm.drift_mode import canonical_drift, parse_drift


def test_values_have_one_spelling() -> None:
    assert [canonical_drift(text) for text in ("Off", "adain:0.250", "ADAIN:1")] == ["off", "adain:0.25", "adain:1"]
    for exact in ("adain:0.1234567", "adain:0.99999999", "adain:1e-07"):
        assert canonical_drift(exact) == exact
    assert (parse_drift("off"), parse_drift("adain:0.25")) == (0.0, 0.25)


@pytest.mark.parametrize(
    "text", ["", "adain", "adain:", "adain:0", "adain:1.1", "adain:-1", "adain:nan", "adain:0_1", "0.25", "on"]
)
def test_what_cannot_be_is_refused_with_what_would_work(text: str) -> None:
    with pytest.raises(ValueError, match=r"adain:0\.25"):
        parse_drift(text)
