"""The verb report."""

from __future__ import annotations

from tests.helpers.synthetic_run import write_run


def test_report_writes_the_page_and_says_where(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    said = cli("report", "night", "--output", tmp_path)
    assert said.stdout == f"{tmp_path}/_runs/night/report.html\n"
    assert (tmp_path / "_runs" / "night" / "report.html").read_bytes().startswith(b"<!doctype html>")
