"""The trace of a run, as Chrome and Perfetto read it."""

from __future__ import annotations

import json
import time

from render_farm.report.run_folder import RunFolderReader
from render_farm.report.trace import chrome_trace
from render_farm.storage.open import open_store
from tests.helpers.synthetic_run import START_S, write_run


def test_every_segment_is_a_slice_on_its_workers_track(tmp_path):
    write_run(tmp_path, num_jobs=9, num_films=0)
    folder = RunFolderReader(open_store(tmp_path), "night").read()
    document = json.loads(json.dumps(chrome_trace(folder, now_s=time.time())))
    events = document["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    slices = [event for event in events if event["ph"] == "X"]
    assert set(names) >= {event["tid"] for event in slices}
    segments = [event for event in slices if event["cat"] == "segment"]
    assert {event["args"]["job_id"] for event in segments} <= {row["job_id"] for row in folder.results}
    assert len(segments) >= 3 * 8
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in slices)
    assert document["otherData"] == {"run_id": "night", "output": folder.document["output"], "start_unix_s": START_S}
    starts = [line for line in folder.events if line.kind == "segment_started"]
    first = min(segments, key=lambda event: event["ts"])
    assert names[first["tid"]] == starts[0].worker


def test_a_run_without_events_has_an_empty_trace(tmp_path):
    write_run(tmp_path, num_jobs=1, num_films=0)
    folder = RunFolderReader(open_store(tmp_path), "night").read(with_events=False)
    assert [event["ph"] for event in chrome_trace(folder, now_s=0.0)["traceEvents"]] == ["M", "M"]
