"""Which seed follows on a film with findings, and what tells the films of a row apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from render_farm.farm.run.film_task import FilmTask
from render_farm.job import RenderJob
from render_farm.media.check_limits import CheckLimits
from render_farm.planning import plan_film, spec_of_preset
from render_farm.storage.run_state import JobRow


def task(seed: int, checks: str = "retry:2") -> FilmTask:
    job = RenderJob(job_id="a", prompt="a red circle", num_frames=21, seed=seed, checks=checks)
    return FilmTask(run_id="night", output="films", model="tiny", plan=plan_film(job, spec_of_preset("tiny")))


def test_seeds_follow_one_another_and_share_the_rows_folder() -> None:
    first = task(7)
    second = first.after(("cut@3", "cut@9"), 2.0)
    third = second.after(("cut@3",), 3.0)
    assert [one.plan.job.seed for one in (first, second, third)] == [7, 8, 9]
    assert [one.seeds_left for one in (first, second, third)] == [2, 1, 0]
    assert {one.work_key for one in (first, second, third)} == {first.work_key}
    assert len({one.pixels_key for one in (first, second, third)}) == 3
    assert second.plan.render_key == task(8).plan.render_key, "it is the film that a row of that seed has"
    assert second.plan.segment_keys == task(8).plan.segment_keys
    assert [(one.seed, one.findings, one.seconds) for one in third.tried] == [
        (7, ("cut@3", "cut@9"), 2.0),
        (8, ("cut@3",), 3.0),
    ]


@pytest.mark.parametrize(("numbers", "best"), [((2, 1, 3), 8), ((1, 1, 2), 7), ((3, 3, 3), 7)])
def test_when_no_seed_is_left_the_film_with_the_fewest_findings_follows(numbers: tuple[int, ...], best: int) -> None:
    one = task(7)
    for number in numbers:
        one = one.after(("cut@1",) * number, 1.0)
    assert one.plan.job.seed == best
    assert one.seeds_left < 0
    assert one.pixels_key.startswith(one.work_key)


def test_a_row_that_starts_again_continues_after_the_films_that_were_rejected() -> None:
    third = task(7).after(("cut@3", "cut@9"), 2.0).after(("cut@3",), 3.0)
    films = third.rejected_films()
    assert films is not None
    assert JobRow.from_dict(json.loads(json.dumps(JobRow(rejected=films).to_dict()))).rejected == films
    assert task(7).continued(films) == third
    assert task(7, "retry:5").continued(films).plan.job.seed == 9
    assert task(7, "retry:1").continued(films).plan.job.seed == 8, "no seed is left, and this one is the best"
    assert task(7, "mark").continued(films) == task(7, "mark")
    assert task(6).continued(films) == task(6), "they are another film's"
    milder = replace(task(7), checks=CheckLimits(cut_levels=50.0))
    assert milder.continued(films) == milder, "it may be clean now"
    fourth = third.after(("cut@3",), 1.0)
    assert task(7).continued(fourth.rejected_films() or ()) == fourth


@pytest.mark.parametrize("broken", [{"seed": "7"}, {"findings": [1]}, {"limits": None}, {"more": 1}])
def test_a_row_with_a_malformed_rejected_film_is_refused(broken: dict[str, object]) -> None:
    [film] = task(7).after(("cut@3",), 2.0).rejected_films() or ()
    assert JobRow.from_dict({"rejected": [film]}).rejected == (film,)
    with pytest.raises(ValueError, match="rejected"):
        JobRow.from_dict({"rejected": [film | broken]})


def test_the_last_seed_is_followed_by_the_first() -> None:
    assert task(2**63 - 1).after(("cut@1",), 1.0).plan.job.seed == 0


def test_the_key_of_a_row_does_not_depend_on_its_checks(tmp_path: Path) -> None:
    assert len({task(7, checks).work_key for checks in ("mark", "fail", "off", "retry:3")}) == 1
