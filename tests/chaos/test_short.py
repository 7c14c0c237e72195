"""The chaos suite in short: one run in which a worker is killed while a fifth of the store's requests fail."""

from __future__ import annotations

import pytest

from tests.chaos.audit import INVARIANTS
from tests.chaos.faults import SHORT
from tests.chaos.one_run import expected_latents, one_run
from tests.chaos.world import world


@pytest.mark.timeout(900)
def test_a_worker_killed_in_a_storm_breaks_no_invariant(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # restored afterwards: the run sets them
    with world(tmp_path, cluster=False) as here:
        record = one_run(here, SHORT, 1, expected_latents(1))
    assert record.violations == []
    assert record.struck
    assert len(INVARIANTS) == 6
