"""A run's folder whose files are torn, flipped or made up: its status, its page and what can go are said all the same,
or an error of the farm's own. `make fuzz` runs 10,000 cases; `make test` a few."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.errors import RenderFarmError
from render_farm.farm.control.garbage import find_garbage
from render_farm.farm.run.results import Result, write_results
from render_farm.job import columns
from render_farm.manifest.schema import check_schema
from render_farm.observability.events import EventKind, LogLine, dump_lines
from render_farm.observability.snapshot import RunSnapshot, WorkSnapshot, dump_live
from render_farm.report.page import build_page
from render_farm.report.page_data import page_data
from render_farm.report.run_folder import RunFolderReader, previous_run
from render_farm.report.status import run_status
from render_farm.storage import open_store
from render_farm.storage.layout import RunKeys
from render_farm.storage.lease import HolderWatch, acquire, this_holder
from tests.helpers.fuzzing import arrow_columns, damaged, forget_memory, num_examples, values

QUICK = settings(max_examples=num_examples(40), deadline=None, suppress_health_check=list(HealthCheck))
NOW = datetime(2026, 11, 21, tzinfo=UTC)
RUN = RunKeys(run_id="night")
KINDS = [kind for kind in EventKind if kind]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def events() -> list[LogLine]:
    common = {"level": "info", "job_id": "a", "message": "said", "run_id": "night", "worker": "worker-0.1"}
    known = {"seconds": 1.5, "num_frames": 9, "fps": 24, "width": 32, "height": 32, "helpers": ["worker-1.1"]}
    return [
        LogLine(number=n, time_s=NOW.timestamp() + n, kind=kind, segment=n % 3, values=known, **common)
        for n, kind in enumerate([*KINDS, *KINDS])
    ]


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """Bytes of every object of a run's folder."""
    forget_memory()
    store = open_store("memory://fuzz")
    rows = {"job_id": ["a", "b"], "prompt": ["p", "q"], "deadline": [NOW, None], "owner": ["me", None]}
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink)
    store.write_bytes(RUN.manifest, sink.getvalue())
    document = {"schema": "render_farm.run/1", "run_id": "night", "manifest": "m.parquet", "started_at": "2026-11-21"}
    store.write_bytes(RUN.run, json.dumps({**document, "output": "out", "device": "cpu", "num_jobs": 2}).encode())
    store.write_bytes(RunKeys(run_id="before").run, json.dumps({**document, "started_at": "2026-11-20"}).encode())
    store.write_bytes(RUN.log("1.jsonl"), dump_lines(events()))
    live = RunSnapshot(time_s=NOW.timestamp(), state="running", jobs={"running": 1}, work=(WorkSnapshot(
        worker="worker-0.1", job_id="a", phase="denoise"),))  # fmt: skip
    store.write_bytes(RUN.live, dump_live(live))
    write_results(store, "night", [Result(job_id="a", state="running", segments=3, started_at=NOW)])
    write_results(store, "before", [Result(job_id="a", state="done", segments=3, wall_s=1.0, finished_at=NOW)])
    acquire(store, "night", this_holder())
    return {key: store.read_bytes(key) for key in store.list()}


@st.composite
def made_up(draw, key: str, data: bytes) -> bytes:
    """The same kind of file with other content."""
    if key.endswith(".parquet"):
        names = [*columns()] if key == RUN.manifest else pq.read_schema(io.BytesIO(data)).names
        other = draw(st.dictionaries(st.sampled_from(names), arrow_columns, max_size=6))
        table = pa.table({"job_id": ["a", "b"], "prompt": ["p", "q"], **other})
        if key == RUN.manifest and check_schema(table.schema)[1]:
            return data  # it would have been refused
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()
    lines = [json.loads(line) for line in data.splitlines()]
    for line in lines:
        place = line
        if draw(st.integers(0, 3)) == 0:
            name = draw(st.sampled_from(list(place)))
            if isinstance(place[name], dict) and place[name]:
                place = place[name]
                name = draw(st.sampled_from(list(place)))
            place[name] = draw(values)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def look(store) -> None:
    """What people do with a run's folder. Only the farm's own errors may come out."""
    try:
        folder = RunFolderReader(store, "night").read()
        assert run_status(folder, now_s=NOW.timestamp(), root_uri="out").run_id == "night"
        previous = previous_run(store, folder)
        for before in {None: None, "": previous}.values():
            data = page_data(folder, previous=before, now_s=NOW.timestamp() + 5)
            assert build_page(data)
    except RenderFarmError as error:
        assert str(error)
    try:
        find_garbage(store, HolderWatch(gone_after_s=0.0))  # nobody holds these runs
    except RenderFarmError as error:
        assert str(error)


@pytest.mark.slow
@QUICK
@given(data=st.data())
def test_whatever_a_runs_folder_holds_looking_at_it_ends_well(data, whole):
    forget_memory()
    store = open_store("memory://fuzz")
    for key, content in whole.items():
        store.write_bytes(key, content)
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(list(whole)))
        kind = data.draw(st.sampled_from(["remove", "damage", "damage", "make up", "make up"]))
        if kind == "remove":
            store.delete(key)
        elif kind == "damage" or "/lease/" in key:
            store.write_bytes(key, data.draw(damaged(whole[key])))
        else:
            store.write_bytes(key, data.draw(made_up(key, whole[key])))
    look(store)
