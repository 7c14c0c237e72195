"""State files that are torn, flipped, or made up with a right checksum: a right answer or an error of the farm's own.

`make fuzz` runs 10,000 cases of each; `make test` a few.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.errors import RenderFarmError
from render_farm.farm.control.stored import apply_to_state
from render_farm.farm.run.results import Result
from render_farm.farm.run.rows import result_of, row_of
from render_farm.storage import checked_json, open_store
from render_farm.storage.checkpoints import SegmentMeta, begin_film, load_film, record_segment, save_segment
from render_farm.storage.claims import Claim, claim_job, read_claim
from render_farm.storage.done import read_done
from render_farm.storage.layout import ClaimKeys, FilmKeys, JobKeys, RunKeys, film_key
from render_farm.storage.lease import Lease, acquire, read_lease, this_holder
from render_farm.storage.mailbox import Request, Verb, post, take_requests
from render_farm.storage.publish import Attempt, finish_publish, pending_commit, publish
from render_farm.storage.run_state import JobRow, RunControl, RunStateWriter, StoredRun, load_run_state
from tests.helpers.fuzzing import damaged, forget_memory, num_examples, values
from tests.helpers.segments import save_as_before


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """A damaged file is logged, thousands of times here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


QUICK = settings(max_examples=num_examples(60), deadline=None, suppress_health_check=list(HealthCheck))
FILM = film_key("job", "a" * 12)
LATENTS = np.ones((1, 2, 3, 2, 2), np.float32)
RUN = RunKeys(run_id="night")


def fill(store, tmp_path) -> None:
    """One object of each kind, as the farm writes it."""
    begin_film(store, FILM, ("0" * 32, "1" * 32, "2" * 32))
    save_as_before(store, FILM, 0, LATENTS)
    state = load_film(store, FILM).state
    for number in range(2):
        state = record_segment(
            store, state, save_segment(store, state, LATENTS, SegmentMeta(attempt=f"x{number}", worker="w"))
        )
    (tmp_path / "v").write_bytes(b"video")
    publish(store, FILM, "attempt", {"video.mp4": tmp_path / "v"}, {"segments": [], "num_frames": 3})
    writer = RunStateWriter(store, "night", StoredRun())
    writer.write({"job": JobRow(state="done", segments=2, gpu_s=1.5)}, RunControl(quarantined=(("h", "why"),)))
    acquire(store, "night", this_holder())
    claim_job(store, "night", FILM)
    post(store, "night", Request(verb=Verb.CANCEL, jobs=("job",), by="me"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of every object, and the keys of the JSON ones."""
    folder = tmp_path_factory.mktemp("fuzz")
    store = open_store(folder / "out")
    fill(store, folder)
    found = {key: store.read_bytes(key) for key in store.list()}
    return found, [key for key in found if key.endswith(".json")]


@st.composite
def made_up(draw, data: bytes) -> bytes:
    """A document of the same schema whose checksum is right and whose content is not."""
    body = json.loads(data)
    schema = body.pop("schema")
    body.pop("checksum")
    for _ in range(draw(st.integers(1, 3))):
        place = body
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.booleans()):
                place[key] = draw(values)
            else:
                del place[key]
            break
    return checked_json.dump(body, schema=schema)


def read_everything(store, value: str) -> None:
    """What a farm does with a tree that it finds. Only its own errors may come out."""

    def attempt(work, kinds: tuple[type, ...]) -> None:
        try:
            found = work()
        except RenderFarmError as error:
            assert str(error)
        else:
            assert isinstance(found, kinds), found

    attempt(lambda: load_film(store, FILM).latents, (tuple,))
    attempt(lambda: read_done(store, "job"), (dict, type(None)))
    attempt(lambda: pending_commit(store, FILM), (Attempt, type(None)))
    attempt(lambda: finish_publish(store, FILM, "p"), (dict,))
    attempt(lambda: read_lease(store, "night"), (Lease, type(None)))
    attempt(lambda: read_claim(store, "job"), (Claim, type(None)))
    attempt(lambda: take_requests(store, "night"), (list,))
    state = load_run_state(store, "night")
    for job_id, row in state.jobs.items():
        result = result_of(job_id, row, "uri")
        assert isinstance(result, Result)
        row_of(result, render_key=row.render_key, segments_done=row.segments_done, before=row)
    for verb in Verb:
        apply_to_state(copy.deepcopy(state), "night", Request(verb=verb, value=value), lambda: {"job"})


@pytest.mark.slow
@QUICK
@given(data=st.data())
def test_whatever_the_state_files_hold_reading_them_ends_well(data, whole):
    found, documents_ = whole
    store = open_store("memory://fuzz")
    forget_memory()
    for key, content in found.items():
        store.write_bytes(key, content)
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            key = data.draw(st.sampled_from(documents_))
            store.write_bytes(key, data.draw(made_up(found[key])))
        else:
            key = data.draw(st.sampled_from(list(found)))
            if data.draw(st.integers(0, 9)) == 0:
                store.delete(key)
            else:
                store.write_bytes(key, data.draw(damaged(found[key])))
    read_everything(store, data.draw(st.sampled_from(["5", "²", "9" * 5000, "-1", ""]) | st.text(max_size=5)))


def test_the_unharmed_tree_reads_as_it_was_written(whole):
    store = open_store("memory://fuzz")
    forget_memory()
    for key, content in whole[0].items():
        store.write_bytes(key, content)
    read_everything(store, "5")
    assert load_run_state(store, "night").jobs["job"].gpu_s == 1.5
    assert store.exists(JobKeys(job_id="job").job)
    assert store.exists(ClaimKeys(job_id="job").claim(1))
    assert store.exists(FilmKeys(film=FILM).commit)
    assert take_requests(store, "night")[0][1].jobs == ("job",)
