"""The verb report."""

from __future__ import annotations

import pytest

from render_farm.cli.report import RunReporter
from render_farm.errors import StorageError, UsageError
from render_farm.report.page_data import Price
from render_farm.report.writer import ReportWriter
from render_farm.storage import patience
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import write_run


def test_report_writes_the_page_and_says_where(cli, tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    said = cli("report", "night", "--output", tmp_path)
    assert said.stdout == f"{tmp_path}/_runs/night/report.html\n"
    assert (tmp_path / "_runs" / "night" / "report.html").read_bytes().startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("failures", "patience_s", "written"),
    [
        ([StorageError("cannot read"), StorageError("cannot write")], 60, True),
        ([StorageError("cannot write")] * 2, 0, False),
        ([UsageError("no such run")], 60, False),
    ],
)
def test_the_last_page_is_written_when_the_store_answers_again(failures, patience_s, written, tmp_path, monkeypatch):
    write_run(tmp_path, num_jobs=3, num_films=0)
    said, write = [], ReportWriter.write
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)

    def failing(writer):
        if failures:
            raise failures.pop(0)
        return write(writer)

    monkeypatch.setattr(ReportWriter, "write", failing)
    price = Price(per_hour=None, currency="EUR")
    reporter = RunReporter(open_store(str(tmp_path)), price, patience_s=patience_s, on_failure=said.append)
    reporter.begin("night")
    reporter.close()
    assert (tmp_path / "_runs" / "night" / "report.html").exists() == written
    assert len(said) == (0 if written else 1)
