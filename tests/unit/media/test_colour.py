"""Lab: known colours have their published values, and dark ones are not far off."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.media.colour import lab


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (100, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (0.27, 0, 0)),
    ],
)
def test_known_colours(rgb: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    assert lab(np.array(rgb, np.uint8)).tolist() == pytest.approx(expected, abs=0.1)


def test_the_shape_of_pictures() -> None:
    assert lab(np.zeros((4, 6, 3), np.uint8)).shape == (3, 4, 6)
