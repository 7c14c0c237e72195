"""Quotas of runs and shares."""

from __future__ import annotations

from render_farm.scheduling.quotas import QuotaBook
from tests.helpers.farm import Farm, film, renders


def test_a_run_renders_on_no_more_workers_than_it_asked_for():
    farm = Farm(*(film(f"f{i}") for i in range(4)), hosts="aaaa", max_workers=2)
    assert len(renders(farm.first)) == 2
    assert farm.why("f3") == "its run renders on 2 workers and may have 2"
    other = farm.add(film("g", run_id="q"), film("h", run_id="q"))
    assert len(renders(other)) == 2


def test_a_share_has_no_more_than_its_quota():
    farm = Farm(*(film(f"f{i}", share="a") for i in range(3)), film("g", share="b"), hosts="aaaa", quotas={"a": 1})
    assert sorted(action.film[1] for action in renders(farm.first)) == ["f0", "g"]
    assert farm.why("f1") == "'a' renders on 1 workers, and its quota is 1"
    [work] = [action for action in renders(farm.first) if action.film[1] == "f0"]
    assert [action.film[1] for action in renders(farm.done(work))] == ["f1"]


def test_a_group_larger_than_its_quota_says_so():
    book = QuotaBook({"a": 2})
    assert book.why("r", "a", 4) == "it needs 4 workers, and the quota of 'a' is 2"
    assert book.why("r", "b", 4) == ""
