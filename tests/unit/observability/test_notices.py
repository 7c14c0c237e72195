"""Notices of a run: what is told, and that it is told only once."""

from __future__ import annotations

from render_farm.observability.notices import NoticeKind, RunNotices

NOW = 1_763_700_000.0


def picture(notices: RunNotices, state: str = "running", eta_s: float | None = None, ended=(), **jobs: int):
    return notices.due(
        run_id="night", output="s3://films", state=state, jobs=jobs, num_jobs=10, eta_s=eta_s, now_s=NOW, ended=ended
    )


def test_each_thing_is_told_once():
    notices = RunNotices(deadlines={"early": NOW + 3600, "later": NOW + 9000, "there": NOW - 60}, failed_before=1)
    assert picture(notices, ended=["there"]) == []
    assert picture(notices, failed=1, eta_s=600.0) == []
    told = picture(notices, failed=2, done=3, eta_s=20_000.0)  # five are left, evenly: 4,000 s, 8,000 s ...
    assert [notice.kind for notice in told] == [NoticeKind.FIRST_FAILURE, NoticeKind.DEADLINE_RISK]
    assert (
        told[1].text
        == "Run night: a film may miss the deadline, early, due 2025-11-21 05:40 UTC; 3 of 10 films are done."
    )
    assert picture(notices, failed=4, eta_s=9999.0) == []
    (ended,) = picture(notices, state="failed", failed=4, done=6)
    assert ended.text == "Run night ended: 6 of 10 films are done, 4 failed."
    assert ended.report == "s3://films/_runs/night/report.html"
    assert picture(notices, state="failed", failed=4, done=6) == []


def test_findings_are_told_at_the_end():
    (ended,) = RunNotices().due(
        run_id="night",
        output="s3://films",
        state="done",
        jobs={"done": 9},
        num_jobs=9,
        eta_s=None,
        now_s=NOW,
        findings={"cut": 1, "frozen": 2},
    )
    assert ended.text == "Run night ended: 9 of 9 films are done. Found in their pictures: cut in 1, frozen in 2."
    assert ended.to_dict()["findings"] == {"cut": 1, "frozen": 2}
