"""The durable state of a run: what was written is read, torn and missing objects are named, one writer at a time."""

from __future__ import annotations

import pytest

from render_farm.errors import LeaseHeldError, StorageError
from render_farm.storage import checked_json, open_store
from render_farm.storage.layout import RunKeys
from render_farm.storage.run_state import SCHEMA, SNAPSHOT_EVERY, JobRow, RunControl, RunStateWriter, load_run_state

KEYS = RunKeys(run_id="night")
DONE = JobRow(state="done", render_key="0" * 12, segments_done=3, segments=3, sha256="ab", gpu_s=1.5)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def writer(store) -> RunStateWriter:
    return RunStateWriter(store, "night", load_run_state(store, "night"))


def test_nothing_is_known_of_a_run_that_has_not_begun(store):
    state = load_run_state(store, "night")
    assert (state.begun, state.jobs, state.problems) == (False, {}, ())


def test_what_changed_last_counts_and_the_rest_stays(store):
    first = writer(store)
    first.write({"a": JobRow(state="running", segments_done=1), "b": DONE})
    first.write({"a": JobRow(state="failed", error_class="X", message="why")}, RunControl(paused=True))
    state = load_run_state(store, "night")
    assert state.jobs == {"a": JobRow(state="failed", error_class="X", message="why"), "b": DONE}
    assert state.control == RunControl(paused=True)
    second = writer(store)
    control = RunControl(quarantined=(("gpu-7", "3 faults"),), machines={"gpu-7": ("node-id",)})
    second.write({"c": DONE}, control)
    assert load_run_state(store, "night").control == control
    assert sorted(load_run_state(store, "night").jobs) == ["a", "b", "c"]


@pytest.mark.parametrize("spent", [-1.0, True, "much", float("inf"), None])
def test_what_a_run_has_cost_is_read_where_it_is_a_number(store, spent):
    writer(store).write({}, RunControl(spent=12.5))
    assert load_run_state(store, "night").control.spent == 12.5
    assert RunControl.from_dict({"paused": False, "quarantined": []}).spent == 0.0, "written before it was counted"
    with pytest.raises(ValueError, match="malformed cost"):
        RunControl.from_dict({"paused": False, "quarantined": [], "spent": spent})


@pytest.mark.slow
def test_snapshots_bound_what_is_read_and_hold_everything(store):
    many = writer(store)
    for number in range(5 * SNAPSHOT_EVERY):
        many.write({f"job-{number}": DONE})
    assert len(store.list(KEYS.states)) <= 2 * (SNAPSHOT_EVERY + 1)
    state = load_run_state(store, "night")
    assert len(state.jobs) == 5 * SNAPSHOT_EVERY
    assert state.problems == ()


@pytest.mark.slow
def test_many_short_lives_bound_what_is_read_as_one_long_one_does(store):
    for life in range(SNAPSHOT_EVERY):
        short = writer(store)
        for number in range(5):
            short.write({f"job-{life}-{number}": DONE})
    assert len(store.list(KEYS.states)) <= 2 * (SNAPSHOT_EVERY + 1)
    state = load_run_state(store, "night")
    assert (len(state.jobs), state.problems) == (5 * SNAPSHOT_EVERY, ())


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"schema": "other"}', "half", "flip"])
def test_a_torn_last_write_is_recognised_and_what_came_before_counts(store, damage):
    torn = writer(store)
    torn.write({"a": DONE})
    torn.write({"a": JobRow(state="failed"), "b": DONE})
    key = KEYS.state(2)
    whole = store.read_bytes(key)
    if damage == "half":
        damage = whole[: len(whole) // 2]
    elif damage == "flip":
        damage = whole.replace(b"failed", b"failee")
    store.write_bytes(key, damage)
    state = load_run_state(store, "night")
    assert state.jobs == {"a": DONE}
    assert "00000002.json is skipped" in state.problems[0]
    writer(store).write({"c": DONE})
    assert sorted(load_run_state(store, "night").jobs) == ["a", "c"]


@pytest.mark.slow
def test_a_torn_snapshot_falls_back_on_the_one_before(store):
    many = writer(store)
    for number in range(3 * SNAPSHOT_EVERY):
        many.write({f"job-{number}": DONE})
    snapshots = [key for key in store.list(KEYS.states) if b'"snapshot":true' in store.read_bytes(key)]
    assert len(snapshots) == 2
    store.write_bytes(snapshots[-1], b"torn")
    state = load_run_state(store, "night")
    assert len(state.jobs) == 3 * SNAPSHOT_EVERY - 1  # all but the row that only the torn one had
    assert len(state.problems) == 1


def test_a_missing_object_is_named(store):
    gap = writer(store)
    for name in "abc":
        gap.write({name: DONE})
    store.delete(KEYS.state(2))
    state = load_run_state(store, "night")
    assert sorted(state.jobs) == ["a", "c"]
    assert "00000002.json is missing" in state.problems[0]


def test_the_second_of_two_writers_is_told(store):
    first, second = writer(store), writer(store)
    first.write({"a": DONE})
    with pytest.raises(LeaseHeldError, match="written by somebody else"):
        second.write({"b": DONE})
    assert sorted(load_run_state(store, "night").jobs) == ["a"]


def test_a_write_that_failed_after_all_was_done_is_nobody_elses(store, monkeypatch):
    mine = writer(store)
    create = type(store).create

    def fail(*arguments):
        create(*arguments)
        raise StorageError("the answer was lost")

    rows = {name: JobRow(state="done") for name in "ab"}
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "create", fail)
        for _ in range(2):
            with pytest.raises(StorageError):
                mine.write({"a": rows["a"]}, RunControl(paused=True))
    mine.write(rows)
    assert (mine.state.number, load_run_state(store, "night").jobs) == (2, rows)
    assert load_run_state(store, "night").control.paused


@pytest.mark.parametrize(
    "row",
    [{"state": 1}, {"unknown": "x"}, {"segments_done": "3"}, {"segments_done": True}, {"taken_out": 1}, [], "x", None],
)
def test_rows_of_the_wrong_kind_are_refused(row):
    with pytest.raises(ValueError, match="row"):
        JobRow.from_dict(row)


def test_existing_objects_are_found_among_many(store):
    for name in ("a/1", "a/2", "b/1"):
        store.write_bytes(name, b"x")
    assert store.sizes(["a/1", "a/3", "a/1/below", "b/1", "c/9"]) == {"a/1": 1, "b/1": 1}
    assert store.sizes([]) == {}


def test_a_row_that_cannot_be_read_is_skipped_alone(store):
    """As an earlier version wrote it, whose ids of bad rows were not checked."""
    content = {"run_id": "night", "number": 1, "snapshot": False, "control": {"paused": False, "quarantined": []}}
    content["jobs"] = {
        "bad id!": {"state": "failed"},
        "b": {"state": "cancelled", "taken_out": True},
        "c": {"priority": -1},
    }
    store.create(KEYS.state(1), checked_json.dump(content, schema=SCHEMA))
    state = load_run_state(store, "night")
    assert state.jobs == {"b": JobRow(state="cancelled", taken_out=True)}
    assert len(state.problems) == 2 and "bad id!" in state.problems[0]


def test_what_could_not_be_read_back_is_not_written(store):
    writer(store).write({"bad id!": DONE, "b": DONE, "c": JobRow(priority=2**40)})
    state = load_run_state(store, "night")
    assert (state.jobs, state.problems) == ({"b": DONE}, ())
