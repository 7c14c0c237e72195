"""Flags of columns, and which rows are rendered."""

from __future__ import annotations

import inspect

import pytest

from render_farm.cli.rendering.columns import COLUMN_FLAGS, columns_of_flags, flags_again
from render_farm.cli.rendering.flags import arguments_of
from render_farm.cli.rendering.render import render
from render_farm.job import columns


def test_every_column_has_a_flag_of_its_name(cli):
    text = cli("render", "--help").stdout
    for name in columns():
        if name != "prompt":
            assert f"--{name.replace('_', '-')}" in text, name


def test_every_kind_of_column_is_read(cli, rendered):
    flags = [
        *("--job-id", "mine", "--num-inference-steps", 4, "--guidance-scale", 1.5, "--no-keep-overlap"),
        *("--tags", "show=1", "--tags", "part=b", "--owner", "ads", "--priority", 90, "--sampler", "corrected"),
    ]
    assert cli("render", "--prompt", "a cat", "-o", "out", *flags).exit_code == 0
    assert rendered.requests[0].overrides == {
        "job_id": "mine",
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "keep_overlap": False,
        "tags": {"show": "1", "part": "b"},
        "owner": "ads",
        "priority": 90,
        "sampler": "corrected",
    }


def test_repeated_prompts_are_one_per_segment(cli, rendered):
    assert cli("render", "--prompt", "A", "--prompt", "B", "-o", "out").exit_code == 0
    assert cli("render", "--prompt", "A", "-o", "out").exit_code == 0
    assert [request.prompt for request in rendered.requests] == [("A", "B"), "A"]


def test_shots_take_the_place_of_a_prompt(cli, rendered):
    shots = '[{"prompt": "A"}, {"prompt": "B", "cut": true, "image": "/in/b.png"}]'
    assert cli("render", "--shots", shots, "-o", "out", "--first-segments", 2).exit_code == 0
    [request] = rendered.requests
    assert (request.prompt, request.first_segments) == (("A", "B"), 2)
    assert request.overrides["shots"] == [{"prompt": "A"}, {"prompt": "B", "cut": True, "image": "/in/b.png"}]
    said = cli("render", "--shots", '[{"prompt": "A", "num_frames": 0}]', "-o", "out")
    assert (said.exit_code, "shot 1: num_frames: 0 is less than 1" in said.stderr) == (2, True)
    assert cli("render", "--shots", shots, "--prompt", "other", "-o", "out").exit_code == 2
    for text, message in (
        ("null", "--shots: is not a list of shots"),
        ("{bad", "--shots: '{bad' is not JSON like [{"),
        ('[{"prompt": "A", "prompt": "B"}]', "--shots: 'prompt' appears twice"),
        ('[{"prompt": "A", "seed": 4503599627370497.3}]', "--shots: shot 1: seed: 4503599627370497.3 is not a whole"),
    ):
        said = cli("render", "--shots", text, "-o", "out")
        assert (said.exit_code, message in said.stderr) == (2, True), said.stderr


def test_flags_go_through_a_command_line_unchanged():
    values = {name: parameter.default for name, parameter in inspect.signature(render).parameters.items()}
    given = {"prompt": ["A", "B"], "keep_overlap": False, "tags": ["a=b", "c=d"], "where": "seed > 3", "replace": True}
    line = arguments_of(render, {**values, **given})
    assert sorted(line) == sorted(
        ["--prompt=A", "--prompt=B", "--no-keep-overlap", "--tags=a=b", "--tags=c=d", "--where=seed > 3", "--replace"]
    )


def test_columns_become_the_same_flags_again():
    """`submit` passes them on, and the command elsewhere reads them again."""
    shots = '[{"prompt": "A"}, {"prompt": "B", "cut": true, "image": "/in/b.png", "guidance_scale": 4.5}]'
    flags = {"step_list": "1000,500", "shots": shots, "loras": ["/a.safetensors=0.5"], "tags": ["a=b"], "seed": 3}
    given = columns_of_flags(flags)
    assert columns_of_flags(flags_again(given)) == given


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tags", "x"], "--tags 'x'"),
        (["--tags", "a=b", "--tags", "a=c"], "--tags: 'a' is given twice (give each name once)"),
        (["--sampler", "no"], "sampler"),
        (["--seed", "1_0"], "'1_0' is not a whole number"),
        (["--guidance-scale", "0_8"], "'0_8' is not a number"),
        (["--step-list", "1_0,5"], "'1_0,5' is not a list of whole numbers"),
    ],
)
def test_what_a_column_cannot_hold_is_refused(cli, rendered, flags, message):
    said = cli("render", "--prompt", "a", "-o", "out", *flags)
    assert (said.exit_code, rendered.requests) == (2, [])
    assert message in said.stderr


def test_which_rows_are_meant_is_passed_on(cli, rendered, manifest):
    flags = ["--where", "num_frames > 97", "--limit", 3, "--canary", 2, "--replace"]
    assert cli("render", manifest, "-o", "out", *flags).exit_code == 0
    [request] = rendered.requests
    assert (request.where, request.limit, request.canary, request.replace) == ("num_frames > 97", 3, 2, True)
    said = cli("render", manifest, "-o", "out", "--where", "num_frame > 97")
    assert (said.exit_code, "did you mean num_frames?" in said.stderr) == (2, True)


def test_columns_that_serve_manifests_too_are_no_columns_of_a_prompt():
    assert not {"prompt", "deadline", "ulysses"} & set(COLUMN_FLAGS)
