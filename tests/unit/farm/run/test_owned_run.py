"""What a run's folder says while it is rendered, as its coordinator writes it: live.json, previews, errors at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from render_farm.errors import LeaseHeldError
from render_farm.farm.run.film_task import PreviewNews
from render_farm.farm.run.owned_run import acquire_run
from render_farm.farm.run.progress import RunProgress
from render_farm.farm.run.results import Result
from render_farm.farm.run.spec import RunSpec
from render_farm.observability.events import EventKind
from render_farm.observability.snapshot import parse_live
from render_farm.report.run_folder import RunFolderReader
from render_farm.report.status import run_status
from render_farm.scheduling.states import State
from render_farm.storage import lease
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import LeaseTiming, this_holder
from render_farm.storage.open import open_store
from render_farm.storage.run_state import JobRow, RunControl, RunStateWriter, load_run_state
from tests.helpers.film_entries import entry

_DIES_WITH_THE_LEASE = """
import sys
from render_farm.storage.lease import acquire, this_holder
from render_farm.storage.open import open_store
acquire(open_store(sys.argv[1]), "night", this_holder())
"""


@pytest.fixture
def run(tmp_path):
    spec = RunSpec(run_id="night", output=str(tmp_path), document=b'{"run_id": "night", "device": "cuda"}')
    run = acquire_run(spec, this_holder(), LeaseTiming(), on_lost=lambda error: None)
    for job_id in ("a", "b"):
        run.progress.add(entry(job_id, tmp_path))
    run.progress.state = State.RUNNING
    yield run
    run.lease.stop()


def test_a_run_says_how_it_goes_until_it_is_over(run, tmp_path):
    record, reader = run.progress, RunFolderReader(open_store(tmp_path), "night")
    record.started("a", "w-0.1", "denoise", helpers=("w-1.2",))
    record.stepped("a", 0, 3, 8)
    run.control = RunControl(paused=True)
    snapshot = record.snapshot(num_workers=2, workers_busy=2, paused=True, quarantined={"gpu-7": "set aside"})
    asyncio.run(run.write(snapshot))
    assert parse_live(open_store(tmp_path).read_bytes(RunKeys(run_id="night").live)).work == snapshot.work
    now = run_status(reader.read(), now_s=time.time(), root_uri="out")
    assert (now.is_live, now.state, now.paused, now.quarantined) == (True, "running", True, {"gpu-7": "set aside"})
    assert (now.num_workers, now.workers_busy, now.device) == (2, 2, "cuda")
    (work,) = now.workers
    assert (work.worker, work.helpers, work.doing) == ("w-0.1", ("w-1.2",), "segment 1/2 step 3/8")
    asyncio.run(run.give_back())
    assert not open_store(tmp_path).exists(RunKeys(run_id="night").live)
    assert not run_status(reader.read(), now_s=time.time(), root_uri="out").is_live


def test_a_coordinator_that_was_frozen_writes_nothing_over_the_results_of_the_one_that_took_over(
    run, tmp_path, monkeypatch
):
    store, keys = run.progress.store, RunKeys(run_id="night")
    run.lease.stop(release=False)  # frozen: its renewals, too
    asyncio.run(run.write())
    spec = replace(run.progress.spec, document=b'{"run_id": "night"}', manifest=b"m")
    timing = LeaseTiming(gone_after_s=0.3, poll_every_s=0.1)
    other = acquire_run(spec, this_holder(), timing, on_lost=lambda error: None)
    other.progress.add(entry("other", tmp_path))
    asyncio.run(other.give_back())
    now_s = lease._now_s()
    monkeypatch.setattr(lease, "_now_s", lambda: now_s + 60.0)
    before = {key: store.read_bytes(key) for key in store.list(keys.folder)}
    run.progress.started("a", "w-0.1", "denoise")
    run.progress.log.add("late", level="error")
    with pytest.raises(LeaseHeldError, match="taken over"):
        asyncio.run(run.write(last=True))
    asyncio.run(run.give_back())
    assert {key: store.read_bytes(key) for key in store.list(keys.folder)} == before


def test_a_run_whose_holder_died_is_not_shown_as_if_it_were_live(run, tmp_path):
    record, store = run.progress, open_store(tmp_path)
    record.started("a", "w-0.1", "denoise")
    asyncio.run(run.write(record.snapshot(num_workers=2, workers_busy=2)))
    run.lease.stop()
    subprocess.run([sys.executable, "-c", _DIES_WITH_THE_LEASE, str(tmp_path)], check=True)
    now = run_status(RunFolderReader(store, "night").read(), now_s=time.time(), root_uri="out")
    assert (now.is_live, now.eta_s, now.workers) == (False, None, [])
    assert now.note.startswith("nobody renders it now")


def test_an_error_and_what_can_be_watched_are_told(run, tmp_path):
    reader = RunFolderReader(open_store(tmp_path), "night")
    asyncio.run(run.write())
    num_lines = len(reader.events())
    run.progress.previewed(
        PreviewNews(run_id="night", job_id="a", work_key="a-0123456789ab", num_segments=1, num_frames=21)
    )
    run.progress.previewed(
        PreviewNews(run_id="night", job_id="b", work_key="b-0123456789ab", problem="the disk is full")
    )
    asyncio.run(run.write())
    assert len(reader.events()) == num_lines  # it is written every 20 s
    run.progress.log.add("host gpu-7 is quarantined", level="error")
    asyncio.run(run.write())  # but an error at once
    preview, problem, error = reader.events()[num_lines:]
    assert (preview.kind, preview.values["folder"], preview.values["num_frames"]) == (
        EventKind.PREVIEW_READY,
        "a-0123456789ab",
        21,
    )
    assert (problem.level, problem.message) == ("warning", "its preview ends: the disk is full")
    assert error.level == "error"


def test_a_store_where_the_last_writer_wins_is_said_once(run, tmp_path):
    other = RunProgress(run.progress.spec, run.progress.store)
    for job_id in ("c", "d"):
        film = entry(job_id, tmp_path)
        other.add(replace(film, task=replace(film.task, create_only=False)))
    [line] = other.log.after(0)
    assert (line.level, line.message.startswith(str(tmp_path))) == ("warning", True)
    assert "does not honour create-only writes" in line.message


def test_a_job_that_stays_cancelled_keeps_what_is_known_of_it(tmp_path):
    store, key = open_store(tmp_path), "0123456789ab"
    known = JobRow(state="waiting", render_key=key, segments=4, segments_done=3, gpu_s=7.5, taken_out=True)
    keys = {"same": key, "changed": "ba9876543210"}
    RunStateWriter(store, "night", load_run_state(store, "night")).write(dict.fromkeys(keys, known))
    ended = tuple(Result(job_id=job_id, state="cancelled", message="ugly", segments=4) for job_id in keys)
    spec = RunSpec(run_id="night", output=str(tmp_path), ended=ended, render_keys=keys)
    acquire_run(spec, this_holder(), LeaseTiming(), on_lost=lambda error: None).lease.stop()
    rows = load_run_state(store, "night").jobs
    assert rows["same"] == replace(known, state="cancelled", message="ugly")
    assert (rows["changed"].render_key, rows["changed"].segments_done) == ("ba9876543210", 0)
    assert rows["changed"].taken_out


def test_what_the_cluster_has_cost_is_kept_from_start_to_start(run, tmp_path):
    store = open_store(tmp_path)
    run.spent += 1.25
    run.progress.mark_dirty(["a"])
    asyncio.run(run.write())
    assert load_run_state(store, "night").control.spent == 1.25, "with what else has changed"
    run.spent += 0.5
    asyncio.run(run.write())
    assert load_run_state(store, "night").control.spent == 1.25, "not every few seconds"
    asyncio.run(run.give_back())
    assert load_run_state(store, "night").control.spent == 1.75
    again = acquire_run(run.progress.spec, this_holder(), LeaseTiming(), on_lost=lambda error: None)
    again.lease.stop()
    assert again.spent == 1.75
