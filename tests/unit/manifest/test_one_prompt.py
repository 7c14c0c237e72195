"""The job of a prompt on the command line."""

from __future__ import annotations

import pytest

from render_farm.errors import UsageError
from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt


def test_the_job_of_a_prompt_is_named_by_what_is_asked_for():
    job = job_of_prompt("A red circle!", {"num_frames": 33, "seed": None})
    assert job == job_of_prompt("A red circle!", {"num_frames": 33})
    assert job.job_id.startswith("a-red-circle-") and job.num_frames == 33
    other = job_of_prompt("A red circle!", {"num_frames": 37})
    assert other.job_id != job.job_id
    assert run_id_of_prompt(job) != run_id_of_prompt(other)
    with pytest.raises(UsageError) as caught:
        job_of_prompt("x", {"num_frames": 0, "height": 17})
    assert str(caught.value).startswith("num_frames: 0 is less than 1; height: 17 is not a multiple of 16")
