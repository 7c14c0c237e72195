"""The clip generator: deterministic, complete, and read back by the detector."""

from __future__ import annotations

import numpy as np
import pytest

from render_farm.tiny.captions import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, all_scenes, held_out_scenes, is_held_out
from render_farm.tiny.clips import PERIOD, SPEED, draw_change, draw_scene, offsets, render_change, render_clip
from render_farm.tiny.detect import detect


def to_uint8(clip: np.ndarray) -> np.ndarray:
    return (clip * 255).astype(np.uint8)


def test_a_clip_depends_only_on_scene_seed_and_length() -> None:
    scene = all_scenes()[100]
    first, again, other = render_clip(scene, 3, 9), render_clip(scene, 3, 9), render_clip(scene, 4, 9)
    assert first.dtype == np.float32
    assert first.shape == (9, 64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_longer_clip_starts_with_the_shorter_one_and_may_start_later() -> None:
    scene = all_scenes()[7]
    whole = render_clip(scene, 3, 33)
    assert np.array_equal(whole[:9], render_clip(scene, 3, 9))
    np.testing.assert_allclose(whole[20:], render_clip(scene, 3, 13, first_frame=20), atol=1e-3)


def test_the_world_is_as_varied_as_promised() -> None:
    assert len(COLOURS) >= 6
    assert len(SHAPES) >= 4
    assert len(MOTIONS) >= 6
    assert len(BACKGROUNDS) >= 4
    scenes = [draw_scene(np.random.default_rng([0, i])) for i in range(400)]
    assert {s.colour for scene in scenes for s in scene.subjects} == set(COLOURS)
    assert {s.shape for scene in scenes for s in scene.subjects} == set(SHAPES)
    assert {s.motion for scene in scenes for s in scene.subjects} == set(MOTIONS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert 0 < sum(len(scene.subjects) == 2 for scene in scenes) < 100


def test_training_never_shows_what_is_held_out() -> None:
    assert len(held_out_scenes()) >= 96
    for i in range(400):
        scene = draw_scene(np.random.default_rng([1, i]))
        assert not any(is_held_out(subject, scene.background) for subject in scene.subjects)


def test_a_caption_reads_like_english() -> None:
    assert all_scenes()[0].caption() == "a red circle moving right on a black background"


@pytest.mark.slow
def test_the_detector_reads_every_attribute_of_true_clips() -> None:
    for seed, scene in enumerate(held_out_scenes()[::4]):
        for frames in (slice(0, 97), slice(177, 257)):
            clip = render_clip(scene, seed, frames.stop - frames.start, first_frame=frames.start)
            found, subject = detect(to_uint8(clip)), scene.subjects[0]
            assert (found.background, found.colour, found.shape, found.motion) == (
                scene.background,
                subject.colour,
                subject.shape,
                subject.motion,
            ), scene.caption()


def test_the_detector_finds_nothing_in_an_empty_clip() -> None:
    found = detect(np.full((17, 64, 64, 3), 128, np.uint8))
    assert found.background == "gray"
    assert found.colour is None
    assert found.motion is None


def test_moving_right_leaves_and_comes_back() -> None:
    scene = next(s for s in all_scenes() if s.subjects[0].motion == "right")
    path = detect(to_uint8(render_clip(scene, 0, 97))).path
    assert path[-1, 0] - path[0, 0] == pytest.approx(96 * SPEED, abs=1)


def test_every_motion_is_back_where_it_was_after_a_period() -> None:
    for scene in all_scenes()[:: len(BACKGROUNDS)]:
        np.testing.assert_allclose(
            render_clip(scene, 3, 5), render_clip(scene, 3, 5, first_frame=PERIOD), atol=1e-2, err_msg=scene.caption()
        )


def test_outlined_shapes_are_hollow() -> None:
    scene = next(s for s in all_scenes() if s.subjects[0].shape == "square" and s.subjects[0].motion == "still")
    filled, outlined = render_clip(scene, 3, 1)[0], render_clip(scene, 3, 1, outlined=True)[0]
    assert np.array_equal(outlined[32, 32], outlined[0, 0])
    assert np.array_equal(filled[32, 22], outlined[32, 22])


@pytest.mark.slow
def test_a_change_of_prompt_does_not_make_the_shape_jump() -> None:
    for i in range(12):
        rng = np.random.default_rng([2, i])
        scene = draw_scene(rng, two_percent=0)
        after = draw_change(rng, scene)
        assert after != scene
        clip = render_change(scene, after, i, 65, 33)
        assert np.array_equal(clip[:33], render_clip(scene, i, 33))
        found = detect(to_uint8(clip[44:]))
        assert found.colour == after.subjects[0].colour
        assert np.abs(np.diff(detect(to_uint8(clip)).path, axis=0)).max() < 6


def test_an_unknown_motion_is_named() -> None:
    with pytest.raises(ValueError, match="sideways"):
        offsets("sideways", 0.0, 3)
