"""Links from the report to videos in an object store."""

from __future__ import annotations

import pytest

from render_farm.errors import UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.report.writer import ReportWriter
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import write_run


def test_signed_links_are_for_object_stores(tmp_path):
    write_run(tmp_path, num_jobs=3, num_films=0)
    with pytest.raises(UsageError, match="no signed links"):
        ReportWriter(open_store(tmp_path), "night", links_for_s=60).write()
    environment = {"RENDER_FARM_REPORT_LINK_HOURS": "12"}
    assert load_settings(environment=environment).report_link_hours == 12
    with pytest.raises(UsageError, match="at most 168"):
        load_settings(environment={"RENDER_FARM_REPORT_LINK_HOURS": "200"})
