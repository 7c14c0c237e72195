"""Checks of pictures: each fault is found with its frames, and films that move, cut and change as asked have none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from render_farm.media.check_limits import CheckLimits
from render_farm.media.checks import MOST_FINDINGS, CheckedFilm, PictureChecks
from render_farm.media.seam_score import SeamMeter

Frames = list[np.ndarray]
_NOISE = np.random.default_rng(0).integers(-6, 7, (97, 64, 64, 3), dtype=np.int16)


def film(num_frames: int = 97, *, colour: tuple[int, int, int] = (40, 90, 160), speed: float = 0.8) -> Frames:
    """A square that moves over a gradient, there and back, with the noise of a decoder."""
    frames = []
    for index in range(num_frames):
        frame = np.full((64, 64, 3), colour, np.int16) + np.arange(64, dtype=np.int16)[:, None, None]
        left = abs(int(index * speed) % 96 - 48)
        frame[20:36, left : left + 16] = (220, 200, 60)
        frames.append(np.clip(frame + _NOISE[index % 97], 0, 255).astype(np.uint8))
    return frames


def brighter(frames: Iterable[np.ndarray], levels: int) -> Frames:
    return [np.clip(frame.astype(np.int16) + levels, 0, 255).astype(np.uint8) for frame in frames]


def checked(*segments: Frames, scenes: tuple[int, ...] = (), limits: CheckLimits | None = None) -> CheckedFilm:
    """`scenes` are segments that may look different."""
    checks, meter = PictureChecks(limits or CheckLimits()), SeamMeter()
    for number, frames in enumerate(segments):
        checks.begin(starts_scene=number in scenes)
        meter.begin(number)
        for frame in frames:
            checks.add(frame)
            meter.add(frame)
    return checks.checked(meter.seams())


def found(*segments: Frames, scenes: tuple[int, ...] = (), limits: CheckLimits | None = None) -> list[str]:
    return [str(finding) for finding in checked(*segments, scenes=scenes, limits=limits).findings]


def test_a_film_that_moves_has_no_findings() -> None:
    frames = film(177)
    assert found(frames[:97], frames[97:]) == []


def test_black_and_flat_frames_are_named_once() -> None:
    black, grey = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 128, np.uint8)
    frames = film()
    assert found([*frames[:40], black, *frames[41:]]) == ["black@40"]
    assert found([*frames[:40], *[grey] * 30, *frames[70:]]) == ["flat@40-69"]


def test_a_film_that_stands_still_is_frozen_from_its_last_moving_frame() -> None:
    frames = film()
    assert found([*frames[:50], *[frames[50]] * 47]) == ["frozen@50-96"]
    assert found([*frames[:50], *[frames[50]] * 20, *frames[70:]]) == []


def test_latents_that_stand_still_flicker_and_are_frozen_all_the_same() -> None:
    frames = film()
    assert found([*frames[:48], *(frames[44:48] * 13)[:49]]) == ["frozen@44-96"]


def test_a_jump_within_a_segment_is_a_cut() -> None:
    other = film(colour=(150, 60, 40))
    assert found([*film()[:40], *other[40:]]) == ["cut@40"]


def test_a_change_of_prompt_may_change_everything() -> None:
    other = film(colour=(150, 60, 40))
    assert found(film(), other[:2] + film(colour=(60, 150, 40)), scenes=(1,)) == []
    assert checked(film(), other, scenes=(1,)).drift is None


def test_short_scenes_are_no_flash() -> None:
    frames, other = film(), brighter(film(), 60)
    assert found(frames[:40], other[40:56], frames[56:], scenes=(1, 2)) == []
    assert found([*frames[:40], *other[40:56], *frames[56:]]) == ["flash@40-55"]


def test_a_jump_between_segments_of_one_prompt_is_a_seam() -> None:
    frames = film(177)
    assert found(frames[:97], [*brighter(frames[97:99], 20), *frames[99:]]) == ["seam@97"]
    assert found(frames[:97], brighter(frames[97:], 20), scenes=(1,)) == []


def test_a_jump_of_light_between_segments_shows_however_much_moves() -> None:
    picture = np.random.default_rng(1).integers(40, 200, (64, 64, 3), dtype=np.uint8)
    frames = [np.roll(picture, 3 * index, axis=1) for index in range(177)]
    assert found(frames[:97], frames[97:]) == []
    assert found(frames[:97], brighter(frames[97:], 8)) == ["seam@97"]
    redder = [frame + np.array((8, 0, 0), np.uint8) for frame in frames[97:]]
    assert found(frames[:97], redder) == ["seam@97"]
    assert found(frames[:97], brighter(frames[97:], 8), scenes=(1,)) == []
    assert found(frames[:97], brighter(frames[97:], 8), limits=CheckLimits(seam_lightness=5.0)) == []


@pytest.mark.parametrize("levels", [60, -35])
def test_light_that_comes_and_goes_is_a_flash(levels: int) -> None:
    frames = film()
    assert found([*frames[:50], *brighter(frames[50:53], levels), *frames[53:]]) == ["flash@50-52"]


def test_light_that_grows_over_the_segments_is_drift() -> None:
    frames = film(257)
    lit = [brighter([frame], index // 2)[0] for index, frame in enumerate(frames)]
    result = checked(lit[:97], lit[97:177], lit[177:])
    assert [str(finding) for finding in result.findings] == ["drift@97-256"]
    assert result.drift is not None and result.drift > 8
    steady = checked(frames[:97], frames[97:177], frames[177:]).drift
    assert steady is not None and steady < 1


def test_a_shape_that_grows_is_no_drift() -> None:
    grown = film(80)
    for frame in grown:
        frame[8:56, 8:56] = (220, 200, 60)
    result = checked(film(), [film()[-1], *grown])
    assert all(finding.kind != "drift" for finding in result.findings)
    assert result.drift is not None and result.drift > 8, "the number says what has changed"


def test_a_film_is_compared_with_its_pictures() -> None:
    frames, other = film(), film(colour=(150, 60, 40))
    checks = PictureChecks()
    for frame in frames:
        checks.add(frame)
    assert checks.checked(image=frames[0], last_image=frames[-1]).findings == ()
    assert [str(one) for one in checks.checked(image=other[0], last_image=other[0]).findings] == ["input@0", "input@96"]


def test_frames_of_an_input_video_count_and_are_not_checked() -> None:
    checks = PictureChecks()
    for _ in range(10):
        checks.skip()
    checks.begin()
    for frame in [*film()[:40], np.zeros((64, 64, 3), np.uint8), *film()[41:]]:
        checks.add(frame)
    assert [str(one) for one in checks.checked().findings] == ["black@50"]


def test_thresholds_are_settings_and_findings_have_an_end() -> None:
    frames = film()
    assert found([*frames[:50], *[frames[50]] * 20, *frames[70:]], limits=CheckLimits(frozen_frames=12)) == [
        "frozen@50-69"
    ]
    stripes = [frame for pair in zip(frames, [np.zeros((64, 64, 3), np.uint8)] * 97, strict=True) for frame in pair]
    assert len(found(stripes)) == MOST_FINDINGS


def test_no_frames_no_findings() -> None:
    assert PictureChecks().checked() == CheckedFilm()
