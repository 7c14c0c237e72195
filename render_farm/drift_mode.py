"""What the column `drift` says: whether later windows are moved toward the colours of the first. It changes the film.

`off`, or `adain:F`: the mean and the standard deviation of each latent channel of a window's new latents move by the
share F (above 0, at most 1) toward those of the first window.
"""

from __future__ import annotations

import math

from render_farm.number_text import read_number, shortest

OFF = "off"
_ADAIN = "adain:"


def parse_drift(text: str) -> float:
    """The share; 0 is off. ValueError that says what would work."""
    name = text.strip().lower()
    if name == OFF:
        return 0.0
    try:
        share = read_number(name.removeprefix(_ADAIN)) if name.startswith(_ADAIN) else math.nan
    except ValueError:
        share = math.nan
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{text!r} is not off or adain:F with F above 0 and at most 1; adain:0.25 is usual")
    return share


def canonical_drift(text: str) -> str:
    """`text` in its one spelling. ValueError as `parse_drift`."""
    share = parse_drift(text)
    return f"{_ADAIN}{shortest(share)}" if share else OFF
