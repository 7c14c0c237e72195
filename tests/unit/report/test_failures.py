"""Failures in the report, grouped by cause."""

from __future__ import annotations

import pytest

from render_farm.report.failures import group_failures


def test_failures_that_differ_in_names_and_numbers_are_one_cause():
    rows = [
        {"job_id": f"a{n}", "state": "failed", "error_class": "InputError", "message": f"a{n}: image {n}.png: missing"}
        for n in range(30)
    ]
    rows.append(
        {
            "job_id": "b",
            "state": "failed",
            "error_class": "InvalidJobError",
            "message": "row 3 (job_id=b): num_frames: 0 is less than 1",
        }
    )
    first, second = group_failures([*rows, {"job_id": "c", "state": "done"}], run_id="night", output="s3://b/it's")
    assert (len(first.job_ids), first.message) == (30, "image 0.png: missing")
    assert first.retry == "render-farm retry night --failed --output 's3://b/it'\"'\"'s'"
    assert (second.message, second.retry) == ("num_frames: 0 is less than 1", "")
    assert "Correct these rows" in second.advice


def test_a_short_name_inside_of_words_is_no_name():
    message = "has too many frames, say the rules"
    rows = [{"job_id": name, "state": "failed", "error_class": "E", "message": message} for name in ("x", "y", "a")]
    assert [len(group.job_ids) for group in group_failures(rows, run_id="night", output="out")] == [3]


@pytest.mark.parametrize(
    ("error_class", "word", "can_be_retried"),
    [
        ("FilmRefusedError", "hook", True),
        ("HookError", "hook", True),
        ("ProvenanceError", "certificate", True),
        ("FindingsError", "Another seed", False),  # the same seed has the same findings
        ("FilmExistsError", "--replace", False),
    ],
)
def test_a_film_that_was_not_published_has_advice_of_its_own(error_class: str, word: str, can_be_retried: bool):
    row = {"job_id": "a", "state": "failed", "error_class": error_class, "message": "not published"}
    (group,) = group_failures([row], run_id="night", output="films")
    assert word in group.advice
    assert bool(group.retry) == can_be_retried
