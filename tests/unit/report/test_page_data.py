"""The report's data: where time went, why films failed, what changed; and the server of it, asked over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from render_farm.errors import NotFoundError
from render_farm.report.page import build_page, dump_data
from render_farm.report.page_data import Price, page_data
from render_farm.report.run_folder import RunFolder
from render_farm.report.writer import ReportWriter
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import HOSTILE, START_S, write_run


def test_the_page_of_a_night(tmp_path):
    write_run(tmp_path, run_id="before", started_s=START_S - 86_400, num_films=0, num_jobs=38, seed=3)
    write_run(tmp_path, num_films=0)
    data = ReportWriter(open_store(tmp_path), "night", Price(per_hour=2.5, currency="EUR")).data()
    totals = data["totals"]
    assert totals["states"] == {"done": 38, "failed": 2}
    assert totals["video_s"] == pytest.approx(38 * 257 / 24, abs=0.5)
    assert totals["cost"] == pytest.approx(totals["held_s"] / 3600 * 2.5, abs=0.01)
    assert totals["held_s"] >= totals["work_s"] + totals["idle_s"] - 0.5
    assert totals["deadlines"] == 4
    assert [data["jobs"]["id"][index] for index in data["seams"]] == [
        "shot-0031",
        "shot-0013",
        "shot-0022",
        "shot-0004",
    ]
    assert sorted(data["found"]) == sorted(data["seams"])
    assert data["jobs"]["findings"][data["found"][0]] == ["frozen@97-160"]
    assert data["changes"]["run"] == "before"
    assert data["changes"]["rows"][0] == ["films", 38, 40]
    assert sum(data["throughput"]["films"]) == 38
    assert len(data["gantt"]["workers"]) == 4


def test_a_run_of_which_only_the_manifest_is_there_has_a_page(tmp_path):
    folder = write_run(tmp_path, num_films=0)
    (folder / "results.parquet").unlink()
    for path in (folder / "logs").iterdir():
        path.unlink()
    data = ReportWriter(open_store(tmp_path), "night").data()
    assert data["totals"]["jobs"] == 40
    assert not data["run"]["over"]
    assert build_page(data)


def test_results_of_the_run_before_may_lack_columns(tmp_path):
    before = write_run(tmp_path, run_id="before", started_s=START_S - 86_400, num_films=0, num_jobs=38, seed=3)
    write_run(tmp_path, num_films=0)
    results = before / "results.parquet"
    pq.write_table(pq.read_table(results).select(["job_id", "state"]), results)
    rows = {name: then for name, then, _ in ReportWriter(open_store(tmp_path), "night").data()["changes"]["rows"]}
    assert (rows["films"], rows["rendering hours in all"]) == (38, 0.0)


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_run(tmp_path, num_films=0)
    with pytest.raises(NotFoundError, match="night") as caught:
        ReportWriter(open_store(tmp_path), "other").data()
    assert caught.value.exit_code == 14


def test_what_users_wrote_cannot_leave_the_data(tmp_path):
    write_run(tmp_path, num_films=0)
    page = build_page(ReportWriter(open_store(tmp_path), "night").data()).decode()
    assert HOSTILE not in page
    assert "<img" not in page
    assert page.count("</script>") == 2
    inside = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert HOSTILE in json.loads(inside)["jobs"]["prompt"]
    assert "default-src 'none'" in page
    assert json.loads(dump_data({"text": "\u2028<&>"})) == {"text": "\u2028<&>"}


def test_a_deadline_is_kept_by_a_film_that_is_done_in_time_only():
    due = datetime.fromtimestamp(1000.0, UTC)
    results = [
        {"job_id": "in-time", "state": "done", "finished_at": 999.0},
        {"job_id": "there-already", "state": "done"},
        {"job_id": "late", "state": "done", "finished_at": 1001.0},
        {"job_id": "cancelled", "state": "cancelled", "finished_at": 900.0},
        {"job_id": "none", "state": "done", "finished_at": 5.0},
    ]
    jobs = [{"job_id": row["job_id"], "prompt": "x", "deadline": due} for row in results]
    del jobs[-1]["deadline"]
    folder = RunFolder(run_id="r", document={}, jobs=jobs, results=results)
    for now_s, late in ((950.0, 1), (1100.0, 2)):
        totals = page_data(folder, now_s=now_s)["totals"]
        assert (totals["deadlines"], totals["kept"], totals["late"]) == (4, 2, late)
