"""Which rows of a manifest a run has."""

from __future__ import annotations

from render_farm.farm.driver.run_source import _read_manifest
from render_farm.farm.run.request import RunRequest
from render_farm.farm.run.settings import load_settings
from render_farm.job import RenderJob
from render_farm.manifest.writer import write_manifest


def test_a_draft_is_refused_by_rows_that_are_not_rendered_now(tmp_path):
    manifest = str(tmp_path / "m.parquet")
    write_manifest(manifest, [RenderJob(job_id=name, prompt="x") for name in ("a", "a.draft")])
    settings = load_settings(environment={})
    for chosen in ({"limit": 1}, {"where": "job_id == 'a'"}, {}):
        request = RunRequest(output=str(tmp_path), manifest=manifest, first_segments=1, settings=settings, **chosen)
        row = _read_manifest(request)[1][0]
        assert row.job is None and "a.draft is the job of row 2 too" in row.lines[0], chosen
