"""The chaos suite in short: one run in which a worker is killed while a fifth of the store's requests fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.audit import INVARIANTS
from tests.chaos.faults import BY_LETTER, FAULTS, SHORT
from tests.chaos.one_run import Undisturbed, one_run
from tests.chaos.records import Record, next_run, results_files
from tests.chaos.world import Place, world


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_killed_in_a_storm_breaks_no_invariant(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # restored afterwards: the run sets them
    with world(tmp_path, Place.PRIVATE) as here:
        record = one_run(here, SHORT, 1, Undisturbed())
    assert record.violations == []
    assert record.struck
    assert len(INVARIANTS) == 7


def test_the_readme_lists_every_fault():
    table = [line for line in Path(__file__).with_name("README.md").read_text().splitlines() if line.startswith("|")]
    listed = {letter for line in table for letter in line.split("|")[1].split()}
    assert len(BY_LETTER) == len(FAULTS)
    assert set(BY_LETTER) <= listed


def test_every_fault_gets_its_share_of_the_runs():
    def record(letter: str, seed: int, struck: str) -> Record:
        return Record(
            fault=letter, seed=seed, struck=struck, starts=1, exit_code=0, rendered_again=0, seconds=1.0, violations=[]
        )

    faults = [BY_LETTER["a"], BY_LETTER["c"]]
    records = [record("a", 0, "x"), record("c", 0, "")]
    assert next_run(records, faults, 0, 1) == ("c", 1)  # one that struck nothing counts for nothing
    records.append(record("c", 1, "x"))
    assert next_run(records, faults, 0, 1) == ("", 0)
    assert next_run(records, faults, 5, 2) == ("a", 5)


def test_films_that_begin_alike_count_by_themselves(tmp_path):
    for name in ("2026-11-30.jsonl", "2026-11-30-shared.jsonl"):
        (tmp_path / name).touch()
    names = [[path.name for path in results_files(tmp_path, shared=shared)] for shared in (False, True)]
    assert names == [["2026-11-30.jsonl"], ["2026-11-30-shared.jsonl"]]
    assert results_files(tmp_path / "absent", shared=False) == []
