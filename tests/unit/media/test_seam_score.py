"""Seam scores: jumps are seen, calm films and storms are judged by their own measure, memory does not grow."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.media.seam_score import VISIBLE, SeamMeter, worst


def moving(num_frames: int, *, start: int = 0, size: int = 64, speed: float = 1.0) -> list[np.ndarray]:
    """A grey square that moves over a gradient, frame by frame."""
    frames = []
    for index in range(start, start + num_frames):
        frame = np.tile(np.arange(size, dtype=np.uint8)[:, None, None], (1, size, 3))
        left = int(index * speed) % (size - 16)
        frame[8:24, left : left + 16] = 200
        frames.append(frame)
    return frames


def measured(*segments: list[np.ndarray]) -> SeamMeter:
    meter = SeamMeter()
    for number, frames in enumerate(segments):
        meter.begin(number)
        for frame in frames:
            meter.add(frame)
    return meter


def test_a_film_that_goes_on_as_before_has_scores_of_about_one():
    seams = measured(moving(20), moving(20, start=20), moving(8, start=40)).seams()
    assert [(seam.segment, seam.frame) for seam in seams] == [(1, 20), (2, 40)]
    assert all(0.8 < seam.score < 1.2 for seam in seams)


def test_a_jump_is_visible_and_only_where_it_is():
    brighter = [np.minimum(frame + 40, 255).astype(np.uint8) for frame in moving(20, start=20)]
    seams = measured(moving(20), brighter, [*brighter[-5:]]).seams()
    assert seams[0].score > VISIBLE
    assert worst(seams) == seams[0].score


def test_a_storm_hides_a_jump_that_a_calm_film_shows():
    noise = np.random.default_rng(0)
    storm = [noise.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    assert measured(storm[:10], storm[10:]).seams()[0].score == pytest.approx(1, abs=0.1)


def test_a_still_film_has_no_seam_and_one_segment_none_at_all():
    still = [np.full((32, 32, 3), 7, np.uint8)] * 10
    assert measured(still, still).seams()[0].score == 1.0
    assert measured(still).seams() == ()
    assert worst(()) is None


def test_large_frames_are_thinned_and_say_the_same():
    jump = [np.full((1088, 1920, 3), 90, np.uint8)] * 3
    calm = [np.full((1088, 1920, 3), 80 + index, np.uint8) for index in range(3)]
    score = measured(calm, jump).seams()[0].score
    assert score == pytest.approx((8 + 0.25) / (0.5 + 0.25))


def test_what_is_kept_is_that_of_two_segments():
    meter = SeamMeter()
    for segment in range(50):
        meter.begin(segment)
        for frame in moving(10, start=10 * segment, size=32):
            meter.add(frame)
        assert len(meter._before) + len(meter._inside) <= 20
    assert len(meter.seams()) == 49


def test_the_seams_so_far_can_be_asked_for_twice():
    meter = measured(moving(5), moving(5, start=5))
    assert meter.seams() == meter.seams()
