"""`gc` beside a run that starts, and beside one that ends (`render_farm/storage/README.md`), checked by a model: every
interleaving of their store requests. What a run has found or stored is there in the end, and after another `gc`.

`WITHOUT` names the protections, and that the model finds the fault when one is taken out.
"""

from __future__ import annotations

import io
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from render_farm.errors import LeaseHeldError
from render_farm.farm.control import garbage
from render_farm.farm.control.garbage import find_garbage, remove
from render_farm.storage import run_state
from render_farm.storage.checkpoints import SegmentMeta, begin_film, load_film, record_segment, save_segment
from render_farm.storage.done import dump_job
from render_farm.storage.layout import JobKeys, RunKeys, film_key, split_film_key
from render_farm.storage.lease import Holder, HolderWatch, LeaseHandle, LeaseTiming, acquire
from render_farm.storage.process import ProcessId
from render_farm.storage.run_state import JobRow, RunStateWriter, load_run_state
from tests.helpers.interleavings import FAIL, LOSE, Explorer, ModelStore, Objects, Outcome, run, run_alone


class Serial:
    """In place of a pool of threads, so that requests have an order."""

    def __init__(self, max_workers: int) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, work, *items):
        return [work(*each) for each in zip(*items, strict=True)]


@pytest.fixture(autouse=True)
def requests_in_order(monkeypatch):
    for module in (garbage, run_state):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Serial)


class Watch(HolderWatch):
    """Believes every holder that has not given its run back."""

    def held(self, store, run_ids):
        return {run_id for run_id in run_ids if self._sign(store, run_id) is not None}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of one film, as its coordinator, its worker and its store go about it."""

    run_id: str
    film: str
    segments: tuple[int, ...]
    is_interrupted: bool = False
    """After the first segment that it renders; else its film is done in the end."""
    is_held: bool = False
    """It has begun before."""

    def __call__(self, store) -> tuple[int, int]:
        """How many segments it found, and how many there are of the film now."""
        lease = LeaseHandle(store, self.run_id, self._holder, 1, LeaseTiming(), 0.0) if self.is_held else None
        return self.render(store, lease or self.start(store))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{number:032x}" for number in self.segments)

    @property
    def _holder(self) -> Holder:
        return Holder(address="x", process=ProcessId(host="x", pid=1, started=1), token=self.run_id)

    def start(self, store) -> LeaseHandle:
        lease = acquire(store, self.run_id, self._holder)
        data = io.BytesIO()
        pq.write_table(pa.table({"job_id": [split_film_key(self.film)[0]]}), data)
        store.write_bytes(RunKeys(run_id=self.run_id).manifest, data.getvalue())
        self.write(store, "running")
        return lease

    def write(self, store, state: str) -> None:
        job_id, render_key = split_film_key(self.film)
        writer = RunStateWriter(store, self.run_id, load_run_state(store, self.run_id))
        writer.write({job_id: JobRow(state=state, render_key=render_key)})

    def render(self, store, lease: LeaseHandle | None = None) -> tuple[int, int]:
        begin_film(store, self.film, self.keys)
        state = load_film(store, self.film, self.keys, with_earlier=False).state
        num_found = len(state.segments)
        while len(state.segments) < len(self.keys) and not (self.is_interrupted and len(state.segments) > num_found):
            latents = np.full((1, 1, 1, 1, 1), len(state.segments), np.float32)
            record = save_segment(store, state, latents, SegmentMeta(attempt=secrets.token_hex()))
            try:
                state = record_segment(store, state, record)
            except LeaseHeldError:
                state = load_film(store, self.film, self.keys, with_earlier=False).state
        if not self.is_interrupted:
            job_id, render_key = split_film_key(self.film)
            job = {"job_id": job_id, "render_key": render_key, "sha256": "", "files": {}}
            job["segments"] = [record.to_dict() for record in state.segments]
            store.write_bytes(JobKeys(job_id=job_id).job, dump_job(job))
            self.write(store, "done")
        if lease is not None:
            lease.release()
        return num_found, len(state.segments)


FILM = film_key("film", "a" * 12)
START = Run(run_id="start", film=FILM, segments=(1, 2, 3))
END = Run(run_id="end", film=film_key("other", "b" * 12), segments=(4, 5), is_held=True)


def of_no_film(store) -> None:
    """Segments 1 and 2, of a film that is gone."""
    gone = Run(run_id="gone", film=film_key("gone", "c" * 12), segments=(1, 2), is_interrupted=True)
    for _ in gone.segments:
        gone.render(store)
    for key in store.list("_work/gone-cccccccccccc"):
        store.delete(key)


def of_a_changed_row(store) -> None:
    """The same of the film that the row had before it was changed. It was published with either."""
    Run(run_id="start", film=FILM, segments=(1, 2))(store)
    Run(run_id="changed", film=film_key("film", "d" * 12), segments=(7,))(store)


def about_to_end(store) -> None:
    """Another run is at work on its last segment."""
    END.start(store)
    Run(run_id="end", film=END.film, segments=END.segments, is_interrupted=True).render(store)


@dataclass
class Ends:
    """The invariants, at every end."""

    runs: tuple[Run, ...]
    found: Counter[int] = field(default_factory=Counter)
    """Ends by the number of segments that were found by the run that starts."""

    def __call__(self, objects: Objects, outcomes: dict[str, Outcome]) -> None:
        for name, outcome in outcomes.items():
            assert outcome.error is None or outcome.num_faults, f"{name} fails: {outcome.error!r}"
        self.found[outcomes[self.runs[0].run_id].value[0]] += 1
        store = ModelStore(objects=objects)
        self.no_segment_is_lost(store, outcomes, "gc")
        run("again", lambda store: remove(store, find_garbage(store, Watch()), Watch()), store)
        self.no_segment_is_lost(store, outcomes, "another gc")

    def no_segment_is_lost(self, store, outcomes, by: str) -> None:
        for each in self.runs:
            expected = outcomes[each.run_id].value[1]
            there = load_film(store, each.film, each.keys, with_earlier=False)
            assert len(there.latents) >= expected, (
                f"{by} lost a segment of {each.film}: {len(there.latents)} of {expected}, {there.state.problems}"
            )


def explore(*runs: Run, before, shown_before: bool = True, since=(), **faults) -> Counter[int]:
    """`gc` and `runs`. With `shown_before` it has looked before they act, and shown what it found; what is `since` has
    happened after that. `faults` are its."""
    live = ModelStore(objects={})
    for number, act in enumerate(before):
        run_alone(f"before{number}", act, live)
    shown = run_alone("shown", lambda store: find_garbage(store, Watch()), ModelStore(objects=live.objects))
    for number, act in enumerate(since):
        run_alone(f"since{number}", act, live)

    def collect(store) -> int:
        return remove(store, shown if shown_before else find_garbage(store, Watch()), Watch())

    ends = Ends(runs)
    explorer = Explorer({"gc": collect, **{each.run_id: each for each in runs}}, ends, faulty=("gc",), **faults)
    started, number = time.process_time(), explorer.explore(live.objects)
    took_s = time.process_time() - started
    print(f"\n{explorer.num_states} states, {explorer.num_ends} ends, {number:.2e} interleavings, {took_s:.1f} CPU s")
    print(f"segments found by the run that starts: {dict(ends.found)}")
    return ends.found


@pytest.mark.slow
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_run_that_starts_during_gc_keeps_what_it_found_and_what_it_stores(is_interrupted):
    found = explore(replace(START, is_interrupted=is_interrupted), before=[of_no_film])
    assert found[0] and found[2], "it begins early enough to find them, and too late"


@pytest.mark.slow
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_row_that_is_changed_back_during_gc_keeps_what_it_found_and_what_it_stores(is_interrupted):
    found = explore(replace(START, segments=(1, 2), is_interrupted=is_interrupted), before=[of_a_changed_row])
    assert found[0] and found[2]


@pytest.mark.slow
def test_a_run_that_ends_during_gc_keeps_its_segments():
    assert explore(END, before=[of_no_film, about_to_end], shown_before=False)[1]


@pytest.mark.parametrize(
    "is_interrupted", [pytest.param(False, marks=pytest.mark.long), pytest.param(True, marks=pytest.mark.slow)]
)
def test_one_run_that_starts_and_one_that_ends_during_gc_keep_their_segments(is_interrupted):
    start = replace(START, segments=(1, 2), is_interrupted=is_interrupted)
    found = explore(start, END, before=[of_no_film], since=[about_to_end])
    assert found[0] and found[2], "it begins early enough to find them, and too late"


@pytest.mark.slow
def test_gc_puts_back_what_it_has_taken_when_a_request_fails():
    found = explore(replace(START, is_interrupted=True), before=[of_no_film], num_faults=1, faults=(FAIL, LOSE))
    assert found[2]


# --- the model finds a fault when a protection is taken out ---


def _take_nothing_away(patch) -> None:
    patch.setattr(garbage, "_says_what_is_there", lambda key: False)


def _put_nothing_back(patch) -> None:
    patch.setattr(garbage, "_put_back", lambda store, taken, is_needed: None)


def _remove_lists_with_their_folders(patch) -> None:
    patch.setattr(garbage, "film_of_manifest", lambda key: None)


def _remove_what_was_created_since(patch) -> None:
    look, says = garbage._look, garbage._says_what_is_there

    def look_and_forget(store, watch, taken, **options):
        patch.setattr(garbage, "_says_what_is_there", (lambda key: False) if taken else says)
        return look(store, watch, taken, **options)

    patch.setattr(garbage, "_look", look_and_forget)


def _do_not_read_what_is_done(patch) -> None:
    patch.setattr(garbage, "_latents_of_done", lambda store, job_id: set())


NO_FILM = partial(explore, replace(START, is_interrupted=True), before=[of_no_film])
CHANGED = partial(explore, replace(START, segments=(1, 2), is_interrupted=True), before=[of_a_changed_row])
ENDING = partial(explore, END, before=[of_no_film, about_to_end], shown_before=False)
WITHOUT = {
    "records are not taken away before gc looks again": (_take_nothing_away, NO_FILM),
    "what is needed by then is not put back": (_put_nothing_back, NO_FILM),
    "lists of films are removed with their folders": (_remove_lists_with_their_folders, CHANGED),
    "a record that was created since is removed": (_remove_what_was_created_since, NO_FILM),
    "films that are done keep no segments": (_do_not_read_what_is_done, ENDING),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_the_model_finds_the_fault_when_a_protection_is_taken_out(monkeypatch, name):
    take_out, scene = WITHOUT[name]
    take_out(monkeypatch)
    with pytest.raises(AssertionError, match="lost a segment") as found:
        scene()
    print(str(found.value).partition("\n")[0])
