"""The verb continue: a run that nobody renders is started again from what it stored."""

from __future__ import annotations

import json

import pytest

from render_farm.storage.layout import RunKeys
from tests.helpers.stored_run import stored_run


def test_a_run_is_started_again_from_its_stored_manifest(cli, rendered, tmp_path):
    store = stored_run(tmp_path)
    document = {
        "manifest": "s3://b/mine.parquet",
        "continue_with": {
            "relative_to": "s3://b",
            "keep_latents": True,
            "replace": True,
            "deadline": "2030-01-31T06:00Z",
        },
    }
    store.write_bytes(RunKeys(run_id="night").run, json.dumps(document).encode())
    said = cli("continue", "night", "-o", store.root_uri, "--workers", 3, "--json")
    assert said.exit_code == 0, said.output
    [request] = rendered.requests
    assert request.manifest == f"{store.root_uri}/_runs/night/manifest.parquet"
    assert (request.run_id, request.manifest_name) == ("night", "s3://b/mine.parquet")
    assert (request.relative_to, request.keep_latents, request.replace) == ("s3://b", True, True)
    assert (request.num_workers, request.deadline.isoformat()) == (3, "2030-01-31T06:00:00+00:00")
    assert json.loads(said.stdout)["schema"] == "render_farm.continue/1"


def test_a_run_of_an_earlier_version_is_continued_with_what_is_known(cli, rendered, tmp_path):
    store = stored_run(tmp_path)
    assert cli("continue", f"{store.root_uri}/_runs/night").exit_code == 0
    assert (rendered.requests[0].relative_to, rendered.requests[0].keep_latents) == (None, False)


@pytest.mark.slow
def test_what_is_not_there_is_14(cli, rendered, tmp_path):
    store = stored_run(tmp_path)
    store.delete(RunKeys(run_id="night").manifest)
    assert cli("continue", "night", "-o", store.root_uri).exit_code == 14
    assert cli("continue", "other", "-o", store.root_uri).exit_code == 14
    assert rendered.requests == []
