"""Files of every kind that people bring: each comes out as a film can use it, with a note where that is not what its
owner may expect, or is refused with words that say why."""

from __future__ import annotations

import pytest

from render_farm.errors import InputError
from render_farm.media.inputs import open_image, open_video_tail
from render_farm.media.limits import InputLimits
from tests.helpers.wild_files import PICTURES, VIDEOS, Wild

LIMITS = InputLimits(image_timeout_s=4.0)


def check(wild: Wild, read) -> None:
    if wild.refused:
        with pytest.raises(InputError) as refused:
            read()
        said = str(refused.value)
        assert any(words in said for words in wild.refused.split("|")), said
        assert refused.value.advice, said
        return
    opened = read()
    pixel = opened.pixels[(0,) * (opened.pixels.ndim - 1)]
    assert all(abs(int(a) - b) <= wild.within for a, b in zip(pixel, wild.colour, strict=True)), tuple(pixel)
    assert bool(opened.notes) == bool(wild.said), opened.notes
    assert wild.said in "; ".join(opened.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name):
    wild = PICTURES[name]
    path = tmp_path / f"a{wild.suffix}"
    wild.make(path)
    check(wild, lambda: open_image(str(path), LIMITS))
    if not wild.refused:
        assert open_image(str(path), LIMITS, keep_pixels=False).size == wild.size


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEOS)
def test_videos(tmp_path, name):
    wild = VIDEOS[name]
    path = tmp_path / f"a{wild.suffix}"
    wild.make(path)
    check(wild, lambda: open_video_tail(str(path), 5, width=64, height=32, fit="stretch", fps=24, limits=LIMITS))
